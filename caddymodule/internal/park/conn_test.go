//go:build linux

package park

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (c *Conn) is(s state) bool { return c.locked(func() bool { return c.state == s }) }

func (r *rig) wantParked(n int) {
	r.t.Helper()
	if got := r.lot.Parked(); got != n {
		r.t.Errorf("%d are parked, want %d", got, n)
	}
}

// settled waits until all events that have come so far were noticed.
func (r *rig) settled() {
	r.t.Helper()
	l := r.connect(plain)
	g := r.park(l)
	_ = l.wire.Close()
	eventually(r.t, "the last event is noticed", func() bool { return g.left.Load() > 0 })
	l.answer(g, "", true)
}

// unread returns how many bytes wait in the server's socket.
func (l *link) unread() int {
	l.t.Helper()
	n, err := unix.IoctlGetInt(int(l.conn.fd), unix.TIOCINQ)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

func TestAConnectionIsParkedAnsweredAndComesHomeAgainAndAgain(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		for round := range 20 {
			g := r.park(l)
			r.wantParked(1)
			if err := l.conn.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("closing it while it is parked has the error %v", err)
			}
			answer := fmt.Sprintf("answer %d", round)
			l.answer(g, answer, false)
			wantRead(t, l.client, answer)
			r.wantParked(1)
			if !l.conn.is(idle) {
				t.Error("it is not idle")
			}
			request := fmt.Sprintf("request %d", round)
			l.send(request)
			r.wantBack(l, request)
			r.wantParked(0)
			if n := g.answers.Load(); n != 1 || g.left.Load() != 0 || g.expired.Load() != 0 {
				t.Errorf("the guest was answered %d times, left %d times and expired %d times", n, g.left.Load(), g.expired.Load())
			}
		}
	})
}

func TestTheServerGetsAConnectionOfTheSameSort(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.park(l)
		l.answer(g, "answer", false)
		wantRead(t, l.client, "answer")
		l.send("request")
		c := r.back()
		wantRead(t, c, "request")
		secure, ok := c.(interface{ ConnectionState() tls.ConnectionState })
		if ok != (k != plain) || ok && secure.ConnectionState().Version != uint16(k) {
			t.Errorf("as a server sees it, it is a %T", c)
		}
		if c.LocalAddr().String() != l.client.RemoteAddr().String() || c.RemoteAddr().String() != l.client.LocalAddr().String() {
			t.Errorf("it is from %v to %v", c.LocalAddr(), c.RemoteAddr())
		}
		if n, err := io.Copy(c, strings.NewReader("a file")); n != 6 || err != nil {
			t.Errorf("%d bytes were copied, and the error %v", n, err)
		}
		wantRead(t, l.client, "a file")
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		l.wantAll(nil)
		l.send("late")
		wantRead(t, c, "late")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed again with the error %v", err)
		}
	})
}

func TestOfKnowsOnlyItsOwn(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if c := Of(a); c != nil {
		t.Errorf("%v is none", c)
	}
}

func TestWhatWasReadBeforeComesFirst(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connectWith(k, 0, []byte("one "))
		l.send("two ")
		g := r.park(l)
		l.answer(g, "answer", false)
		wantRead(t, l.client, "answer")
		c := r.back()
		wantRead(t, c, "one two ")

		l.send("three four ")
		wantRead(t, c, "three ") // and the rest, the server read too
		buffered := make([]byte, 5)
		if _, err := io.ReadFull(c, buffered); err != nil {
			t.Fatal(err)
		}
		if Of(c) != l.conn {
			t.Fatal("it is another")
		}
		l.conn.Unread(buffered)
		g = r.park(l)
		l.send("five ")
		l.answer(g, "answer", false)
		wantRead(t, l.client, "answer")
		c = r.back()
		if Of(c) != l.conn {
			t.Fatal("it is another")
		}
		l.conn.Unread([]byte("and ")) // before it was asked for the rest
		l.send("six")
		wantRead(t, c, "and four five six")
	})
}

