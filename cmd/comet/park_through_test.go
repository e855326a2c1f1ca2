package main_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// startBackend starts an application to proxy to: it tells what it was sent, and
// echoes what comes after an upgrade.
func startBackend(t *testing.T) (address string) {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(conn, buffered)
			return
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%s %d %x %v", r.Method, n, sum.Sum(nil), err)
	}))
	t.Cleanup(backend.Close)
	return strings.TrimPrefix(backend.URL, "http://")
}

// told is what startBackend's application says of a POST.
func told(body string) string {
	return fmt.Sprintf("POST %d %x <nil>", len(body), sha256.Sum256([]byte(body)))
}

func (l *link) post(target, body string) {
	l.t.Helper()
	l.say(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", target, l.host, len(body), body))
}

func (l *link) postChunked(target, body string, size int) {
	l.t.Helper()
	l.say("POST " + target + " HTTP/1.1\r\nHost: " + l.host + "\r\nTransfer-Encoding: chunked\r\n\r\n")
	for len(body) > 0 {
		n := min(size, len(body))
		l.say(fmt.Sprintf("%x\r\n%s\r\n", n, body[:n]))
		body = body[n:]
	}
	l.say("0\r\n\r\n")
}

// large returns n bytes that are not all alike.
func large(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.String()[:n]
}

func TestAParkedConnectionServesEverythingAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "\treverse_proxy /app/* "+startBackend(t)+"\n")
	overBoth(t, s, "held, static files, bodies, and held again", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		n := 0
		held := func() {
			t.Helper()
			n++
			if a := l.holdAndWake(s, field, fmt.Sprint(n)); a.Close {
				t.Fatalf("the answer closes the connection: %s", a)
			}
		}
		mebibyte := large(1 << 20)
		for range scale(3, 1, 2) {
			held()
			held()
			l.get("/static.txt")
			l.wantBody(staticText)
			held()
			l.post("/app/", "hello")
			l.wantBody(told("hello"))
			held()
			l.post("/app/", mebibyte)
			l.wantBody(told(mebibyte))
			l.postChunked("/app/", mebibyte, 10_000)
			l.wantBody(told(mebibyte))
			held()
			l.get("/push?wait=0.02&field=" + field + "&" + field + "=" + fmt.Sprint(n))
			l.wantBody("NO\n")
			l.get("/push?wait=0&field=" + field + "&" + field + "=-1")
			l.wantBody("YES\n")
			l.get("/nothing-here")
			if a := l.answer(); a.Status != 200 && a.Status != 404 {
				t.Errorf("got %s", a)
			}
			l.get("/push?format=unknown")
			wantStatus(t, l.answer(), 400)
			held()
		}

		l.get("/app/socket", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
		res, err := http.ReadResponse(l.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %s; want an upgrade", res.Status)
		}
		for _, text := range []string{"ping", mebibyte[:100_000], "and again"} {
			go func() { _, _ = io.WriteString(l.Conn, text) }()
			echo := make([]byte, len(text))
			if _, err := io.ReadFull(l.r, echo); err != nil || string(echo) != text {
				t.Fatalf("the socket says %.40q, %v; want %.40q", echo, err, text)
			}
		}
	})

	overBoth(t, s, "a hundred holds on one connection", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		for n := range 100 {
			l.holdAndWake(s, field, fmt.Sprint(n))
		}
	})
}

func TestAParkedConnectionIsKeptOrClosedAsTheClientAsks(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "")
	ask := func(version, field string, header ...string) string {
		return "GET " + holdOn(field) + " HTTP/" + version + "\r\nHost: localhost\r\n" + lines(header) + "\r\n"
	}
	// The plain site is one for any name here.
	dialed := func(t *testing.T, l *link, field, version string, header ...string) comettest.Answer {
		t.Helper()
		text := ask(version, field, header...)
		l.say(strings.Replace(text, "Host: localhost", "Host: "+l.host, 1))
		comettest.WaitSubscribers(t, s, field, 1)
		return l.wake(s, field, fmt.Sprint(time.Now().UnixNano()))
	}
	overBoth(t, s, "HTTP/1.0 is answered and closed", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		a := dialed(t, l, field, "1.0")
		if !a.Close || strings.EqualFold(a.Header.Get("Connection"), "keep-alive") {
			t.Errorf("the answer says that the connection stays: %s", a)
		}
		l.wantEnd()
	})
	overBoth(t, s, "HTTP/1.0 with keep-alive stays", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		for range 3 {
			a := dialed(t, l, field, "1.0", "Connection: keep-alive")
			if !strings.EqualFold(a.Header.Get("Connection"), "keep-alive") {
				t.Errorf("the answer does not say keep-alive: %s", a)
			}
			if a.Header.Get("Content-Length") == "" || a.Header.Get("Transfer-Encoding") != "" {
				t.Errorf("an answer for HTTP/1.0 needs a length and no chunks: %s", a)
			}
			l.say("GET /static.txt HTTP/1.0\r\nHost: " + l.host + "\r\nConnection: keep-alive\r\n\r\n")
			l.wantBody(staticText)
		}
		dialed(t, l, field, "1.1")
		l.get("/static.txt")
		l.wantBody(staticText)
		dialed(t, l, field, "1.0")
		l.wantEnd()
	})
	overBoth(t, s, "HTTP/1.1 with Connection: close is answered so and closed", func(t *testing.T, dial func() *link, field string) {
		for _, header := range []string{"Connection: close", "Connection: Close, TE\r\nTE: trailers"} {
			l := dial()
			if a := dialed(t, l, field, "1.1", header); !a.Close {
				t.Errorf("the answer does not say close: %s", a)
			}
			l.wantEnd()
		}
	})
	overBoth(t, s, "HTTP/1.1 with keep-alive stays", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		for range 3 {
			if a := dialed(t, l, field, "1.1", "Connection: keep-alive"); a.Close {
				t.Errorf("the answer says close: %s", a)
			}
		}
	})
}

