//go:build linux

package park

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// ticket counts how often it was lost.
type ticket struct{ lost atomic.Int32 }

func (t *ticket) Lose() { t.lost.Add(1) }

// resume has a parked connection go home with a request and a ticket, and returns it as
// its server has it then.
func (r *rig) resume(l *link, head string) (net.Conn, *ticket) {
	r.t.Helper()
	t := new(ticket)
	l.conn.Resume([]byte(head), r.home, t)
	return r.back(), t
}

func TestAConnectionGoesHomeWithTheRequestThatItWasParkedWith(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		r.park(l)
		l.send("GET /next HTTP/1.1\r\n\r\n") // what the client sends meanwhile comes after it
		c, ticket := r.resume(l, request)
		wantRead(t, c, request)
		if got := Of(c).TakeTicket(); got != ticket {
			t.Fatalf("the ticket is %v", got)
		}
		if got := Of(c).TakeTicket(); got != nil {
			t.Fatalf("there is another ticket: %v", got)
		}
		wantRead(t, c, "GET /next HTTP/1.1\r\n\r\n")
		if _, err := c.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		wantRead(t, l.client, "answer")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if n := ticket.lost.Load(); n != 0 {
			t.Errorf("a ticket that was taken was lost %d times", n)
		}
	})
}

func TestATicketIsLostWhenItsRequestIsAnsweredWithoutIt(t *testing.T) {
	for name, end := range map[string]func(r *rig, l *link, c net.Conn) error{
		"written": func(_ *rig, _ *link, c net.Conn) error {
			_, err := c.Write([]byte("no"))
			return err
		},
		"closed": func(_ *rig, _ *link, c net.Conn) error { return c.Close() },
		"parked again": func(r *rig, l *link, _ net.Conn) error {
			l.answer(r.park(l), "no", true)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{}, 0)
			l := r.connect(plain)
			r.park(l)
			c, ticket := r.resume(l, request)
			wantRead(t, c, request)
			if err := end(r, l, c); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the ticket is lost", func() bool { return ticket.lost.Load() == 1 })
			if Of(c).TakeTicket() != nil {
				t.Error("it is still there")
			}
		})
	}
}

func TestAConnectionComesBackWhenItsServerWaitsForAFurtherRequest(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, time.Hour)
		l := r.connect(k)
		c := r.comeHome(l, request)
		for range 3 {
			wantRead(t, c, request)
			Of(c).Return()
			if _, err := c.Write([]byte("answer")); err != nil {
				t.Fatal(err)
			}
			wantRead(t, l.client, "answer")
			Of(c).Await()
			if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Fatalf("read %d bytes with the error %v", n, err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if !l.conn.is(idle) {
				t.Fatal("it does not wait in the lot")
			}
			r.wantParked(1)
			l.send(request)
			c = r.back()
		}
	})
}

// A server may have read the beginning of the next request, to see whether the client
// leaves.
func TestAConnectionStaysWhenItsServerHasReadOfAFurtherRequest(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		for name, early := range map[string]int{"nothing": 0, "a byte": 1, "all": len(request)} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, Options{}, time.Hour)
				l := r.connect(k)
				c := r.comeHome(l, request)
				wantRead(t, c, request)
				Of(c).Return()
				l.send(request)
				wantRead(t, c, request[:early])
				if _, err := c.Write([]byte("answer")); err != nil {
					t.Fatal(err)
				}
				wantRead(t, l.client, "answer")
				if early < len(request) {
					eventually(t, "the rest is there", func() bool { return early > 0 && k != plain || l.unread() > 0 })
				}
				Of(c).Await()
				if early < len(request) {
					wantRead(t, c, request[early:])
				} else {
					l.send("more")
					wantRead(t, c, "more")
				}
			})
		}
	})
}

func TestAConnectionDoesNotComeBackUnasked(t *testing.T) {
	r := newRig(t, Options{}, time.Hour)
	l := r.connect(plain)
	c := r.comeHome(l, request)
	wantRead(t, c, request)
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	wantRead(t, l.client, "answer")
	Of(c).Await()
	l.send(request)
	wantRead(t, c, request)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	l.wantAll(nil)
}
