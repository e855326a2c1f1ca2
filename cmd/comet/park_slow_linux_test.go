package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// narrow opens a connection through which little goes while nothing is read: a small
// window, and small segments, or the kernel of the server takes a whole answer.
func narrow(t *testing.T, s *comettest.Server, port string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096),
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536))
		})
		return errors.Join(err, failed)
	}}
	conn, err := dialer.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port(port))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

var narrowLinks = map[string]func(*testing.T, *comettest.Server) *link{
	"plain": func(t *testing.T, s *comettest.Server) *link { return newLink(t, narrow(t, s, "HTTP"), "127.0.0.1") },
	"TLS":   func(t *testing.T, s *comettest.Server) *link { return tlsLinkOver(t, s, narrow(t, s, "HTTPS"), nil) },
}

func TestParkedClientsThatReadSlowlyDelayNobodyAndGetEveryByte(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "")
	overBoth(t, s, "a large answer", func(t *testing.T, dial func() *link, field string) {
		kind := "plain"
		if _, isTCP := dial().Conn.(*net.TCPConn); !isTCP {
			kind = "TLS"
		}
		mebibyte := large(1 << 20)
		const n = 8
		var slow, quick []*link
		for range n {
			l := narrowLinks[kind](t, s)
			l.get(holdOn(field))
			slow = append(slow, l)
		}
		for range n {
			l := dial()
			l.get(holdOn(field))
			quick = append(quick, l)
		}
		comettest.WaitSubscribers(t, s, field, 2*n)
		start := time.Now()
		comettest.PublishAs(t, s, "field="+field, "text/plain", mebibyte)
		elapsed(t, "publishing", start, 0, 5*time.Second)
		for _, l := range quick {
			wantTexts(t, l.answer(), field+"="+mebibyte)
		}
		elapsed(t, "the others", start, 0, 5*time.Second)
		// While the slow ones do not read, the others go on.
		for n := range 5 {
			for _, l := range quick {
				l.get(holdOn(field))
			}
			comettest.WaitSubscribers(t, s, field, len(quick))
			start := time.Now()
			comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, n))
			for _, l := range quick {
				wantTexts(t, l.answer(), fmt.Sprintf("%s=%d", field, n))
			}
			elapsed(t, "the others", start, 0, 5*time.Second)
		}
		time.Sleep(time.Until(start.Add(time.Second)))
		var group sync.WaitGroup
		for i, l := range slow {
			group.Go(func() {
				a, err := l.tryAnswer("GET")
				if err != nil {
					t.Errorf("slow client %d: %v", i, err)
					return
				}
				if got := a.Texts(); len(got) != 1 || got[0] != field+"="+mebibyte {
					t.Errorf("slow client %d got %d messages, %d bytes", i, len(got), len(a.Body))
				}
			})
		}
		group.Wait()
		if t.Failed() {
			return
		}
		for n, l := range slow { // and their connections go on
			l.holdAndWake(s, field, fmt.Sprint("after ", n))
			l.get("/static.txt")
			l.wantBody(staticText)
		}
	})

	overBoth(t, s, "a client that reads a little at a time", func(t *testing.T, dial func() *link, field string) {
		kind := "plain"
		if _, isTCP := dial().Conn.(*net.TCPConn); !isTCP {
			kind = "TLS"
		}
		body := large(300_000)
		l := narrowLinks[kind](t, s)
		l.hold(s, field)
		l.get("/static.txt") // ahead
		comettest.PublishAs(t, s, "field="+field, "text/plain", body)
		var got []byte
		piece := make([]byte, 4096)
		for len(got) < 200_000 {
			n, err := l.r.Read(piece)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, piece[:n]...)
			time.Sleep(2 * time.Millisecond)
		}
		l.r = bufio.NewReader(io.MultiReader(bytes.NewReader(got), l.r))
		wantTexts(t, l.answer(), field+"="+body)
		l.wantBody(staticText)
	})
}

func TestAParkedClientThatNeverReadsIsDropped(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	s := startStatic(t, "", "")
	field := freshField(t, s)
	plainLink(t, s).Close()
	tlsLink(t, s).Close()
	calm := openFiles(s)
	const n = 5
	var all []*link
	for range n {
		for _, dial := range narrowLinks {
			l := dial(t, s)
			l.get(holdOn(field))
			all = append(all, l)
		}
	}
	comettest.WaitSubscribers(t, s, field, len(all))
	comettest.PublishAs(t, s, "field="+field, "text/plain", large(1<<20))
	start := time.Now()
	bound := 90 * time.Second // Caddy's own is a minute
	if comettest.Parks(t) {
		bound = 45 * time.Second
	}
	comettest.Eventually(t, bound, func() bool { return openFiles(s) <= calm+3 },
		fmt.Sprintf("of %d connections that are not read from the descriptors stay", len(all)))
	t.Logf("dropped after %s", time.Since(start).Round(100*time.Millisecond))
	comettest.WaitSubscribers(t, s, field, 0)
	if n := heldNow(t, s); n > 0 {
		t.Errorf("%d are counted as held", n)
	}
}
