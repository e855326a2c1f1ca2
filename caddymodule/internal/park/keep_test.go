//go:build linux

package park

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// comeHome has the connection of l come home with a request, and returns it as its
// server has it then.
func (r *rig) comeHome(l *link, request string) net.Conn {
	r.t.Helper()
	g := r.park(l)
	l.answer(g, "first", false)
	wantRead(r.t, l.client, "first")
	l.send(request)
	return r.back()
}

// keep has a connection kept, and parked with the guest that it returns when it is
// closed.
func (r *rig) keep(c net.Conn) (g *guest, ok bool) {
	g = newGuest()
	kept := Of(c)
	ok = kept.Keep(func() {
		if err := kept.Park(g, r.home, time.Hour); err != nil {
			r.t.Error(err)
		}
	})
	return g, ok
}

const request = "GET /push HTTP/1.1\r\nHost: localhost\r\n\r\n"

func TestAConnectionMayBeKeptWhenItsServerClosesIt(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		c := r.comeHome(l, request)
		for range 3 {
			wantRead(t, c, request)
			g, ok := r.keep(c)
			if !ok {
				t.Fatal("it was not kept")
			}
			// What a server does that closes a connection.
			if n, err := c.Write([]byte("not for the client")); n != 18 || err != nil {
				t.Fatalf("wrote %d bytes with the error %v", n, err)
			}
			if n, err := c.(io.ReaderFrom).ReadFrom(strings.NewReader("nor this")); n != 8 || err != nil {
				t.Fatalf("wrote %d bytes with the error %v", n, err)
			}
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if !l.conn.is(waiting) {
				t.Fatal("it is not parked")
			}
			l.answer(g, "second", false)
			wantRead(t, l.client, "second")
			l.send(request)
			c = r.back()
		}
	})
}

func TestWhatComesAfterARequestThatWasKeptIsServedNext(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		for name, read := range map[string]int{"not read": 0, "begun to be read": 1, "read": 3} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, Options{}, 0)
				l := r.connect(k)
				c := r.comeHome(l, request)
				wantRead(t, c, request)
				g, ok := r.keep(c)
				if !ok {
					t.Fatal("it was not kept")
				}
				l.send(request)
				wantRead(t, c, request[:read])
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				l.answer(g, "second", false)
				wantRead(t, l.client, "second")
				r.wantBack(l, request)
			})
		}
	})
}

func TestAConnectionIsNotKeptWithMoreThanOneRequest(t *testing.T) {
	for name, sent := range map[string]string{
		"half a request":        "GET /push HTTP/1.1\r\nHost: local",
		"a request with a body": "POST /push HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
		"two requests":          request + request,
		"a long request":        "GET /push HTTP/1.1\r\nCookie: " + strings.Repeat("x", maxTaken) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{}, 0)
			l := r.connect(plain)
			c := r.comeHome(l, sent)
			wantRead(t, c, sent)
			if _, ok := r.keep(c); ok {
				t.Fatal("it was kept")
			}
			if _, err := c.Write([]byte("answer")); err != nil {
				t.Fatal(err)
			}
			wantRead(t, l.client, "answer")
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			l.wantAll(nil)
		})
	}
}

func TestAConnectionIsNotKeptOnceSomethingWasWritten(t *testing.T) {
	r := newRig(t, Options{}, 0)
	l := r.connect(plain)
	c := r.comeHome(l, request)
	wantRead(t, c, request)
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	wantRead(t, l.client, "answer")
	l.send(request)
	wantRead(t, c, request)
	if _, ok := r.keep(c); ok {
		t.Fatal("it was kept")
	}
}

func TestAConnectionThatNeverCameHomeIsNotKept(t *testing.T) {
	r := newRig(t, Options{}, 0)
	if _, ok := r.keep(r.connect(plain).conn); ok {
		t.Fatal("it was kept")
	}
}

// Where a head ends must be where net/http finds its end: the next request begins
// there.
func FuzzEndOfHead(f *testing.F) {
	for _, head := range []string{
		request, "GET / HTTP/1.0\n\n", "GET / HTTP/1.1\r\nA: b\n\r\n", "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
		"GET / HTTP/1.1\r\nA: b\r\n \r\n\r\n", "GET / HTTP/1.1\r\nA: b\r\r\n\r\n", "GET / HTTP/1.1\r\nA:\r\n\t\n\n",
		"\r\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\n\r\n\r\n", "",
	} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		const after = "GET /after HTTP/1.1\r\n\r\n"
		reader := bufio.NewReader(strings.NewReader(string(head) + after))
		r, err := http.ReadRequest(reader)
		if err != nil || r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
			return
		}
		read := len(head) + len(after) - reader.Buffered()
		if end := EndOfHead(append(head, after...)); end != read {
			t.Errorf("%q ends after %d bytes; net/http reads %d", head, end, read)
		}
	})
}