func TestWhatTheLayersAboveTheSocketHaveIsNotForgotten(t *testing.T) {
	for _, k := range []kind{tls12, tls13} {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, Options{}, 0)
			l := r.connect(k)
			request := string(pattern(12 << 10))
			l.send(request)
			wantRead(t, l.conn, request[:100]) // TLS has the rest of its record now
			g := r.park(l)
			l.answer(g, "answer", false)
			wantRead(t, l.client, "answer")
			r.wantBack(l, request[100:])
		})
	}
}

func TestWhatTheServerLeftUnreadBringsItHomeAgain(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.park(l)
		l.answer(g, "answer", false)
		wantRead(t, l.client, "answer")
		l.send("one.")
		l.send("two.")
		for _, want := range []string{"one.", "two."} {
			r.wantBack(l, want)
			g = r.park(l)
			l.answer(g, "answer", false)
			wantRead(t, l.client, "answer")
		}
	})
}

// The server need not look into the socket for the request that it was given as
// read before, so it does not know that the socket has another.
func TestWhatComesBehindARequestThatWasReadBeforeIsNotForgotten(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.park(l)
		l.answer(g, "answer", false)
		wantRead(t, l.client, "answer")
		l.send("one.two.")
		c := r.back()
		room := make([]byte, 100)
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if n, err := c.Read(room); err != nil || string(room[:n]) != "one.two." {
			t.Fatalf("read %q and the error %v", room[:n], err)
		}
		_ = c.SetReadDeadline(time.Time{})
		Of(c).Unread([]byte("two."))
		g = r.park(l)
		l.send("three.")
		r.settled()
		for _, want := range []string{"two.", "three."} {
			l.answer(g, "answer", false)
			wantRead(t, l.client, "answer")
			r.wantBack(l, want)
			g = r.park(l)
		}
		l.answer(g, "answer", true)
	})
}

func TestWhatComesWhileAGuestWaitsIsHandedOverAfterTheAnswer(t *testing.T) {
	for name, noticed := range map[string]bool{"noticed": true, "just come": false} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, k kind) {
				r := newRig(t, Options{}, 0)
				l := r.connect(k)
				for range 5 {
					g := r.park(l)
					l.send("next")
					if noticed {
						eventually(t, "it is noticed", func() bool {
							return l.conn.locked(func() bool { return k == plain && l.conn.readable || len(l.conn.early) > 0 })
						})
						if !l.conn.is(waiting) {
							t.Error("it does not wait for its answer")
						}
						l.send(" one")
					} else {
						l.send(" one")
					}
					l.answer(g, "answer", false)
					wantRead(t, l.client, "answer")
					r.wantBack(l, "next one")
					if n := g.left.Load(); n != 0 {
						t.Errorf("the guest was told %d times that its client left", n)
					}
				}
			})
		})
	}
}

// leavings are how a client can leave.
var leavings = map[string]func(*link){
	"FIN": func(l *link) { _ = l.wire.CloseWrite() },
	"RST": func(l *link) {
		_ = l.wire.SetLinger(0)
		_ = l.wire.Close()
	},
	"close": func(l *link) { _ = l.client.Close() },
	"close_notify": func(l *link) {
		if secure, ok := l.client.(*tls.Conn); ok {
			_ = secure.CloseWrite()
		} else {
			_ = l.wire.CloseWrite()
		}
	},
	"FIN, then RST": func(l *link) {
		_ = l.wire.CloseWrite()
		eventually(l.t, "it is noticed", func() bool { return l.conn.locked(func() bool { return l.conn.hangup }) })
		_ = l.wire.SetLinger(0)
		_ = l.wire.Close()
	},
	"close_notify, then FIN": func(l *link) {
		if secure, ok := l.client.(*tls.Conn); ok {
			_ = secure.CloseWrite()
			eventually(l.t, "it is noticed", func() bool { return l.conn.locked(func() bool { return l.conn.hangup }) })
		}
		_ = l.wire.Close()
	},
}

