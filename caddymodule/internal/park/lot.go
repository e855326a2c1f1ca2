//go:build linux

package park

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options are the bounds of a Lot.
type Options struct {
	// MaxConns is how many connections may be parked. The answer to one above it
	// is to be its last: see Conn.LotIsFull. 0: as many as there are.
	MaxConns int

	// MaxUnsent bounds the bytes of all answers together that wait for clients to
	// read them. A client whose rest does not fit is dropped. Default: 256 MiB.
	MaxUnsent int64

	// Patience is how often a guest is asked whether a client may go on that has not
	// read all of a part. Default: 1s.
	Patience time.Duration

	// Stall is after how long a client that reads nothing of the rest of its
	// answer is dropped. Default: 30s.
	Stall time.Duration

	// Slowest is after how long a client is dropped that has not read its whole
	// answer, however slowly it goes on reading. Default: 5m.
	Slowest time.Duration
}

// Lot is where connections are parked.
type Lot struct {
	opts  Options
	epoll *os.File
	ready syscall.RawConn // of epoll
	fd    int             // of epoll
	wheel *wheel
	work  workers
	gate  gate

	mu    sync.Mutex // guards what follows
	conns []*Conn    // by descriptor
	gen   int32      // given to the last connection: descriptors are used again

	parked  atomic.Int64 // connections that no server has
	unsent  atomic.Int64 // bytes
	writing atomic.Int64 // connections whose answer is not yet written
	dropped atomic.Int64
}

// ErrUnsupported is returned for a connection that cannot be parked: it has no
// socket that could be told, or another layer above it than TLS.
var ErrUnsupported = errors.New("the connection cannot be parked")

// New returns an empty lot with its goroutines: one for all sockets and as many
// as there are processors for writing.
func New(opts Options) (*Lot, error) {
	if opts.MaxUnsent == 0 {
		opts.MaxUnsent = 256 << 20
	}
	if opts.Patience == 0 {
		opts.Patience = time.Second
	}
	if opts.Stall == 0 {
		opts.Stall = 30 * time.Second
	}
	if opts.Slowest == 0 {
		opts.Slowest = 5 * time.Minute
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating an epoll set: %w", err)
	}
	// The set is itself waited for by the runtime's poller, as any socket is, so
	// that no thread is blocked in it.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("creating an epoll set: %w", err)
	}
	l := &Lot{opts: opts, fd: fd, epoll: os.NewFile(uintptr(fd), "epoll")}
	l.ready, err = l.epoll.SyscallConn()
	if err != nil {
		_ = l.epoll.Close()
		return nil, fmt.Errorf("creating an epoll set: %w", err)
	}
	l.wheel = newWheel((*Conn).expire)
	l.work.start(runtime.GOMAXPROCS(0))
	go l.watch()
	return l, nil
}

// Close ends the goroutines of a lot in which nothing is parked.
func (l *Lot) Close() {
	l.work.stop()
	_ = l.epoll.Close()
}

// Parked returns how many connections are parked.
func (l *Lot) Parked() int { return int(l.parked.Load()) }

// Dropped returns how many clients were dropped because they did not read.
func (l *Lot) Dropped() int64 { return l.dropped.Load() }

// Busy reports whether there are answers that are not written yet, or guests that
// are about to answer.
func (l *Lot) Busy() bool { return l.writing.Load() > 0 || l.work.busy() }

// CloseIdle closes those connections that wait for a further request of which
// only says so, and returns how many there were. It is told the connection and its
// home, which is nil when the server closed meanwhile, and must not use the
// connection but for its addresses.
func (l *Lot) CloseIdle(only func(*Conn, *Home) bool) int {
	n := 0
	for _, c := range l.all() {
		if c.closeIdle(only) {
			n++
		}
	}
	return n
}

func (l *Lot) all() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Conn, 0, l.Parked())
	for _, c := range l.conns {
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

// add puts a connection into the epoll set.
func (l *Lot) add(c *Conn) error {
	l.mu.Lock()
	l.gen++
	c.gen = l.gen
	for len(l.conns) <= int(c.fd) {
		l.conns = append(l.conns, nil)
	}
	l.conns[c.fd] = c
	l.mu.Unlock()
	if err := l.control(unix.EPOLL_CTL_ADD, c, waitEvents); err != nil {
		l.forget(c)
		return fmt.Errorf("adding to an epoll set: %w", err)
	}
	return nil
}

// forget is called before the descriptor of c is closed, which takes it out of
// the epoll set.
func (l *Lot) forget(c *Conn) {
	l.mu.Lock()
	if l.conns[c.fd] == c {
		l.conns[c.fd] = nil
	}
	l.mu.Unlock()
}

// The events are edge-triggered: one comes for each change, and for what is so
// already when they are asked for. So nothing has to be asked anew when a
// connection goes from one wait to the next.
const (
	waitEvents  = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	writeEvents = waitEvents | unix.EPOLLOUT
	noEvents    = unix.EPOLLET // errors are told all the same; once
)

func (l *Lot) control(op int, c *Conn, events uint32) error {
	return unix.EpollCtl(l.fd, op, int(c.fd), &unix.EpollEvent{Events: events, Fd: c.fd, Pad: c.gen})
}

// watch tells connections what their sockets have to tell.
func (l *Lot) watch() {
	var (
		events [256]unix.EpollEvent
		found  [len(events)]*Conn
		n      int
		err    error
	)
	wait := func(fd uintptr) bool {
		n, err = unix.EpollWait(int(fd), events[:], 0)
		return n != 0 || err != nil
	}
	for {
		if l.ready.Read(wait) != nil {
			return // closed
		}
		if err != nil { // EINTR is all that can be
			continue
		}
		l.mu.Lock()
		for i, e := range events[:n] {
			if c := l.conns[e.Fd]; c != nil && c.gen == e.Pad {
				found[i] = c
			}
		}
		l.mu.Unlock()
		for i, c := range found[:n] {
			if c != nil {
				c.notice(events[i].Events)
				found[i] = nil
			}
		}
	}
}
