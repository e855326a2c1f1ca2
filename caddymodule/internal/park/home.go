//go:build linux

package park

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Home is where parked connections go when their next request comes: a listener
// that a server accepts from. It may be around another listener, so that the
// server accepts new connections and returning ones from one place.
type Home struct {
	addr   net.Addr
	inner  net.Listener // may be nil
	idle   time.Duration
	orphan func(net.Conn)
	ended  func()

	fresh chan accepted // from inner
	done  chan struct{} // closed with the home
	more  chan struct{} // there may be something in queue

	closed atomic.Bool // set with mu held

	mu    sync.Mutex
	queue []net.Conn
}

type accepted struct {
	conn net.Conn
	err  error
}

// NewHome returns a home. inner may be nil, then addr is what it says its address
// is. A connection is closed that sends no further request within idle, if that is
// not 0. What comes to a home after it was closed, or was not accepted before, is
// given to orphan, on a goroutine of its own. ended is called when the home was
// closed.
func NewHome(inner net.Listener, addr net.Addr, idle time.Duration, orphan func(net.Conn), ended func()) *Home {
	h := &Home{
		addr:   addr,
		inner:  inner,
		idle:   idle,
		orphan: orphan,
		ended:  ended,
		done:   make(chan struct{}),
		more:   make(chan struct{}, 1),
	}
	if inner != nil {
		h.addr = inner.Addr()
		h.fresh = make(chan accepted)
		go h.pump()
	}
	return h
}

// pump accepts from inner until that fails for good.
func (h *Home) pump() {
	for {
		var next accepted
		next.conn, next.err = h.inner.Accept()
		select {
		case <-h.done:
			// Nobody accepts here any more, so nobody else would close it.
			if next.conn != nil {
				h.orphan(next.conn)
			}
			return
		default:
		}
		select {
		case h.fresh <- next:
		case <-h.done:
			if next.conn != nil {
				h.orphan(next.conn)
			}
			return
		}
	}
}

// Accept implements net.Listener.
func (h *Home) Accept() (net.Conn, error) {
	for {
		if c, err := h.take(); c != nil || err != nil {
			return c, err
		}
		select {
		case next := <-h.fresh:
			if h.Closed() { // the server would drop it
				if next.conn != nil {
					go h.orphan(next.conn)
				}
				return nil, net.ErrClosed
			}
			return next.conn, next.err
		case <-h.more:
		case <-h.done:
		}
	}
}

// take returns the first connection in the queue, if there is one.
func (h *Home) take() (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() {
		return nil, net.ErrClosed
	}
	if len(h.queue) == 0 {
		return nil, nil
	}
	c := h.queue[0]
	h.queue[0] = nil
	if h.queue = h.queue[1:]; len(h.queue) == 0 {
		h.queue = nil
	}
	return c, nil
}

// put queues a connection to be accepted.
func (h *Home) put(c net.Conn) {
	if !h.Put(c) {
		go h.orphan(c)
	}
}

// Put queues a connection to be accepted, unless the home is closed.
func (h *Home) Put(c net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() {
		return false
	}
	h.queue = append(h.queue, c)
	select {
	case h.more <- struct{}{}:
	default:
	}
	return true
}

// Closed reports whether the home is closed.
func (h *Home) Closed() bool { return h.closed.Load() }

// Close implements net.Listener. Whoever is still queued becomes an orphan.
func (h *Home) Close() error {
	h.mu.Lock()
	if h.closed.Load() {
		h.mu.Unlock()
		return nil
	}
	h.closed.Store(true)
	queue := h.queue
	h.queue = nil
	h.mu.Unlock()
	close(h.done)
	for _, c := range queue {
		go h.orphan(c)
	}
	var err error
	if h.inner != nil {
		err = h.inner.Close()
	}
	h.ended()
	return err
}

// Addr implements net.Listener.
func (h *Home) Addr() net.Addr { return h.addr }

var _ net.Listener = (*Home)(nil)