func TestAGuestIsToldOnceThatItsClientLeft(t *testing.T) {
	for name, leave := range leavings {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, k kind) {
				r := newRig(t, Options{}, 0)
				l := r.connect(k)
				g := r.park(l)
				r.settled()
				if g.left.Load() != 0 {
					t.Error("it was told before")
				}
				leave(l)
				eventually(t, "it is told", func() bool { return g.left.Load() > 0 })
				r.settled()
				if n := g.left.Load(); n != 1 {
					t.Errorf("it was told %d times", n)
				}
				r.wantParked(1)
				l.conn.Answer([]byte("answer"), nil, true)
				receive(t, "Answered", g.answered)
				if name == "FIN" { // it may still read
					l.wantAll([]byte("answer"))
				}
			})
		})
	}
}

func TestAGuestIsToldOfAClientThatLeftBeforeItWasParked(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		for _, again := range []bool{false, true} {
			l := r.connect(k)
			if again {
				g := r.park(l)
				l.answer(g, "answer", false)
				wantRead(t, l.client, "answer")
				l.send("request")
				r.wantBack(l, "request")
			}
			_ = l.client.Close()
			r.settled()
			g := r.park(l)
			eventually(t, "it is told", func() bool { return g.left.Load() > 0 })
			l.conn.Answer(nil, nil, true)
			receive(t, "Answered", g.answered)
		}
	})
}

func TestAClientThatLeavesAfterItsAnswerLeavesNothing(t *testing.T) {
	for name, leave := range leavings {
		if strings.Contains(name, "then") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, k kind) {
				r := newRig(t, Options{}, 0)
				l := r.connect(k)
				g := r.park(l)
				l.answer(g, "answer", false)
				wantRead(t, l.client, "answer")
				leave(l)
				if k == plain {
					eventually(t, "it is closed", func() bool { return l.conn.is(closed) })
				} else { // only its server can tell a request from a farewell
					c := r.back()
					_ = c.SetReadDeadline(time.Now().Add(patience))
					if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
						t.Errorf("the server read %d bytes and the error %v", n, err)
					}
					_ = c.Close()
				}
				r.wantParked(0)
				if len(r.lot.all()) != 0 {
					t.Error("the lot still knows it")
				}
				if g.left.Load() != 0 {
					t.Error("the guest was told that its client left, which has its answer")
				}
			})
		})
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// What comes in front of a FIN is a request.
func TestARequestOfAClientThatSendsNoMoreComesHome(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		for _, early := range []bool{false, true} {
			l := r.connect(k)
			g := r.park(l)
			if !early {
				l.answer(g, "answer", false)
			}
			l.send("request")
			if early {
				r.settled()
			}
			_ = l.wire.CloseWrite()
			if early {
				r.settled()
				l.answer(g, "answer", false)
			}
			r.wantBack(l, "request")
			g = r.park(l)
			eventually(t, "the guest is told that its client left", func() bool { return g.left.Load() > 0 })
			l.answer(g, " and another", true)
			l.wantAll([]byte("answer and another"))
		}
	})
}

func TestTheLastAnswerIsReadAndThenTheEnd(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.park(l)
		l.answer(g, "answer", true)
		r.wantParked(0)
		l.wantAll([]byte("answer"))
	})
}

