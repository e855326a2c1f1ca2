package main

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// loop is an epoll loop for plain HTTP/1.1: one thread that reads what all lines are
// answered, so that ten thousand clients cost little more than their system calls.
type loop struct {
	mu   *sync.Mutex // of all lines, and held while answers are read
	ep   int
	wake int // an eventfd, readable when the loop is to end

	fds   []*epollLine // by descriptor
	buf   []byte       // what is read
	out   []byte       // what is written
	ended chan struct{}
}

// epollLines are the lines of one target on a loop.
type epollLines struct {
	loop   *loop
	target *target
	got    got
	lines  []epollLine
}

// epollLine is one line.
type epollLine struct {
	of      *epollLines
	number  int
	fd      int // -1 when there is no connection
	asked   bool
	cut     cutter // as in the request
	stops   bool   // likewise
	writing bool   // out waits for the connection to take it
	out     []byte // the rest of a request
	in      []byte // the beginning of an answer
	stream  *parts // the answer that goes on, once its head was there
}

// narrow gives a connection of a client that reads nothing a small buffer, and segments
// as an Ethernet has them: with those of this machine the server's system would take
// megabytes before the server knew of anything.
func narrow(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1460))
}

// perSource is how many connections come from one of the addresses of this machine:
// there are some 28,000 ports for each, and those of closed connections rest a while.
const perSource = 8192

// network has all lines of a case, and the lock that they share.
type network struct {
	mu   sync.Mutex
	loop *loop // nil until plain lines are made
}

// plain makes lines for plain HTTP/1.1.
func (n *network) plain(t *target, count int, got got) (lines, error) {
	if n.loop == nil {
		var err error
		if n.loop, err = newLoop(&n.mu); err != nil {
			return nil, err
		}
	}
	return n.loop.open(t, count, got), nil
}

// close ends what serves the lines, after they were closed.
func (n *network) close() {
	if n.loop != nil {
		n.loop.close()
	}
}

// newLoop starts a loop. It ends when close is called.
func newLoop(mu *sync.Mutex) (*loop, error) {
	l := &loop{mu: mu, buf: make([]byte, 256<<10), ended: make(chan struct{})}
	var err error
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(err, unix.Close(l.ep))
	}
	if err = l.watch(unix.EPOLL_CTL_ADD, l.wake, unix.EPOLLIN); err != nil {
		return nil, errors.Join(err, unix.Close(l.wake), unix.Close(l.ep))
	}
	go l.run()
	return l, nil
}

// open makes n lines to a target.
func (l *loop) open(t *target, n int, got got) *epollLines {
	ls := &epollLines{loop: l, target: t, got: got, lines: make([]epollLine, n)}
	for i := range ls.lines {
		ls.lines[i] = epollLine{of: ls, number: i, fd: -1}
	}
	return ls
}

// close ends the loop. Its lines are closed before.
func (l *loop) close() {
	if _, err := unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		panic(err) // an eventfd takes a number
	}
	<-l.ended
}

func (l *loop) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(l.ep, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(l.ended)
	defer unix.Close(l.ep)
	defer unix.Close(l.wake)
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(l.ep, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // the descriptor is ours
		}
		l.mu.Lock()
		for _, e := range events[:n] {
			fd := int(e.Fd)
			if fd == l.wake {
				l.mu.Unlock()
				return
			}
			// One that was closed in this round has no line, or another one to which
			// the event means no harm.
			if line := l.fds[fd]; line != nil {
				if e.Events&unix.EPOLLOUT != 0 {
					line.flush()
				}
				if line.fd == fd && e.Events&^unix.EPOLLOUT != 0 {
					line.read()
				}
			}
		}
		l.mu.Unlock()
	}
}

func (ls *epollLines) ask(line int, r *request) {
	l := &ls.lines[line]
	l.asked, l.cut, l.stops = true, r.cut, r.stops
	ls.loop.out = r.appendTo(ls.loop.out[:0], ls.target.host)
	if l.fd < 0 {
		if err := l.connect(); err != nil {
			l.fail(fmt.Errorf("connecting to %s: %w", ls.target.addr, err))
			return
		}
	}
	l.write(ls.loop.out)
}

func (ls *epollLines) cut(line int) { ls.lines[line].drop() }

func (ls *epollLines) close() {
	for i := range ls.lines {
		ls.lines[i].drop()
	}
}

