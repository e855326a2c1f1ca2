//go:build linux

package park

import (
	"bytes"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Answer writes the guest's answer, or what is left of it after Send: head, which
// is the caller's to use again when Answer returns, and parts, which must not be
// changed any more. It does not wait for the client to read it. Then the connection
// waits for its next request, or is closed if this was the last.
//
// It is called once for each Park.
func (c *Conn) Answer(head []byte, parts [][]byte, last bool) {
	c.mu.Lock()
	c.more, c.last = false, last
	told := c.answer(head, parts)
	c.mu.Unlock()
	told.tell()
}

// Send writes a part of the guest's answer as Answer does, but then the connection
// goes on waiting with its guest, who is told of that by Sent and sets a new time
// limit. Until then neither Send nor Answer may be called. When it cannot be
// written the guest is told by Answered, and that is the end.
func (c *Conn) Send(head []byte, parts [][]byte) {
	c.mu.Lock()
	c.more = true
	told := c.answer(head, parts)
	c.mu.Unlock()
	told.tell()
}

func (c *Conn) answer(head []byte, parts [][]byte) verdict {
	c.state = writing
	c.lot.writing.Add(1)
	size := int64(len(head))
	for _, p := range parts {
		size += int64(len(p))
	}
	if c.tls {
		return c.answerTLS(head, parts, size)
	}
	return c.answerPlain(head, parts, size)
}

func (c *Conn) answerPlain(head []byte, parts [][]byte, size int64) verdict {
	n, err := c.write(head, parts)
	if err != nil {
		return c.fail(err)
	}
	if n == size {
		return c.finish()
	}
	if err := c.keep(advance(append([][]byte{bytes.Clone(head)}, parts...), n), size-n); err != nil {
		return c.fail(err)
	}
	// It may have become writable meanwhile; then the event comes at once.
	if err := c.lot.control(unix.EPOLL_CTL_MOD, c, writeEvents); err != nil {
		return c.fail(err)
	}
	return verdict{}
}

// verdict is what there is to tell a guest of its answer, when no lock is held.
type verdict struct {
	lot   *Lot
	guest Guest // nil: there is nothing to tell
	err   error
	more  bool // it was a part
	left  bool // the client left meanwhile
}

func (v verdict) tell() {
	switch {
	case v.guest == nil:
		return
	case v.more:
		v.guest.Sent()
		if v.left {
			v.guest.Leave()
		}
	default:
		v.guest.Answered(v.err)
	}
	v.lot.writing.Add(-1)
}

// finish ends an answer that was written, or a part of it.
func (c *Conn) finish() verdict {
	if c.more {
		c.state = waiting
		c.hear()
		return verdict{lot: c.lot, guest: c.guest, more: true, left: c.hangup}
	}
	told := verdict{lot: c.lot, guest: c.guest}
	c.guest = nil
	c.settle()
	return told
}

// fail ends an answer that could not be written, and its connection.
func (c *Conn) fail(err error) verdict {
	told := verdict{lot: c.lot, guest: c.guest, err: err}
	c.guest = nil
	if errors.Is(err, ErrSlow) || errors.Is(err, ErrUnsent) {
		c.lot.dropped.Add(1)
	}
	if c.rest != nil {
		c.lot.unsent.Add(-c.rest.size)
		c.rest = nil
	}
	c.leave()
	c.closeSocket(false)
	return told
}

// keep notes what is not written yet, if there is room for it.
func (c *Conn) keep(parts [][]byte, size int64) error {
	if c.lot.unsent.Add(size) > c.lot.opts.MaxUnsent {
		c.lot.unsent.Add(-size)
		return ErrUnsent
	}
	at := time.Now()
	c.rest = &rest{parts: parts, size: size, read: at, until: at.Add(c.lot.opts.Slowest)}
	c.watchStall()
	return nil
}

// stalledUntil returns when a client is dropped that reads nothing more.
func (c *Conn) stalledUntil() time.Time {
	until := c.rest.read.Add(c.lot.opts.Stall)
	if until.After(c.rest.until) {
		return c.rest.until
	}
	return until
}

// watchStall sets the time limit of a client that has not read all.
func (c *Conn) watchStall() {
	limit := time.Until(c.stalledUntil())
	if c.more {
		limit = min(limit, c.lot.opts.Patience)
	}
	c.lot.wheel.set(c, limit)
}

// stallOn is called when the guest was asked whether the client may go on not to
// read the rest of a part.
func (c *Conn) stallOn(r *rest, may bool) {
	c.mu.Lock()
	var told verdict
	switch {
	case c.state != writing || c.rest != r: // it has read it
	case may:
		c.watchStall()
	default:
		told = c.dropSlow()
	}
	c.mu.Unlock()
	told.tell()
}

// dropSlow ends an answer that the client does not read.
func (c *Conn) dropSlow() verdict {
	if c.tls { // whoever writes it sees to that
		c.rest.slow = true
		_ = c.inner.SetWriteDeadline(longAgo)
		return verdict{}
	}
	return c.fail(ErrSlow)
}

// Do writes on when the client has read. It implements Task.
func (c *Conn) Do(*Scratch) {
	c.mu.Lock()
	told := c.writeOn()
	c.mu.Unlock()
	told.tell()
}

func (c *Conn) writeOn() verdict {
	if c.state != writing || c.rest == nil { // it was dropped, or another task was faster
		return verdict{}
	}
	n, err := c.write(nil, c.rest.parts)
	if err != nil {
		return c.fail(err)
	}
	c.lot.unsent.Add(-n)
	c.rest.parts, c.rest.size = advance(c.rest.parts, n), c.rest.size-n
	if c.rest.size > 0 {
		if n > 0 {
			c.rest.read = time.Now()
			c.watchStall()
		}
		return verdict{}
	}
	c.rest = nil
	// The events that tell of room go on until others are asked for.
	if err := c.lot.control(unix.EPOLL_CTL_MOD, c, waitEvents); err != nil {
		return c.fail(err)
	}
	return c.finish()
}

// maxVector is how many parts are given to the system at once.
const maxVector = 64

// write gives the socket as much as it takes, and returns how much that was.
func (c *Conn) write(head []byte, parts [][]byte) (int64, error) {
	var written int64
	for {
		var (
			n    int
			err  error
			want int
		)
		if len(parts) == 0 {
			want = len(head)
			n, err = unix.Write(int(c.fd), head)
		} else {
			vector := make([][]byte, 0, min(len(parts)+1, maxVector))
			if len(head) > 0 {
				vector = append(vector, head)
			}
			vector = append(vector, parts[:min(len(parts), maxVector-len(vector))]...)
			for _, p := range vector {
				want += len(p)
			}
			n, err = unix.Writev(int(c.fd), vector)
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return written, nil
		case err != nil:
			return written, err
		}
		written += int64(n)
		if n < want {
			return written, nil // the next event tells when there is room
		}
		ofHead := min(n, len(head))
		head, parts = head[ofHead:], advance(parts, int64(n-ofHead))
		if len(head) == 0 && len(parts) == 0 {
			return written, nil
		}
	}
}

// advance returns what is left of parts after their first n bytes.
func advance(parts [][]byte, n int64) [][]byte {
	for len(parts) > 0 && n >= int64(len(parts[0])) {
		n -= int64(len(parts[0]))
		parts = parts[1:]
	}
	if n > 0 {
		parts = append([][]byte{parts[0][n:]}, parts[1:]...)
	}
	return parts
}

// promptTLS is how much is written over TLS at once: a socket that has nothing
// unsent takes it in one go.
const promptTLS = 8 << 10

// answerTLS writes an answer over TLS. A record that is written in part breaks the
// connection, so what the socket may not take at once is written by a goroutine
// that waits for it.
func (c *Conn) answerTLS(head []byte, parts [][]byte, size int64) verdict {
	if size <= promptTLS && c.unsent() == 0 {
		for _, p := range parts {
			head = append(head, p...)
		}
		// This does not come to pass but when the system is out of memory.
		_ = c.inner.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.inner.Write(head); err != nil {
			return c.fail(err)
		}
		return c.finish()
	}
	if err := c.keep(append([][]byte{bytes.Clone(head)}, parts...), size); err != nil {
		return c.fail(err)
	}
	go c.writeTLS(c.rest)
	return verdict{}
}

// chunkTLS is how much is written over TLS until the time limit begins anew: the
// most that goes into one record.
const chunkTLS = 16 << 10

func (c *Conn) writeTLS(r *rest) {
	var err error
	for _, part := range r.parts {
		for len(part) > 0 && err == nil {
			chunk := part[:min(len(part), chunkTLS)]
			c.mu.Lock()
			if r.read = time.Now(); !r.slow {
				_ = c.inner.SetWriteDeadline(c.stalledUntil())
			}
			c.mu.Unlock()
			_, err = c.inner.Write(chunk)
			part = part[len(chunk):]
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrSlow
	}
	c.mu.Lock()
	var told verdict
	if err != nil {
		told = c.fail(err)
	} else {
		c.lot.unsent.Add(-r.size)
		c.rest = nil
		told = c.finish()
	}
	c.mu.Unlock()
	told.tell()
}