// A socket that is closed while something in it is unread resets the connection,
// which takes from the client what it has not read yet.
func TestTheLastAnswerIsReadAlsoByAClientThatSentMore(t *testing.T) {
	for name, more := range map[string]func(*rig, *link){
		"that was noticed": func(r *rig, _ *link) { r.settled() },
		"that is the end of what it sends": func(r *rig, l *link) {
			_ = l.wire.CloseWrite()
			r.settled()
		},
		"that was not noticed yet": func(r *rig, _ *link) { /* see below */ },
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, k kind) {
				r := newRig(t, Options{}, 0)
				l := r.connectWith(k, 0, nil)
				_ = l.wire.SetReadBuffer(tight) // so that much is in the server's socket
				_ = l.socket.SetWriteBuffer(1 << 20)
				g := r.park(l)
				notice := func() {}
				if name == "that was not noticed yet" {
					// The goroutine that notices is kept busy by another connection.
					other := r.connect(plain)
					busy := r.park(other)
					other.conn.mu.Lock()
					notice = sync.OnceFunc(other.conn.mu.Unlock)
					other.send("x")
					defer func() { other.answer(busy, "", true) }()
					defer notice()
				}
				l.send("more than was wanted")
				eventually(t, "it is there", func() bool {
					return l.unread() > 0 || k != plain && l.conn.locked(func() bool { return len(l.conn.early) > 0 })
				})
				more(r, l)
				answer := pattern(64 << 10)
				l.answer(g, string(answer), true)
				if l.conn.is(closing) {
					r.lot.wheel.set(l.conn, time.Minute) // a busy machine may be slower than its time is long
				}
				l.wantAll(answer)
				notice()
				_ = l.client.Close()
				eventually(t, "it is closed", func() bool { return l.conn.is(closed) })
			})
		})
	}
}

func TestAClientThatSentMoreAndStaysIsClosed(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.park(l)
		l.send("more than was wanted")
		r.settled()
		l.answer(g, "answer", true)
		l.wantAll([]byte("answer")) // before that time is over
		if k == tls13 {             // the others need not wait as well
			eventually(t, "it is closed", func() bool { return l.conn.is(closed) })
		} else if n := r.lot.CloseIdle(func(*Conn, *Home) bool { return true }); n > 1 {
			t.Errorf("%d were closed", n)
		}
		r.wantParked(0)
	})
}

func TestAGuestIsToldWhenItsTimeIsOver(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := newGuest()
		begin := time.Now()
		const limit = 30 * time.Millisecond
		if err := l.conn.Park(g, r.home, limit); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is told", func() bool { return g.expired.Load() > 0 })
		if took := time.Since(begin); took < limit {
			t.Errorf("it was told after %v", took)
		}
		if !l.conn.is(waiting) {
			t.Error("it does not wait any more")
		}
		l.answer(g, "answer", false)
		wantRead(t, l.client, "answer")
		if n := g.expired.Load(); n != 1 {
			t.Errorf("it was told %d times", n)
		}
	})
}

// due returns when the time limit of c is over, as a tick. 0: there is none.
func (c *Conn) due() int64 {
	c.lot.wheel.mu.Lock()
	defer c.lot.wheel.mu.Unlock()
	return c.limit.due
}

func TestNoTimeLimitIsLeftOfAGuestThatWasAnswered(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.park(l)
		l.conn.expire() // found to be due before it was set anew
		if l.conn.due() == 0 || g.expired.Load() != 0 {
			t.Errorf("the limit is tick %d, and expired %d times", l.conn.due(), g.expired.Load())
		}
		l.answer(g, "answer", false)
		if l.conn.due() != 0 {
			t.Errorf("the limit is tick %d", l.conn.due())
		}
		l.conn.expire()
		wantRead(t, l.client, "answer")
		l.send("request")
		r.wantBack(l, "request")
		l.conn.expire()
		l.send("more")
		wantRead(t, l.conn, "more")
		if g.expired.Load() != 0 {
			t.Error("the guest was told that its time is over")
		}
	})
}

func TestAnIdleConnectionIsClosedAfterItsTime(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		const limit = 30 * time.Millisecond
		r := newRig(t, Options{}, limit)
		l := r.connect(k)
		g := r.park(l)
		begin := time.Now()
		l.answer(g, "answer", false)
		wantRead(t, l.client, "answer")
		l.wantAll(nil)
		if took := time.Since(begin); took < limit {
			t.Errorf("it was closed after %v", took)
		}
		eventually(t, "it is gone", func() bool { return r.lot.Parked() == 0 && len(r.lot.all()) == 0 })
	})
}

