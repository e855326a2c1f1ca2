package caddymodule

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/park"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

func (k *parking) stream(w http.ResponseWriter, r *http.Request, a asked) (goroutineHold, error) {
	c, ok := candidateOf(w, r, a.bodySize)
	if !ok {
		return onGoroutine{}.stream(w, r, a)
	}
	p := &parkedStream{cursor: a.first.Cursor, missed: a.first.Missed != nil}
	p.draw(c, r, a)
	if err := p.begin(&a, r, p); err != nil {
		return nil, err
	}
	err := k.take(c, r, a, &p.onWire, p.park)
	if err != nil {
		p.over()
	}
	return nil, err
}

// parkedStream is a stream whose connection is parked.
type parkedStream struct {
	stream
	onWire

	// Not guarded: one part at a time is written.
	part      *part        // that is being written
	cursor    store.Cursor // in its header
	missed    bool         // likewise
	begun     bool         // its header was sent
	listening bool         // to what comes over a WebSocket
}

// park parks the connection, and has the stream begin.
func (p *parkedStream) park(home *park.Home) {
	if err := p.conn.Park(p, home, p.limit()); err != nil {
		p.refuse(&p.held, p.over(), err)
		return
	}
	p.open()
}

// head returns what is known of the header.
func (p *parkedStream) head() answerHead {
	status := http.StatusOK
	if p.socket != nil {
		status = http.StatusSwitchingProtocols
	}
	return answerHead{status: status, cursor: p.cursor.String(), missed: p.missed}
}

func (p *parkedStream) poke() { p.conn.Post(p) }

// Do writes what there is to write. It implements park.Task.
func (p *parkedStream) Do(scratch *park.Scratch) {
	next, ok := p.next()
	if !ok {
		return
	}
	p.part = &next
	chunked := p.minor > 0 && p.socket == nil
	b := scratch.Bytes[:0]
	if !p.begun {
		p.begun = true
		switch {
		case p.socket != nil:
			b = p.appendHead(b, p.head(), p.fields(), false)
			b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
			b = appendHeader(b, headerAccept, p.socket.accept)
		case chunked:
			b = p.appendHead(b, p.head(), p.fields(), p.last)
			b = append(b, "Transfer-Encoding: chunked\r\n"...)
		default: // the end of the stream is that of the connection
			b = p.appendHead(b, p.head(), p.fields(), true)
		}
		b = append(b, "\r\n"...)
	}
	end := ""
	if chunked && next.size > 0 {
		b = append(strconv.AppendInt(b, int64(next.size), 16), "\r\n"...)
		end = "\r\n"
	}
	if chunked && next.last {
		end += "0\r\n\r\n"
	}
	parts := next.bytes
	if next.size <= promptAnswer {
		for _, part := range parts {
			b = append(b, part...)
		}
		parts = nil
		b = append(b, end...)
	} else if end != "" {
		parts = append(parts, []byte(end))
	}
	scratch.Bytes = b
	if next.last {
		p.conn.Answer(b, parts, p.isLast(next.why) || !chunked)
	} else {
		p.conn.Send(b, parts)
	}
}

// Sent implements park.Guest.
func (p *parkedStream) Sent() {
	if len(p.part.woken.Messages) > 0 {
		p.pool.observeWake(p.part.woken)
	}
	reply := p.part.reply
	p.part = nil // what was sent may go
	p.conn.SetLimit(p.limit())
	if p.socket != nil && (reply || !p.listening) {
		p.listening = true
		p.listen(p.readOn())
	}
	p.sent() // from here on another part may be written
}

// Stalled implements park.Guest.
func (p *parkedStream) Stalled() bool { return p.mayStall() }

// Hear implements park.Listener, for a WebSocket.
func (p *parkedStream) Hear(b []byte) { p.listen(p.hear(b)) }

func (p *parkedStream) listen(more bool) {
	if more {
		p.conn.Listen()
	}
}

// Answered implements park.Guest.
func (p *parkedStream) Answered(err error) {
	why := p.part.why
	switch {
	case errors.Is(err, park.ErrSlow), errors.Is(err, park.ErrUnsent):
		why = outcomeDropped
	case err != nil:
		why = outcomeLeft
	}
	p.part = nil
	route := p.over()
	p.pool.countHold(why)
	if p.line != nil {
		p.line.sent = &sentAnswer{p.head(), route, why, p.payload}
		accessLines.post(accessLine{&p.onWire, p.fields(), p.since.elapsed(), err})
	}
}

// Expire implements park.Guest.
func (p *parkedStream) Expire() { p.expire() }

// Leave implements park.Guest.
func (p *parkedStream) Leave() { p.end(outcomeLeft) }

var (
	_ carrier       = (*parkedStream)(nil)
	_ store.Watcher = (*parkedStream)(nil)
	_ waiter        = (*parkedStream)(nil)
	_ park.Listener = (*parkedStream)(nil)
	_ park.Task     = (*parkedStream)(nil)
)
