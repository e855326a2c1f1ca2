//go:build linux

package park

import (
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Guest is who waits on a parked connection for something to answer.
type Guest interface {
	// Expire is called when the time is over for which the connection was parked.
	// The guest is to answer then, unless it has something to answer already.
	Expire()

	// Leave is called when the client closed its connection, or its half of it.
	// The guest is to answer all the same, since the client may still read.
	Leave()

	// Sent is called when a part of the answer was written, after Send.
	Sent()

	// Stalled is called now and then, as Options.Patience has it, while the client has
	// not read all of a part of the answer. It reports whether that may go on.
	Stalled() bool

	// Answered is called when the answer was written, or could not be: then with
	// the error. Until then the connection counts as Busy.
	Answered(error)
}

// Listener is a guest that hears what its client sends while it waits.
type Listener interface {
	Guest

	// Hear is called with what the client sent, once for each Listen. The bytes are
	// of use until it returns.
	Hear([]byte)
}

// What can be wrong with an answer.
var (
	// ErrSlow: the client did not read its answer in time.
	ErrSlow = errors.New("the client does not read its answer")

	// ErrUnsent: more bytes than MaxUnsent wait for clients to read them.
	ErrUnsent = errors.New("too much waits for clients to read it, of this one and of others")
)

// Conn is a connection that can be parked. It is a net.Conn for the server that
// has it meanwhile.
type Conn struct {
	inner net.Conn // that of the server: a socket, or one with TLS or a PROXY header around it
	lot   *Lot
	fd    int32
	gen   int32 // of fd in the lot; 0: not yet there
	tls   bool
	trim  bool // what TLS keeps from its handshake is let go when it is parked

	// Whether the last read of a server took all that there was. Not guarded, as
	// early.
	drained bool

	// Of a connection that comes from the gate to a server, which does not read yet.
	entering atomic.Bool

	// Whether its server waits for a further request, and it may come back. Not guarded:
	// the server does one thing after the other.
	awaits bool

	// What was read from inner before a server asked for it. Not guarded, since
	// only one reads at a time.
	early []byte
	taken *taken // likewise

	limit limit // on the wheel; guarded by wheel.mu

	mu       sync.Mutex // guards what follows
	state    state
	disarmed bool // the epoll set tells nothing of it
	readable bool // there may be something to read
	buffered bool // TLS may have some of it, of which the socket does not tell
	hangup   bool // the client closed its connection, or its half
	reading  bool // a goroutine reads what came early, and has early
	listened bool // the guest is a Listener
	listens  bool // and wants to hear more
	more     bool // more of the answer follows what is written now
	comes    bool // back to the lot when its server closes it
	last     bool // it is closed after the answer
	guest    Guest
	home     *Home // nil: every answer is the last
	rest     *rest
}

type state uint8

const (
	serving   state = iota // a server has it
	waiting                // it has a guest
	writing                // its client has not read all of the answer
	returning              // it comes back from its server
	idle                   // it waits for a further request
	closing                // it waits for its client to close it
	closed
)

// rest is what is not written of an answer.
type rest struct {
	parts [][]byte
	size  int64
	read  time.Time // when the client read of it last
	until time.Time
	slow  bool // the client is to be dropped
}

// closingTime is for how long a client may take to close a connection that sent
// more than was wanted of it.
const closingTime = time.Second

// Wrap returns the connection that a server was using, ready to be parked. The
// socket is that below it, buffered what the server has read of it already.
func (l *Lot) Wrap(c net.Conn, socket syscall.Conn, buffered []byte) (*Conn, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	wrapped := &Conn{inner: c, lot: l, early: buffered}
	_, wrapped.tls = c.(*tls.Conn)
	if err := raw.Control(func(fd uintptr) { wrapped.fd = int32(fd) }); err != nil {
		return nil, err
	}
	return wrapped, nil
}

// Of returns the connection that a server was given back. It is nil when c is none
// of that kind.
func Of(c net.Conn) *Conn {
	switch c := c.(type) {
	case *Conn:
		return c
	case tlsConn:
		return c.Conn
	default:
		return nil
	}
}

// Unread puts back what a server has read but not used. It must have let go of the
// connection.
func (c *Conn) Unread(buffered []byte) {
	if len(buffered) > 0 {
		c.early = append(buffered, c.early...)
	}
}

// maxEarly is how much is read of what a client sends before it was asked for.
// The rest stays in its socket.
const maxEarly = 16 << 10

// readEarly reads what the layers above the socket have of it already, since the
// socket does not tell of it. It reports whether that is the end.
func (c *Conn) readEarly() (end bool) {
	if _, bare := c.inner.(*net.TCPConn); bare {
		return false
	}
	c.early, end = c.readBuffered(c.early)
	return end
}

// readBuffered reads to b what readEarly does.
func (c *Conn) readBuffered(b []byte) (all []byte, end bool) {
	_ = c.inner.SetReadDeadline(longAgo)
	defer func() { _ = c.inner.SetReadDeadline(time.Time{}) }()
	var room [512]byte
	for len(b) < maxEarly {
		n, err := c.inner.Read(room[:])
		b = append(b, room[:n]...)
		if err != nil {
			return b, !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
	return b, false
}

var longAgo = time.Unix(1, 0)

// Park parks the connection until g answers. Its server must have let go of it.
// After limit g is told that its time is over. When the client sends a further
// request, home is given the connection.
//
// After an error the connection is as it was before. Leave may be called before
// Park returns, when the client is known to have left.
func (c *Conn) Park(g Guest, home *Home, limit time.Duration) error {
	c.taken.lose()
	c.taken = nil
	_ = c.inner.SetDeadline(time.Time{}) // the server may have left one
	end := c.readEarly()
	c.mu.Lock()
	c.hangup = c.hangup || end
	if c.trim {
		offsets, _ := trimOffsets()
		trimTLS(c.inner.(*tls.Conn), offsets)
	}
	if err := c.arm(); err != nil {
		c.mu.Unlock()
		return err
	}
	c.buffered = c.tls && len(c.early) >= maxEarly
	c.readable = c.readable || c.buffered
	c.state, c.guest, c.home = waiting, g, home
	c.listened, c.listens = false, false
	c.hear()
	left := c.hangup
	c.lot.parked.Add(1)
	c.lot.wheel.set(c, limit)
	c.mu.Unlock()
	if left {
		g.Leave()
	}
	return nil
}

// arm has the epoll set tell of the connection.
func (c *Conn) arm() error {
	switch {
	case c.gen == 0:
		if err := c.lot.add(c); err != nil {
			c.gen = 0
			return err
		}
	case c.disarmed:
		if err := c.lot.control(unix.EPOLL_CTL_MOD, c, waitEvents); err != nil {
			return err
		}
		c.disarmed, c.readable = false, false
	default:
		// No event will tell of what its server has left unread.
		c.readable = c.hasUnread()
	}
	return nil
}

// hasUnread reports whether the socket has something that the server has not
// read. It may do so without need when there is no TLS; proceed looks again.
func (c *Conn) hasUnread() bool {
	if !c.tls {
		return !c.drained
	}
	n, err := c.peek()
	return err == nil && n > 0
}

// peek returns how many bytes there are to read, one at most, as recv does.
func (c *Conn) peek() (int, error) {
	for {
		var one [1]byte
		n, _, err := unix.Recvfrom(int(c.fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// notice is told what happened to the socket.
func (c *Conn) notice(events uint32) {
	c.mu.Lock()
	if c.state == serving || c.state == returning {
		if !c.disarmed { // whoever serves it knows
			c.disarmed = true
			_ = c.lot.control(unix.EPOLL_CTL_MOD, c, noEvents)
		}
		c.mu.Unlock()
		return
	}
	if events&unix.EPOLLIN != 0 {
		c.readable = true
	}
	leaves := events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 && !c.hangup
	c.hangup = c.hangup || leaves
	var leaving Guest
	switch c.state { //nolint:exhaustive // in the others there is nothing to do
	case waiting:
		if leaves {
			leaving = c.guest
		} else if !c.hangup {
			c.hear()
		}
	case writing:
		if c.rest != nil && !c.tls && events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			c.Post(c)
		}
	case idle:
		c.proceed()
	case closing:
		if c.hangup {
			c.close()
		} else {
			c.discard()
		}
	}
	c.mu.Unlock()
	if leaving != nil {
		leaving.Leave()
	}
}

// expire is called when a time limit is over.
func (c *Conn) expire() {
	c.mu.Lock()
	if !c.lot.wheel.isDue(c) { // it was set anew meanwhile
		c.mu.Unlock()
		return
	}
	var (
		expired, stalled Guest
		told             verdict
	)
	switch c.state { //nolint:exhaustive // in the others there is no limit
	case waiting:
		expired = c.guest
	case writing:
		switch {
		case time.Until(c.stalledUntil()) <= 0:
			told = c.dropSlow()
		case c.more:
			stalled = c.guest
		default: // it has read of it meanwhile
			c.watchStall()
		}
	case idle, closing:
		c.close()
	}
	rest := c.rest
	c.mu.Unlock()
	told.tell()
	switch {
	case expired != nil:
		expired.Expire()
	case stalled != nil:
		c.stallOn(rest, stalled.Stalled())
	}
}

// Listen has a guest that is a Listener hear what the client sends next. It is not
// read before, so that who sends and does not read has to wait.
func (c *Conn) Listen() {
	c.mu.Lock()
	c.listened, c.listens = true, true
	if c.state == waiting {
		c.hear()
	}
	c.mu.Unlock()
}

// hear has what the client sent read and heard while a guest waits that listens.
// With TLS it is read for others too, but for what is known to be a further request:
// it may be that the client leaves.
func (c *Conn) hear() {
	hears := c.listens && (len(c.early) > 0 || c.readable && !c.tls)
	switch {
	case c.reading:
	case hears:
		c.reading = true
		c.Post((*hearing)(c))
	case c.tls && c.readable && len(c.early) == 0 && !c.hangup:
		c.reading = true
		// TLS answers some of what it reads.
		_ = c.inner.SetDeadline(time.Now().Add(listenTime))
		if c.buffered { // it is there already, or nothing is
			_ = c.inner.SetReadDeadline(longAgo)
		}
		go c.listen(c.listened)
	}
}

// hearing has the guest of a Conn hear what came. It is a Task.
type hearing Conn

// hearSize is how much a guest hears at once.
const hearSize = 4 << 10

// Do implements Task.
func (h *hearing) Do(scratch *Scratch) {
	c := (*Conn)(h)
	scratch.Bytes = slices.Grow(scratch.Bytes[:0], hearSize)
	c.mu.Lock()
	c.reading = false
	var heard []byte
	if c.state == waiting { // else a part of the answer is being written, or it is closed
		heard = c.take(scratch.Bytes[:hearSize])
	}
	guest := c.guest
	c.listens = c.listens && len(heard) == 0
	c.mu.Unlock()
	if len(heard) > 0 {
		guest.(Listener).Hear(heard)
	}
}

// take returns what came, as much as there is room for.
func (c *Conn) take(room []byte) []byte {
	if len(c.early) == 0 && !c.tls {
		n, err := c.receive(room)
		if err != nil || n == 0 { // an event tells of the end
			c.readable = false
			return nil
		}
		return room[:n]
	}
	n := copy(room, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return room[:n]
}

// receive is recv, and does not wait.
func (c *Conn) receive(room []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(int(c.fd), room, unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// listenTime is for how long a client may take to send what it began to send
// before it was asked.
const listenTime = 10 * time.Second

// listen reads what comes over TLS while a guest waits: the client's word that it
// leaves, or the beginning of its next request. For a Listener it reads all that
// there is, as far as that is bounded.
func (c *Conn) listen(all bool) {
	var room [512]byte
	n, err := c.inner.Read(room[:])
	came, end := room[:n], err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	if all && err == nil {
		came, end = c.readBuffered(came)
	}
	c.mu.Lock()
	_ = c.inner.SetReadDeadline(time.Time{})
	c.reading = false
	c.early = append(c.early, came...)
	c.buffered = len(came) > 0 && (!all || len(came) >= maxEarly)
	if c.state != closed && !c.buffered {
		n, err := c.peek()
		c.readable = err == nil && n > 0
	}
	var leaving Guest
	if end {
		if c.state == waiting && !c.hangup {
			leaving = c.guest
		}
		c.hangup = true
	}
	switch c.state { //nolint:exhaustive // in the others nobody asks for it
	case waiting:
		c.hear()
	case idle:
		c.proceed()
	}
	c.mu.Unlock()
	if leaving != nil {
		leaving.Leave()
	}
}

// settle is called when the answer is written: the connection waits for a further
// request, which may be there already, or is closed.
//
// The client of one that listened ends the connection itself, once it has read to the
// end.
func (c *Conn) settle() {
	switch {
	case !c.last:
		c.state = idle
		if c.home.idle > 0 {
			c.lot.wheel.set(c, c.home.idle)
		} else {
			c.lot.wheel.stop(c)
		}
		if c.readable || c.hangup || len(c.early) > 0 {
			c.proceed()
		}
	case (c.discard() || len(c.early) > 0 || c.listened) && !c.hangup && c.closeWrite() == nil:
		// More of what the client sends may be on its way. To close now would reset
		// the connection when it comes, and the client would lose what it has not
		// read yet of the answer.
		c.state = closing
		c.lot.wheel.set(c, closingTime)
	default:
		c.close()
	}
}

// maxDiscard is how much is read of what a client sent too much.
const maxDiscard = 256 << 10

// discard throws away what the client sent, and reports whether there was
// anything: a connection that is closed with something unread is reset.
func (c *Conn) discard() bool {
	var room [4 << 10]byte
	total := 0
	for total < maxDiscard {
		n, err := c.receive(room[:])
		if err != nil || n == 0 {
			break
		}
		total += n
	}
	return total > 0
}

// proceed gives a connection that waits for a request to its home if there is
// one, and closes it if its client left.
func (c *Conn) proceed() {
	if c.reading { // it is told again when that is over
		_ = c.inner.SetReadDeadline(longAgo)
		return
	}
	if len(c.early) == 0 && !c.tls {
		n, err := c.peek()
		if errors.Is(err, unix.EAGAIN) && !c.hangup {
			c.readable = false
			return
		}
		if err != nil || n == 0 {
			c.close()
			return
		}
	}
	c.state = serving
	c.lot.parked.Add(-1)
	c.lot.wheel.stop(c)
	c.lot.gate.enter(c)
}

// Resume gives the connection to a home, as if its client sent a request now of which
// this is the head. It is called in place of Answer by a guest that keeps the request
// that it waited for. Whoever handles the request may take the ticket.
func (c *Conn) Resume(head []byte, home *Home, t Ticket) {
	c.mu.Lock()
	c.guest, c.home = nil, home
	c.early = append(head, c.early...)
	c.taken = &taken{ticket: t}
	c.state = idle
	c.lot.wheel.stop(c)
	c.proceed()
	c.mu.Unlock()
}

// SetLimit has the guest told after d that its time is over, instead of after what
// was said before. It is without effect while an answer is being written.
func (c *Conn) SetLimit(d time.Duration) {
	c.mu.Lock()
	if c.state == waiting {
		c.lot.wheel.set(c, d)
	}
	c.mu.Unlock()
}

// Post has a worker of the lot do t soon. It does not block.
func (c *Conn) Post(t Task) { c.lot.work.post(t) }

// Home returns the home that the connection was parked with.
func (c *Conn) Home() *Home {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.home
}

// LotIsFull reports whether so many connections are parked that one whose request
// was answered should be closed instead of waiting for a further one.
func (c *Conn) LotIsFull() bool {
	l := c.lot
	return l.opts.MaxConns > 0 && l.Parked() > l.opts.MaxConns
}

// goHome gives the connection to its server. It is called by the gate.
func (c *Conn) goHome() {
	c.entering.Store(true)
	if c.taken == nil {
		c.taken = new(taken)
	}
	if c.tls {
		_ = c.inner.SetDeadline(time.Time{}) // what wrote to it left one
	}
	c.home.put(c.served())
}

// served returns the connection as a server is given it.
func (c *Conn) served() net.Conn {
	if c.tls {
		return tlsConn{c}
	}
	return c
}

// closeIdle closes the connection when it waits for a further request.
func (c *Conn) closeIdle(only func(*Conn, *Home) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != idle && c.state != closing || !only(c, c.home) {
		return false
	}
	c.close()
	return true
}

// close ends a connection that is parked.
func (c *Conn) close() {
	c.leave()
	c.discard()
	c.closeSocket(true)
}

// closeSocket closes the connection to the client, with a farewell if that is
// wanted and need not wait for the client to read.
func (c *Conn) closeSocket(farewell bool) {
	socket := c.inner
	if t, ok := socket.(*tls.Conn); ok && (!farewell || c.unsent() > 0) {
		socket = t.NetConn()
	}
	_ = socket.Close() // it is gone either way
}

// leave takes the connection out of the lot, to be closed.
func (c *Conn) leave() {
	c.state = closed
	if c.taken != nil { // it was to go home
		go c.taken.lose() // without the lock
	}
	c.lot.parked.Add(-1)
	c.lot.wheel.stop(c)
	c.lot.forget(c)
}

// closeWrite is CloseWrite, but does not wait for the client to read.
func (c *Conn) closeWrite() error {
	if w, ok := c.inner.(interface{ CloseWrite() error }); ok && (!c.tls || c.unsent() == 0) {
		return w.CloseWrite() // for TLS with a farewell
	}
	return unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

// unsent returns how many bytes the client has not acknowledged.
func (c *Conn) unsent() int {
	n, err := unix.IoctlGetInt(int(c.fd), unix.SIOCOUTQ)
	if err != nil {
		return math.MaxInt
	}
	return n
}

// Await is to be called when the server of the connection begins to wait for a further
// request. Without it nothing comes back after Return.
func (c *Conn) Await() { c.awaits = c.taken.mayReturn() }

// comeBack parks a connection that is returning. When it cannot be, it is with its
// server again.
func (c *Conn) comeBack() bool {
	c.taken.lose()
	c.taken = nil
	_ = c.inner.SetDeadline(time.Time{}) // the server may have left one
	end := c.readEarly()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.home.Closed() || c.arm() != nil {
		c.state = serving
		return false
	}
	c.hangup = c.hangup || end
	c.guest, c.last = nil, false
	c.lot.parked.Add(1)
	c.settle()
	return true
}

// Read implements net.Conn for the server that has the connection.
func (c *Conn) Read(p []byte) (int, error) {
	c.entered() // not when it has read: a client may send a part of a TLS record
	if c.awaits {
		c.awaits = false
		if _, err := c.peek(); errors.Is(err, unix.EAGAIN) && len(c.early) == 0 && !c.Home().Closed() && !c.LotIsFull() {
			c.mu.Lock()
			c.comes = true
			c.mu.Unlock()
			return 0, io.EOF // so the server lets go of it
		}
	}
	var (
		n   int
		err error
	)
	if len(c.early) > 0 {
		n = copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		c.drained = false // the socket was not asked
	} else if n, err = c.inner.Read(p); n > 0 {
		c.drained = n < len(p)
	}
	c.taken.add(p[:n])
	return n, err
}

// entered lets the next connection through the gate.
func (c *Conn) entered() {
	if c.entering.Load() && c.entering.Swap(false) {
		c.lot.gate.leave()
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.taken.drop() {
		return len(p), nil
	}
	return c.inner.Write(p)
}

// ReadFrom has the system copy a file, where it can.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if c.taken.drop() {
		return io.Copy(io.Discard, r)
	}
	return io.Copy(c.inner, r)
}

// Close implements net.Conn. It does not close a connection that is kept. When the
// server that closes it is shut down and has left the request unanswered that it
// read, another one is given the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.comes { // nobody reads of it any more
		c.comes, c.state = false, returning
		c.mu.Unlock()
		if c.comeBack() {
			return nil
		}
		c.mu.Lock()
	}
	if c.state != serving {
		c.mu.Unlock()
		return net.ErrClosed
	}
	if then, further := c.taken.keeper(); then != nil {
		c.Unread(further)
		c.mu.Unlock()
		c.entered()
		then()
		return nil
	}
	if c.home != nil && (c.home.Closed() || c.taken.hasTicket()) { // its home may be closed next
		if request := c.taken.repeatable(); request != nil {
			c.Unread(request)
			c.mu.Unlock()
			c.entered()
			_ = c.inner.SetDeadline(time.Time{}) // the other sets its own
			go c.home.orphan(c.served())
			return nil
		}
	}
	c.state = closed
	if c.gen != 0 {
		c.lot.forget(c)
	}
	c.mu.Unlock()
	c.taken.lose()
	c.entered()
	return c.inner.Close()
}

// CloseWrite closes the connection for writing, which servers do to those who
// still send.
func (c *Conn) CloseWrite() error {
	if c.taken.drop() {
		return nil
	}
	if w, ok := c.inner.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.inner.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.inner.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.inner.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.inner.SetWriteDeadline(t) }

// NetConn returns the connection that the server had before.
func (c *Conn) NetConn() net.Conn { return c.inner }

// HasTLS reports whether the connection is one with TLS.
func (c *Conn) HasTLS() bool { return c.tls }

// tlsConn is a Conn with TLS. Servers look for its method to know.
type tlsConn struct{ *Conn }

// ConnectionState is that of crypto/tls.
func (c tlsConn) ConnectionState() tls.ConnectionState {
	return c.inner.(*tls.Conn).ConnectionState()
}

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
	_ Task          = (*Conn)(nil)
)