func TestOnlyIdleConnectionsAreClosedAsSuch(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		var guests []*guest
		var links []*link
		for range 4 {
			l := r.connectTight(k)
			links = append(links, l)
			guests = append(guests, r.park(l))
		}
		waits, served, rests, writes := links[0], links[1], links[2], links[3]
		served.answer(guests[1], "answer", false)
		wantRead(t, served.client, "answer")
		served.send("request")
		r.wantBack(served, "request")
		rests.answer(guests[2], "answer", false)
		big := pattern(4 << 20)
		writes.conn.Answer(nil, [][]byte{big}, true)

		elsewhere := r.connect(k)
		other := newHome(0)
		g := newGuest()
		if err := elsewhere.conn.Park(g, other, time.Hour); err != nil {
			t.Fatal(err)
		}
		elsewhere.answer(g, "answer", false)

		if n := r.lot.CloseIdle(func(_ *Conn, h *Home) bool { return h == r.home }); n != 1 {
			t.Errorf("%d of one home were closed", n)
		}
		rests.wantAll([]byte("answer"))
		if n := r.lot.CloseIdle(func(*Conn, *Home) bool { return true }); n != 1 {
			t.Errorf("%d of all homes were closed", n)
		}
		elsewhere.wantAll([]byte("answer"))
		r.wantParked(2)
		writes.wantAll(big)
		waits.answer(guests[0], "answer", true)
		waits.wantAll([]byte("answer"))
		served.send("more")
		wantRead(t, served.conn, "more")
	})
}

func TestALotIsFullAboveItsBound(t *testing.T) {
	r := newRig(t, Options{MaxConns: 2}, 0)
	var links []*link
	var guests []*guest
	for n := range 4 {
		l := r.connect(plain)
		links, guests = append(links, l), append(guests, r.park(l))
		if full := l.conn.LotIsFull(); full != (n >= 2) {
			t.Errorf("with %d parked it is full: %v", n+1, full)
		}
	}
	for i, l := range links {
		l.answer(guests[i], "answer", true)
		if full := links[3].conn.LotIsFull(); full != (4-i-1 > 2) {
			t.Errorf("with %d parked it is full: %v", 4-i-1, full)
		}
	}
}

func TestALotWithoutABoundIsNeverFull(t *testing.T) {
	r := newRig(t, Options{}, 0)
	l := r.connect(plain)
	g := r.park(l)
	if l.conn.LotIsFull() {
		t.Error("it is full")
	}
	l.answer(g, "answer", true)
}

func TestTheServerMayCloseAConnectionItWasGivenBack(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := r.park(l)
		l.answer(g, "answer", false)
		l.send("request")
		r.wantBack(l, "request")
		if err := l.conn.Close(); err != nil {
			t.Error(err)
		}
		l.wantAll([]byte("answer"))
		if len(r.lot.all()) != 0 {
			t.Error("the lot still knows it")
		}
	})
}

func TestAConnectionThatCannotBeParkedIsAsItWas(t *testing.T) {
	r := newRig(t, Options{}, 0)
	l := r.connect(plain)
	fd := l.conn.fd
	l.conn.fd = int32(r.lot.fd) // which an epoll set does not take: it is its own
	g := newGuest()
	if err := l.conn.Park(g, r.home, time.Millisecond); err == nil {
		t.Fatal("it is parked")
	}
	l.conn.fd = fd
	r.wantParked(0)
	if len(r.lot.all()) != 0 || l.conn.due() != 0 || !l.conn.is(serving) {
		t.Error("something is left of it")
	}
	l.send("request")
	wantRead(t, l.conn, "request")
	g = r.park(l) // which it can be now
	l.answer(g, "answer", true)
	l.wantAll([]byte("answer"))
}

func TestADescriptorThatIsUsedAgainIsAnotherConnection(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		used := make(map[int32]int)
		for range 20 {
			l := r.connect(k)
			used[l.conn.fd]++
			g := r.park(l)
			if old := l.conn.gen - 1; old > 0 {
				// What was told of the one before is not told of this one.
				if n := len(r.lot.all()); n != 1 {
					t.Errorf("the lot knows %d", n)
				}
			}
			l.send("request")
			l.answer(g, "answer", true)
			_ = l.client.Close()
			eventually(t, "it is closed", func() bool { return l.conn.is(closed) })
		}
		if len(used) == 20 {
			t.Skip("no descriptor was used again")
		}
	})
}