// connect begins to connect. On this machine it mostly has when it returns.
func (l *epollLine) connect() error {
	addr := l.of.target.addr
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: addr.Port, Addr: [16]byte(addr.IP.To16())})
	if ip := addr.IP.To4(); ip != nil {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(ip)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil && l.stops {
		err = narrow(fd)
	}
	if err == nil && l.number >= perSource && family == unix.AF_INET && l.of.target.loopback {
		from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + l.number/perSource)}}
		// The port is chosen with the connection, among those free for this target.
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err == nil {
			err = unix.Bind(fd, from)
		}
	}
	if err == nil {
		if err = unix.Connect(fd, to); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err == nil {
		err = l.of.loop.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
	}
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	l.fd = fd
	fds := &l.of.loop.fds
	if fd >= len(*fds) {
		*fds = append(*fds, make([]*epollLine, fd+1024-len(*fds))...)
	}
	(*fds)[fd] = l
	return nil
}

// write sends b, now or as soon as the connection takes it.
func (l *epollLine) write(b []byte) {
	for len(b) > 0 {
		n, err := unix.Write(l.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			l.out = append([]byte(nil), b...)
			l.interest(true)
			return
		case err != nil:
			l.fail(fmt.Errorf("%w: %w", errCut, err))
			return
		default:
			b = b[n:]
		}
	}
	l.out = nil
	if l.writing {
		l.interest(false)
	}
}

// flush writes on when the connection takes more.
func (l *epollLine) flush() {
	if l.writing {
		l.write(l.out)
	}
}

// interest says whether the line is to be told when it can be written to.
func (l *epollLine) interest(writing bool) {
	l.writing = writing
	events := uint32(unix.EPOLLIN)
	if writing {
		events |= unix.EPOLLOUT
	}
	if err := l.of.loop.watch(unix.EPOLL_CTL_MOD, l.fd, events); err != nil {
		l.fail(err)
	}
}

// read reads what there is, and hands on the answer when it is whole.
func (l *epollLine) read() {
	buf := l.of.loop.buf
	n, err := unix.Read(l.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return
	case err != nil:
		l.fail(fmt.Errorf("%w: %w", errCut, err))
		return
	case !l.asked && n > 0:
		l.drop() // what nobody asked for; the next request goes over another connection
		return
	}
	b := buf[:n]
	if l.stream != nil {
		l.readOn(b, n == 0)
		return
	}
	if len(l.in) > 0 {
		l.in = append(l.in, b...)
		b = l.in
	}
	if l.cut != nil {
		if a, used, err := parseHead(b); err == nil && used > 0 && a.status == http.StatusOK {
			l.follow(&a, b[used:])
			return
		}
	}
	a, used, err := parseAnswer(b, n == 0)
	switch {
	case err != nil:
		l.fail(err)
		return
	case used == 0 && n == 0 && len(b) == 0:
		l.fail(errCut)
		return
	case used == 0 && n == 0:
		l.fail(errHalfway)
		return
	case used == 0 && len(b) > maxAnswer:
		l.fail(fmt.Errorf("%w: longer than %d bytes", errMalformed, maxAnswer))
		return
	case used == 0:
		if len(l.in) == 0 {
			l.in = append(l.in, b...)
		}
		return
	}
	l.in = nil
	l.asked = false
	if a.close || used < len(b) || n == 0 {
		l.drop()
	}
	l.of.got(l.number, &a)
}

// follow reads a stream from the end of its head on.
func (l *epollLine) follow(head *answer, b []byte) {
	_, chunked, err := head.framing()
	if err == nil && l.stops {
		err = l.of.loop.watch(unix.EPOLL_CTL_DEL, l.fd, 0)
	}
	if err != nil {
		l.fail(err)
		return
	}
	l.in = nil
	l.stream = &parts{cut: l.cut, chunked: chunked}
	if !l.stops {
		l.readOn(b, false)
	}
}

// readOn hands on the parts of a stream that have come.
func (l *epollLine) readOn(b []byte, eof bool) {
	stream := l.stream
	ended, err := stream.read(b, func(part []byte) bool {
		l.of.got(l.number, &answer{status: http.StatusOK, body: part, part: true})
		return l.stream == stream
	})
	switch {
	case l.stream != stream: // it was cut
	case err != nil:
		l.fail(err)
	case ended:
		l.stream, l.asked = nil, false
		l.of.got(l.number, &answer{status: http.StatusOK})
	case eof:
		l.fail(errHalfway)
	}
}

// fail drops the connection, and says why no answer will come when one is waited for.
func (l *epollLine) fail(err error) {
	asked := l.asked
	l.drop()
	if asked {
		l.of.got(l.number, &answer{err: err})
	}
}

// drop closes the connection, if there is one.
func (l *epollLine) drop() {
	if l.fd >= 0 {
		l.of.loop.fds[l.fd] = nil
		_ = unix.Close(l.fd) // there is nothing to do about it
	}
	l.fd, l.asked, l.writing, l.out, l.in, l.stream = -1, false, false, nil, nil, nil
}