func TestPipelinedRequestsAroundAParkedOneAreAnsweredInOrder(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "\treverse_proxy /app/* "+startBackend(t)+"\n")

	overBoth(t, s, "a hold, a file and a hold in one segment", func(t *testing.T, dial func() *link, field string) {
		second := field + ".2"
		comettest.Publish(t, s, second+"=0")
		l := dial()
		for n := range 5 {
			l.say(l.ask(holdOn(field)) + l.ask("/static.txt") + l.ask(holdOn(second)))
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, fmt.Sprint(n))
			l.wantBody(staticText)
			comettest.WaitSubscribers(t, s, second, 1)
			l.wake(s, second, fmt.Sprint(n))
		}
	})

	overBoth(t, s, "the same cut in two anywhere", func(t *testing.T, dial func() *link, field string) {
		second := field + ".2"
		comettest.Publish(t, s, second+"=0")
		l := dial()
		first := l.ask(holdOn(field))
		file := l.ask("/static.txt")
		text := first + file + l.ask(holdOn(second))
		for n, cut := range []int{
			1, 4, len(first) - 3, len(first) - 1, len(first), len(first) + 1, len(first) + 5,
			len(first) + len(file) - 2, len(first) + len(file), len(first) + len(file) + 3, len(text) - 1,
		} {
			l.say(text[:cut])
			if cut >= len(first) {
				comettest.WaitSubscribers(t, s, field, 1)
			} else {
				comettest.Subscribers(t, s, field) // the server has had time to see the first part
			}
			l.say(text[cut:])
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, fmt.Sprint(n))
			l.wantBody(staticText)
			comettest.WaitSubscribers(t, s, second, 1)
			l.wake(s, second, fmt.Sprint(n))
		}
	})

	overBoth(t, s, "the same, the rest only after the answer", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		file := l.ask("/static.txt")
		for _, cut := range []int{1, 3, len(file) / 2, len(file) - 1} {
			l.say(l.ask(holdOn(field)) + file[:cut])
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, fmt.Sprint(cut))
			comettest.Subscribers(t, s, field)
			l.say(file[cut:])
			l.wantBody(staticText)
		}
	})

	overBoth(t, s, "twenty plain polls at once", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		var text strings.Builder
		for i := range 20 {
			text.WriteString(l.ask(fmt.Sprintf("/push?wait=0&format=json&field=%s/%d", field, i)))
		}
		l.say(text.String())
		for i := range 20 {
			a := l.answer()
			wantTexts(t, a)
			if want := fmt.Sprintf("%s/%d", field, i); a.Header.Get("Comet-Field") != want {
				t.Fatalf("answer %d is about %s", i, a.Header.Get("Comet-Field"))
			}
		}
		l.holdAndWake(s, field, "after")
	})

	overBoth(t, s, "twenty short holds at once", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		l.say(strings.Repeat(l.ask(holdOn(field)+"&wait=0.01"), 20))
		for range 20 {
			wantTexts(t, l.answer())
		}
		l.holdAndWake(s, field, "after")
	})

	overBoth(t, s, "what is sent while held is served next", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		for n := range 5 {
			l.hold(s, field)
			l.get("/static.txt")
			l.post("/app/", large(3000))
			l.get("/push?wait=0&field=" + field + "&" + field + "=-1")
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, fmt.Sprint(n))
			l.wantBody(staticText)
			l.wantBody(told(large(3000)))
			l.wantBody("YES\n")
		}
	})

	overBoth(t, s, "a body that comes in part while held is whole", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		body := large(200_000)
		l.hold(s, field)
		l.say(fmt.Sprintf("POST /app/ HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", l.host, len(body)) + body[:5000])
		l.wake(s, field, "1")
		l.say(body[5000:])
		l.wantBody(told(body))
		l.holdAndWake(s, field, "2")
	})

	overBoth(t, s, "more requests than a buffer has room for", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		const n = 400
		go func() { _, _ = io.WriteString(l.Conn, l.ask(holdOn(field))+strings.Repeat(l.ask("/app/x"), n)) }()
		comettest.WaitSubscribers(t, s, field, 1)
		l.wake(s, field, "1")
		for range n {
			if a := l.answer(); a.Status != 200 || !strings.HasPrefix(a.Body, "GET 0 ") {
				t.Fatalf("got %s", a)
			}
		}
		l.holdAndWake(s, field, "2")
	})

	overBoth(t, s, "nonsense after a hold is answered after it", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		l.hold(s, field)
		l.say("this is no request\r\n\r\n")
		l.wake(s, field, "1")
		if a, err := l.tryAnswer("GET"); err == nil && a.Status != 400 {
			t.Errorf("got %s; want 400", a)
		}
		l.wantEnd()
	})

	t.Run("TLS records that come in pieces are read when they are whole", func(t *testing.T) {
		field := freshField(t, s)
		pieces := &pieceConn{Conn: s.RawConnTo(t, "HTTPS")}
		l := tlsLinkOver(t, s, pieces, nil)
		for n := range 5 {
			pieces.between = func() { comettest.Subscribers(t, s, field) }
			l.hold(s, field)
			l.get("/static.txt") // while held, and again in pieces
			pieces.between = nil
			l.wake(s, field, fmt.Sprint(n))
			l.wantBody(staticText)
			pieces.between = func() { comettest.Subscribers(t, s, field) }
			l.get("/static.txt") // between two requests
			l.wantBody(staticText)
		}
	})

	t.Run("a TLS record has several requests, and one is in several", func(t *testing.T) {
		field := freshField(t, s)
		l := tlsLink(t, s)
		for _, size := range []int{1, 7, 100} {
			text := l.ask(holdOn(field)) + l.ask("/static.txt")
			for len(text) > 0 {
				n := min(size, len(text))
				l.say(text[:n])
				text = text[n:]
			}
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, fmt.Sprint(size))
			l.wantBody(staticText)
		}
	})
}