// fill fills the socket of the server, to the last byte.
func (l *link) fill() {
	l.t.Helper()
	for _, size := range []int{16 << 20, 1 << 10, 1} {
		for {
			_ = l.socket.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := l.socket.Write(make([]byte, size)); isTimeout(err) {
				break
			} else if err != nil {
				l.t.Fatal(err)
			}
		}
	}
	_ = l.socket.SetWriteDeadline(time.Time{})
}

// A client that reads nothing keeps TLS from saying farewell. Nobody may have to
// wait for that.
func TestAFarewellThatCannotBeSaidHoldsUpNobody(t *testing.T) {
	const soon = 3 * time.Second // TLS itself waits for 5
	for name, test := range map[string]func(*testing.T, *rig, *link){
		"when all that are idle are closed": func(t *testing.T, r *rig, l *link) {
			g := r.park(l)
			l.answer(g, "answer", false)
			l.fill()
			begin := time.Now()
			r.lot.CloseIdle(func(*Conn, *Home) bool { return true })
			if took := time.Since(begin); took > soon {
				t.Errorf("to close one took %v", took)
			}
		},
		"when it was idle for too long": func(t *testing.T, r *rig, l *link) {
			g := r.park(l)
			l.answer(g, "answer", false)
			l.fill()
			other := r.connect(plain)
			waits := r.park(other)
			r.lot.wheel.set(other.conn, 50*time.Millisecond) // as long as the other
			r.lot.wheel.set(l.conn, 50*time.Millisecond)
			begin := time.Now()
			eventually(t, "the time of another is over", func() bool { return waits.expired.Load() > 0 })
			if took := time.Since(begin); took > soon {
				t.Errorf("another, whose limit was over as well, was told after %v", took)
			}
			other.conn.Answer(nil, nil, true)
		},
		"when it sent more than was wanted": func(t *testing.T, r *rig, l *link) {
			g := r.park(l)
			l.send("more than was wanted")
			r.settled()
			other := r.connect(plain)
			waits := r.park(other)
			saysFarewell := make(chan struct{})
			go l.conn.Answer(nil, [][]byte{pattern(promptTLS + 1)}, true)
			wrap, _ := l.conn.inner.(*tls.Conn)
			if wrap != nil {
				saysFarewell = wrap.NetConn().(*stuck).farewell
			} else {
				close(saysFarewell)
			}
			receive(t, "a farewell", saysFarewell)
			begin := time.Now()
			_ = l.wire.Close() // which is noticed before the other
			_ = other.wire.Close()
			eventually(t, "another is noticed", func() bool { return waits.left.Load() > 0 })
			if took := time.Since(begin); took > soon {
				t.Errorf("another was noticed after %v", took)
			}
			receive(t, "Answered", g.answered)
			other.conn.Answer(nil, nil, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, k kind) {
				r := newRig(t, Options{}, 0)
				if name == "when it sent more than was wanted" {
					if k == tls13 {
						t.Skip("of TLS 1.3 a farewell cannot be told from an answer")
					}
					r.below = func(c net.Conn) net.Conn { return &stuck{Conn: c, farewell: make(chan struct{})} }
				}
				test(t, r, r.connectTight(k))
			})
		})
	}
}

// stuck is a socket that takes all but a farewell of TLS 1.2, as one does that has
// become full.
type stuck struct {
	net.Conn
	until    time.Time
	farewell chan struct{} // closed when it waits
}

func (s *stuck) SetWriteDeadline(t time.Time) error {
	s.until = t
	return s.Conn.SetWriteDeadline(t)
}

func (s *stuck) Write(p []byte) (int, error) {
	const alert = 21
	if p[0] == alert {
		select {
		case <-s.farewell:
		default:
			close(s.farewell)
		}
		time.Sleep(time.Until(s.until))
		return 0, os.ErrDeadlineExceeded
	}
	return s.Conn.Write(p)
}
