package main

import (
	"bytes"
	"fmt"
	"strconv"
)

// cutter returns how long the part is that the body of a stream begins with, 0 when it
// is not whole.
type cutter func(b []byte) int

// event cuts a stream of SSE: an event ends with an empty line.
func event(b []byte) int {
	if end := bytes.Index(b, []byte("\n\n")); end >= 0 {
		return end + 2
	}
	return 0
}

// parts cuts the body of an answer that goes on.
type parts struct {
	cut     cutter
	chunked bool
	raw     []byte // the beginning of a chunk
	rest    []byte // the beginning of a part
}

// read takes what has come, and hands on each part that is whole for as long as more
// are wanted. It reports whether the body has ended.
func (p *parts) read(b []byte, part func(b []byte) (more bool)) (ended bool, err error) {
	if !p.chunked {
		_, err := p.take(b, part)
		return false, err
	}
	if len(p.raw) > 0 {
		p.raw = append(p.raw, b...)
		b = p.raw
	}
	for {
		data, n, last, err := parseChunk(b)
		if err != nil || last {
			return last, err
		}
		if n == 0 {
			p.raw, err = kept(b)
			return false, err
		}
		b = b[n:]
		if more, err := p.take(data, part); err != nil || !more {
			return false, err
		}
	}
}

// take is read without chunks.
func (p *parts) take(b []byte, part func(b []byte) (more bool)) (more bool, err error) {
	if len(p.rest) > 0 {
		p.rest = append(p.rest, b...)
		b = p.rest
	}
	for {
		n := p.cut(b)
		if n == 0 {
			p.rest, err = kept(b)
			return true, err
		}
		if !part(b[:n]) {
			return false, nil
		}
		b = b[n:]
	}
}

// kept returns a copy of the beginning of something.
func kept(b []byte) ([]byte, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("%w: longer than %d bytes", errMalformed, maxAnswer)
	}
	return append([]byte(nil), b...), nil
}

// sse makes of a dialect that of an EventSource.
func sse(d dialect) *dialect {
	d.cut = event
	d.position = func(a *answer, _ int) string { return string(eventField(a.body, "id")) }
	d.woken = func(a *answer) bool {
		// Comet's streams begin by naming their session.
		return eventField(a.body, "data") != nil && string(eventField(a.body, "event")) != "comet-session"
	}
	d.messages = func(a *answer) ([]int, bool, error) {
		if string(eventField(a.body, "event")) == "comet-missed" {
			return nil, true, nil
		}
		number, err := strconv.Atoi(string(eventField(a.body, "data")))
		return []int{number}, false, err
	}
	return &d
}

// eventField returns the value of a line of an event, nil when there is no such line.
func eventField(event []byte, name string) []byte {
	for line := range bytes.Lines(event) {
		if value, ok := field(line, name); ok {
			return value
		}
	}
	return nil
}
