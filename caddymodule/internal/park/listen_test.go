//go:build linux

package park

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// listener is a guest that hears its client.
type listener struct {
	*guest
	heard chan string
}

func (l *listener) Hear(b []byte) { l.heard <- string(b) }

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
		if heard := receive(t, "what the client sent", g.heard); heard != "two" {
			t.Errorf("heard %q", heard)
		}
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
		if heard := receive(t, "what the client sent", g.heard); heard != "hello" {
			t.Errorf("heard %q", heard)
		}
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
