//go:build linux

package park

import (
	"bytes"
	"sync"
)

// Keep has the server lose the connection as if it had closed it: what it writes
// from now on is not sent, and when it closes the connection, then is called, from
// where it may be parked. It is to be told to do so after the request. This is
// cheaper than http.Hijacker, after which a server cannot use its buffers again.
//
// It is not ok, and changes nothing, unless all that the server has read since the
// connection came home is one request without a body, and it has written nothing.
func (c *Conn) Keep(then func()) (ok bool) { return c.taken.keep(then) }

// taken is what a server has read of a connection that came home, as long as it
// has not written anything. A server that shuts down closes connections whose
// request it has just read: then the request is still there for another.
type taken struct {
	mu    sync.Mutex // a server reads and writes at the same time
	bytes []byte
	over  bool

	total int // bytes that were read, whatever became of them

	// Set by Keep.
	kept func()
	head int // what bytes begin with: the request that was kept, or after which it returns

	returns bool // the connection, after the request

	ticket Ticket // nil: there was none, or it was taken or lost
}

// Ticket goes with a request that is given back to a server.
type Ticket interface {
	// Lose is called when nobody took the ticket: the request was answered without,
	// or its connection was closed.
	Lose()
}

// TakeTicket returns the ticket of the request that a server has read, nil when there
// is none.
func (c *Conn) TakeTicket() Ticket {
	t := c.taken
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ticket := t.ticket
	t.ticket = nil
	return ticket
}

// Return has the connection come back to the lot after the request that its server is
// handling, to wait there for a further one. It is without effect when something was
// written already.
func (c *Conn) Return() {
	t := c.taken
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if end := EndOfHead(t.bytes); !t.over && end > 0 {
		t.returns, t.head = true, end
	}
}

// mayReturn reports whether the connection is to come back, now that its server waits
// for a further request: if it has read nothing of that.
func (t *taken) mayReturn() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	may := t.returns && t.total == t.head
	t.returns = false
	return may
}

// hasTicket reports whether there is a ticket that nobody has taken yet, so that no
// handler has seen the request.
func (t *taken) hasTicket() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ticket != nil
}

// lose tells a ticket that nobody will take it.
func (t *taken) lose() {
	if t == nil {
		return
	}
	t.mu.Lock()
	ticket := t.ticket
	t.ticket = nil
	t.mu.Unlock()
	if ticket != nil {
		ticket.Lose()
	}
}

// Head returns the head of the request that the server of the connection is handling.
// It is nil unless that is all that was read since the connection came home, and
// nothing was written.
func (c *Conn) Head() []byte {
	t := c.taken
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || EndOfHead(t.bytes) != len(t.bytes) {
		return nil
	}
	return bytes.Clone(t.bytes)
}

// maxTaken is how much of a request is kept.
const maxTaken = 8 << 10

func (t *taken) add(p []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total += len(p)
	if t.over = t.over || t.kept == nil && len(t.bytes)+len(p) > maxTaken; t.over {
		t.bytes = nil
		return
	}
	t.bytes = append(t.bytes, p...)
}

// drop forgets it: something was written. It reports whether that is not to be
// sent.
func (t *taken) drop() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	if t.kept != nil {
		t.mu.Unlock()
		return true
	}
	ticket := t.ticket
	t.bytes, t.over, t.ticket = nil, true, nil
	t.mu.Unlock()
	if ticket != nil {
		ticket.Lose()
	}
	return false
}

// keep has then called when the server closes the connection. It is not ok when
// there may be more in bytes than one request without a body.
func (t *taken) keep(then func()) (ok bool) {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || EndOfHead(t.bytes) != len(t.bytes) {
		return false
	}
	t.kept, t.head = then, len(t.bytes)
	return true
}

// EndOfHead returns where the head of the first request in b ends: after the first
// empty line. It is -1 when that is not there.
func EndOfHead(b []byte) int {
	for end := 0; ; {
		i := bytes.IndexByte(b[end:], '\n')
		if i < 0 {
			return -1
		}
		end += i + 1
		if rest := b[end:]; bytes.HasPrefix(rest, []byte("\n")) {
			return end + 1
		} else if bytes.HasPrefix(rest, []byte("\r\n")) {
			return end + 2
		}
	}
}

// keeper returns what to call when the server closes the connection, once, and what
// it has read after the request that was kept.
func (t *taken) keeper() (then func(), further []byte) {
	if t == nil {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept == nil {
		return nil, nil
	}
	then, t.kept = t.kept, nil
	return then, bytes.Clone(t.bytes[t.head:])
}

// repeatable takes a request out that does no harm when it is handled twice, in
// case a handler has had it after all. It is nil when there is none.
func (t *taken) repeatable() []byte {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.bytes
	t.bytes, t.over = nil, true
	if bytes.HasPrefix(was, []byte("GET ")) || bytes.HasPrefix(was, []byte("HEAD ")) {
		return was
	}
	return nil
}
