package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// maxAnswer bounds what one answer may have, so that a server that sends for ever
// is told from one that answers.
const maxAnswer = 16 << 20

// errMalformed is returned for bytes that are no HTTP/1 answer.
var errMalformed = errors.New("the answer is not HTTP")

// answer is what came back for a request.
type answer struct {
	status int
	body   []byte // valid until the function that was given the answer returns
	part   bool   // the body is a part of a stream, which goes on
	close  bool   // the server closes the connection after it
	err    error  // no whole answer came; nothing else is then of use

	head   []byte      // the lines of the header, from an HTTP/1 answer that was parsed here
	header http.Header // the header, from net/http
}

// get returns the value of a header field, "" when the answer has none.
func (a *answer) get(name string) string {
	if a.header != nil {
		return a.header.Get(name)
	}
	for rest := a.head; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if value, ok := field(line, name); ok {
			return string(value)
		}
	}
	return ""
}

// field returns the value of a header line when it is the field name.
func field(line []byte, name string) ([]byte, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.TrimSpace(line[len(name)+1:]), true
}

// parseAnswer reads the first answer in b, an interim one (1xx) left out. It returns
// how many bytes that took, 0 when more are to come. With eof no more will: an answer
// that says no length ends there.
//
// It knows what answers to GET and POST may look like and no more: these are the only
// requests that are sent.
func parseAnswer(b []byte, eof bool) (a answer, n int, err error) {
	a, n, err = parseHead(b)
	if err != nil || n == 0 {
		return answer{}, 0, err
	}
	length, chunked, err := a.framing()
	switch {
	case err != nil:
		return answer{}, 0, err
	case a.status == http.StatusNoContent || a.status == http.StatusNotModified:
		return a, n, nil
	case chunked:
		body, m, err := parseChunks(b[n:])
		if err != nil || m == 0 {
			return answer{}, 0, err
		}
		a.body = body
		return a, n + m, nil
	case length >= 0:
		if len(b)-n < length {
			return answer{}, 0, nil
		}
		a.body = b[n : n+length]
		return a, n + length, nil
	case eof:
		a.body, a.close = b[n:], true
		return a, len(b), nil
	}
	return answer{}, 0, nil
}

// parseHead reads what parseAnswer does up to the body.
func parseHead(b []byte) (a answer, n int, err error) {
	for a.status < 200 {
		end := bytes.Index(b[n:], []byte("\r\n\r\n"))
		if end < 0 {
			if !bytes.HasPrefix(b[n:], []byte("HTTP/1."[:min(len(b)-n, 7)])) {
				return answer{}, 0, fmt.Errorf("%w: %.40q", errMalformed, b[n:])
			}
			return answer{}, 0, nil
		}
		status, head, _ := bytes.Cut(b[n:n+end+2], []byte("\r\n"))
		if a, err = parseStatus(status); err != nil {
			return answer{}, 0, err
		}
		a.head = head
		n += end + 4
	}
	return a, n, nil
}

// parseStatus reads a status line, such as "HTTP/1.1 200 OK".
func parseStatus(line []byte) (answer, error) {
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return answer{}, fmt.Errorf("%w: %.40q", errMalformed, line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil || status < 100 || len(line) > 12 && line[12] != ' ' {
		return answer{}, fmt.Errorf("%w: %.40q", errMalformed, line)
	}
	return answer{status: status, close: line[7] == '0'}, nil
}

// framing reads from the header how the body ends, and whether the connection does
// with it. length is -1 when the header says none.
func (a *answer) framing() (length int, chunked bool, err error) {
	length = -1
	for rest := a.head; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if value, ok := field(line, "Content-Length"); ok {
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > maxAnswer {
				return 0, false, fmt.Errorf("%w: Content-Length %.40q", errMalformed, value)
			}
		} else if value, ok := field(line, "Transfer-Encoding"); ok {
			chunked = bytes.EqualFold(value, []byte("chunked"))
		} else if value, ok := field(line, "Connection"); ok {
			for option := range bytes.SplitSeq(value, []byte(",")) {
				switch option = bytes.TrimSpace(option); {
				case bytes.EqualFold(option, []byte("close")):
					a.close = true
				case bytes.EqualFold(option, []byte("keep-alive")):
					a.close = false
				}
			}
		}
	}
	return length, chunked, nil
}

// parseChunks reads a chunked body, its trailer included, and returns how many bytes
// that took: 0 when more are to come.
func parseChunks(b []byte) (body []byte, n int, err error) {
	for {
		data, m, last, err := parseChunk(b[n:])
		if err != nil || m == 0 {
			return nil, 0, err
		}
		n += m
		if last {
			return body, n, nil
		}
		body = append(body, data...)
	}
}

// parseChunk reads the first chunk in b, the last one with the trailer, and returns how
// many bytes that took: 0 when more are to come.
func parseChunk(b []byte) (data []byte, n int, last bool, err error) {
	line, _, whole := bytes.Cut(b, []byte("\r\n"))
	if !whole {
		return nil, 0, false, nil
	}
	number, _, _ := bytes.Cut(line, []byte(";"))
	size, err := strconv.ParseUint(string(bytes.TrimSpace(number)), 16, 31)
	if err != nil || size > maxAnswer {
		return nil, 0, false, fmt.Errorf("%w: a chunk of %.40q bytes", errMalformed, number)
	}
	n = len(line) + 2
	if size > 0 {
		if uint64(len(b)-n) < size+2 {
			return nil, 0, false, nil
		}
		return b[n : n+int(size)], n + int(size) + 2, false, nil
	}
	for {
		line, _, whole := bytes.Cut(b[n:], []byte("\r\n"))
		if !whole {
			return nil, 0, false, nil
		}
		n += len(line) + 2
		if len(line) == 0 {
			return nil, n, true, nil
		}
	}
}