// pieceConn sends what is written to it in three pieces, with a call in between.
type pieceConn struct {
	net.Conn
	between func()
}

func (p *pieceConn) Write(b []byte) (int, error) {
	if p.between == nil || len(b) < 10 {
		return p.Conn.Write(b)
	}
	sent := 0
	for _, cut := range []int{3, len(b) - 3, len(b)} { // in the header of a record, in its tag
		n, err := p.Conn.Write(b[sent:cut])
		if sent += n; err != nil {
			return sent, err
		}
		p.between()
	}
	return sent, nil
}

func TestABodyOnAParkedRequestIsReadOut(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "")
	for name, head := range map[string]string{
		"a small body":   "Content-Length: 5\r\n\r\nhello",
		"a chunked body": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"an empty body":  "Content-Length: 0\r\n\r\n",
		"60 KiB":         "Content-Length: 61440\r\n\r\n" + strings.Repeat("GET / HTTP/1.1\r\n", 3840),
	} {
		overBoth(t, s, name, func(t *testing.T, dial func() *link, field string) {
			l := dial()
			for n := range 3 {
				l.say("GET " + holdOn(field) + " HTTP/1.1\r\nHost: " + l.host + "\r\n" + head)
				comettest.WaitSubscribers(t, s, field, 1)
				l.wake(s, field, fmt.Sprint(n))
				l.get("/static.txt")
				l.wantBody(staticText)
			}
			// and with the next request right behind the body
			l.say("GET " + holdOn(field) + " HTTP/1.1\r\nHost: " + l.host + "\r\n" + head + l.ask("/static.txt"))
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, "last")
			l.wantBody(staticText)
		})
	}
	overBoth(t, s, "a body that is waited for with 100 Continue", func(t *testing.T, dial func() *link, field string) {
		l := dial()
		l.say("GET " + holdOn(field) + " HTTP/1.1\r\nHost: " + l.host + "\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		a, err := l.tryAnswer("GET")
		if err != nil || a.Status != http.StatusContinue {
			t.Fatalf("got %s, %v; want 100", a, err)
		}
		l.say("hello")
		comettest.WaitSubscribers(t, s, field, 1)
		l.wake(s, field, "1")
		l.get("/static.txt")
		l.wantBody(staticText)
	})
}
