//go:build linux

package park

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a guest that hears its client.
type listener struct {
	*guest
	heard chan string
}

func (l *listener) Hear(b []byte) { l.heard <- string(b) }

// wantNext checks what the guest hears next, when it has asked for it.
func (l *listener) wantNext(t *testing.T, want string) {
	t.Helper()
	if heard := receive(t, "what the client sent", l.heard); heard != want {
		t.Errorf("heard %q; want %q", heard, want)
	}
}

// parkListener parks the connection of l with a guest that hears.
func (r *rig) parkListener(l *link) *listener {
	r.t.Helper()
	g := &listener{newGuest(), make(chan string, 100)}
	if err := l.conn.Park(g, r.home, time.Hour); err != nil {
		r.t.Fatal(err)
	}
	return g
}

// wantHeard checks what the guest hears, and that it is not told more than it asked
// for.
func (l *link) wantHeard(g *listener, want string) {
	l.t.Helper()
	for got := ""; got != want; {
		l.conn.Listen()
		heard := receive(l.t, "what the client sent", g.heard)
		if got += heard; len(got) > len(want) || len(heard) > hearSize {
			l.t.Fatalf("heard %.100q; want %.100q", got, want)
		}
	}
}

// end ends the connection.
func (l *link) end(g *listener) {
	l.t.Helper()
	l.answer(g.guest, "end", true)
	_ = l.wire.Close()
}

func TestAGuestHearsWhatItsClientSends(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connectWith(k, 0, []byte("early "))
		g := r.parkListener(l)
		l.send("one ")
		time.Sleep(10 * time.Millisecond)
		if len(g.heard) != 0 {
			t.Fatalf("it hears %q and does not listen", <-g.heard)
		}
		l.wantHeard(g, "early one ")
		for range 3 {
			l.conn.Listen()
			l.send("two ")
			l.wantHeard(g, "two ")
			l.part(g.guest, "part ")
			wantRead(t, l.client, "part ")
		}
		large := pattern(100_000)
		go func() { _, _ = l.client.Write(large) }()
		l.wantHeard(g, string(large))
		eventually(t, "nothing waits for it", func() bool { return !r.lot.Busy() })
		if n := g.left.Load(); n != 0 {
			t.Errorf("it was told %d times that the client left", n)
		}
		_ = l.wire.CloseWrite()
		eventually(t, "it is told that the client left", func() bool { return g.left.Load() == 1 })
		l.answer(g.guest, "end", true)
		wantRead(t, l.client, "end")
		r.wantParked(0)
	})
}

// What TLS has of it already, no event tells of.
func TestAGuestHearsAllThatCameBeforeItListened(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		for name, sends := range map[string][]string{
			"a large record": {string(pattern(2000))},
			"two records":    {"one ", "two"},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, Options{}, 0)
				l := r.connect(k)
				g := r.parkListener(l)
				cork(t, l.wire, 1)
				for _, s := range sends {
					l.send(s)
				}
				cork(t, l.wire, 0)
				eventually(t, "it is told that something came", func() bool {
					return l.conn.locked(func() bool { return !l.conn.reading && (len(l.conn.early) > 0 || l.conn.readable) })
				})
				l.wantHeard(g, strings.Join(sends, ""))
				l.end(g)
			})
		}
	})
}

// TLS may have more of what came before it was parked than is read early.
func TestAGuestHearsAllThatCameBeforeItWasParked(t *testing.T) {
	for _, k := range []kind{tls12, tls13} {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, Options{}, 0)
			l := r.connect(k)
			before, sent := strings.Repeat("x", 4<<10), string(pattern(chunkTLS))
			read := func(n int) string {
				b := make([]byte, n)
				if _, err := io.ReadFull(l.conn, b); err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			go func() { // records are small at first
				_, _ = l.client.Write(make([]byte, 256<<10))
				_, _ = l.client.Write([]byte(sent))
			}()
			read(256 << 10)
			l.conn.Unread([]byte(before + read(1)))
			g := r.parkListener(l)
			l.wantHeard(g, before+sent)
			l.conn.Listen()
			eventually(t, "nobody reads", func() bool { return l.conn.locked(func() bool { return !l.conn.reading && !l.conn.readable }) })
			l.end(g)
		})
	}
}

