package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// floor is no real server: one thread with an epoll set, no HTTP beyond the request
// line, one write for each that waits. It shows what the kernel and the load generator
// take, which no server of one thread can do with much less than.
//
// GET /NAME waits, POST /NAME publishes its body. A request is taken to come in one
// piece.
type floor struct {
	listener int
	wake     int // an eventfd, readable when the floor is to end
	ep       int
	waiting  map[string][]int // connections, by path
	buf      []byte
	out      []byte
}

// runFloor serves at an address of this machine until the context ends.
func runFloor(ctx context.Context, address string) error {
	addr, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	if !addr.IP.IsLoopback() {
		return fmt.Errorf("--addr %s: the floor is for this machine alone: give an address such as 127.0.0.1:7700", address)
	}
	if _, err := raiseDescriptors(); err != nil {
		return err
	}
	runtime.LockOSThread()
	f := &floor{waiting: map[string][]int{}, buf: make([]byte, 64<<10)}
	if err := f.listen(addr); err != nil {
		return fmt.Errorf("listening at %s: %w", address, err)
	}
	context.AfterFunc(ctx, func() {
		_, _ = unix.Write(f.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // an eventfd takes a number
	})
	fmt.Fprintf(os.Stderr, "floor: at http://%s\n", address)
	return f.serve()
}

func (f *floor) listen(addr *net.TCPAddr) error {
	var err error
	if f.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(f.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(f.listener, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
		return err
	}
	if err := unix.Listen(f.listener, 4096); err != nil {
		return err
	}
	if f.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if f.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	return errors.Join(f.watch(f.listener), f.watch(f.wake))
}

func (f *floor) watch(fd int) error {
	return unix.EpollCtl(f.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (f *floor) serve() error {
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(f.ep, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			switch int(e.Fd) {
			case f.listener:
				f.accept()
			case f.wake:
				return nil
			default:
				f.read(int(e.Fd))
			}
		}
	}
}

// accept takes the connections that there are.
func (f *floor) accept() {
	for {
		fd, _, err := unix.Accept4(f.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		// Without it answers only come later.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := f.watch(fd); err != nil {
			_ = unix.Close(fd)
		}
	}
}

// read takes a request. A client that does not take its answer goes without.
func (f *floor) read(fd int) {
	n, err := unix.Read(fd, f.buf)
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if err != nil || n <= 0 {
		_ = unix.Close(fd)
		return
	}
	head, body, _ := bytes.Cut(f.buf[:n], []byte("\r\n\r\n"))
	line := bytes.Fields(head[:min(len(head), 200)])
	if len(line) < 2 {
		return
	}
	path := string(line[1])
	if line[0][0] == 'G' {
		f.waiting[path] = append(f.waiting[path], fd)
		return
	}
	f.out = fmt.Appendf(f.out[:0], "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for _, waiting := range f.waiting[path] {
		_, _ = unix.Write(waiting, f.out)
	}
	delete(f.waiting, path)
	_, _ = unix.Write(fd, []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
}