// Of a client that has sent something, and nothing more, no goroutine is left that
// waits for it.
func TestAGuestThatListensTakesNoGoroutine(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.parkListener(l)
		l.send("one")
		l.wantHeard(g, "one")
		l.conn.Listen()
		eventually(t, "nobody reads", func() bool { return l.conn.locked(func() bool { return !l.conn.reading && !l.conn.readable }) })
		l.send("two")
		g.wantNext(t, "two")
		l.end(g)
	})
}

func TestAGuestDoesNotHearWhileAPartIsWritten(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connectTight(k)
		g := r.parkListener(l)
		large := pattern(1 << 20)
		l.conn.Send(large, nil)
		l.conn.Listen()
		l.send("hello")
		time.Sleep(10 * time.Millisecond)
		if len(g.heard) != 0 {
			t.Fatalf("it hears %q", <-g.heard)
		}
		wantRead(t, l.client, string(large))
		receive(t, "Sent", g.sent)
		g.wantNext(t, "hello")
		l.end(g)
	})
}

// The client reads all of the end, though it sends something when that comes.
func TestAListenersClientReadsToTheEnd(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.parkListener(l)
		l.conn.Listen()
		l.answer(g.guest, "bye", true)
		for range 10 {
			_, _ = l.client.Write([]byte("bye too"))
			time.Sleep(time.Millisecond)
		}
		_ = l.client.SetReadDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(l.client); err != nil || !bytes.Equal(got, []byte("bye")) {
			t.Errorf("read %q and the error %v", got, err)
		}
		_ = l.wire.Close()
	})
}

// fullConn takes nothing while it is full, as a socket whose client does not read.
type fullConn struct {
	net.Conn
	full     atomic.Bool
	deadline atomic.Pointer[time.Time]
}

func (c *fullConn) SetDeadline(t time.Time) error {
	c.deadline.Store(&t)
	return c.Conn.SetDeadline(t)
}

func (c *fullConn) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(&t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *fullConn) Write(b []byte) (int, error) {
	for c.full.Load() {
		if d := c.deadline.Load(); d != nil && !d.IsZero() && time.Now().After(*d) {
			return 0, os.ErrDeadlineExceeded
		}
		time.Sleep(time.Millisecond)
	}
	return c.Conn.Write(b)
}

// TLS answers some records by itself, such as one that is none.
func TestNobodyWaitsForWhatTLSAnswersToAClientThatDoesNotRead(t *testing.T) {
	r := newRig(t, Options{}, 0)
	var below *fullConn
	r.below = func(c net.Conn) net.Conn {
		below = &fullConn{Conn: c}
		return below
	}
	l := r.connect(tls13)
	r.below = nil
	other := r.connect(plain)
	g, otherGuest := r.parkListener(l), r.parkListener(other)
	l.conn.Send(pattern(promptTLS+1), nil) // after which a part may be written for long
	receive(t, "Sent", g.sent)
	below.full.Store(true)
	l.conn.Listen()
	other.conn.Listen()
	cork(t, l.wire, 1) // in one segment: a record, and one that is none
	l.send("x")
	_, _ = l.wire.Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...))
	cork(t, l.wire, 0)
	time.Sleep(20 * time.Millisecond)
	_, _ = l.wire.Write([]byte("y")) // of which the lot is told
	time.Sleep(20 * time.Millisecond)
	other.send("hello")
	otherGuest.wantNext(t, "hello")
	below.full.Store(false)
	_ = l.wire.Close()
	eventually(t, "it is told that the client left", func() bool { return g.left.Load() == 1 })
	l.conn.Answer(nil, nil, true)
	receive(t, "Answered", g.answered)
	other.end(otherGuest)
}

// cork has a socket keep back what is written until it is let go.
func cork(t *testing.T, c *net.TCPConn, on int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}
