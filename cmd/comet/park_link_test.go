package main_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// The tests in the files park_*_test.go look at what a connection goes through that a
// request is held on: how that is done, parked or on a goroutine, must not be seen.
// COMET_PARKING=off runs them on goroutines.

// both returns a configuration with the same body in a plain site and in one over TLS.
func both(global, body string) string {
	return comettest.Global(global) + "http://127.0.0.1:{$HTTP} {\n" + body + "\n}\n" +
		"https://localhost:{$HTTPS} {\n\ttls internal\n" + body + "\n}\n"
}

// link is a client's connection, which is never opened again: what is cut is seen.
type link struct {
	net.Conn
	t    *testing.T
	r    *bufio.Reader
	host string
}

func plainLink(t *testing.T, s *comettest.Server) *link {
	t.Helper()
	return newLink(t, s.RawConn(t), "127.0.0.1")
}

func tlsLink(t *testing.T, s *comettest.Server) *link {
	t.Helper()
	return tlsLinkOver(t, s, s.RawConnTo(t, "HTTPS"), nil)
}

// tlsLinkOver is tlsLink over a connection that is there; change may be nil.
func tlsLinkOver(t *testing.T, s *comettest.Server, conn net.Conn, change func(*tls.Config)) *link {
	t.Helper()
	config := s.TLSConfig(t)
	if change != nil {
		change(config)
	}
	client := tls.Client(conn, config)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	return newLink(t, client, "localhost")
}

func newLink(t *testing.T, conn net.Conn, host string) *link {
	return &link{conn, t, bufio.NewReader(conn), host}
}

// links are the ways to a site of both.
var links = []struct {
	name string
	dial func(*testing.T, *comettest.Server) *link
}{
	{"plain", plainLink},
	{"TLS", tlsLink},
}

// overBoth runs a test over each of the links, with a field of its own that has a
// value.
func overBoth(t *testing.T, s *comettest.Server, name string, test func(t *testing.T, dial func() *link, field string)) {
	t.Helper()
	for _, l := range links {
		t.Run(name+", "+l.name, func(t *testing.T) {
			field := freshField(t, s)
			test(t, func() *link { t.Helper(); return l.dial(t, s) }, field)
		})
	}
}

// freshField publishes 0 to a field that no other test has.
func freshField(t *testing.T, s *comettest.Server) string {
	t.Helper()
	field := fmt.Sprintf("fresh/%d", freshFields.Add(1))
	comettest.Publish(t, s, field+"=0")
	return field
}

var freshFields atomic.Int64

// say writes text in one segment, when the kernel does not see to other things.
func (l *link) say(text string) {
	l.t.Helper()
	if _, err := io.WriteString(l.Conn, text); err != nil {
		l.t.Fatalf("writing a request: %v", err)
	}
}

// ask returns the text of a GET.
func (l *link) ask(target string, header ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: " + l.host + "\r\n" + lines(header) + "\r\n"
}

func lines(header []string) string {
	if len(header) == 0 {
		return ""
	}
	return strings.Join(header, "\r\n") + "\r\n"
}

func (l *link) get(target string, header ...string) {
	l.t.Helper()
	l.say(l.ask(target, header...))
}

// tryAnswer reads one answer to a request with this method.
func (l *link) tryAnswer(method string) (comettest.Answer, error) {
	res, err := http.ReadResponse(l.r, &http.Request{Method: method})
	if err != nil {
		return comettest.Answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return comettest.Answer{}, err
	}
	return comettest.Answer{
		Status: res.StatusCode, Proto: res.Proto, Header: res.Header, Body: string(body), Close: res.Close,
		JSON: readBody(body),
	}, nil
}

// answer reads one answer to a GET.
func (l *link) answer() comettest.Answer {
	l.t.Helper()
	a, err := l.tryAnswer(http.MethodGet)
	if err != nil {
		l.t.Fatalf("reading an answer: %v", err)
	}
	return a
}

// wantBody reads one answer and checks it.
func (l *link) wantBody(want string) comettest.Answer {
	l.t.Helper()
	a := l.answer()
	if a.Status != 200 || a.Body != want {
		l.t.Fatalf("got %.600s; want 200 %.200q", a, want)
	}
	return a
}

// wantEnd checks that nothing comes any more and the connection is closed.
func (l *link) wantEnd() {
	l.t.Helper()
	rest, err := io.ReadAll(l.r)
	if os.IsTimeout(err) {
		l.t.Fatal("the connection is not closed")
	}
	if len(rest) > 0 {
		l.t.Fatalf("more comes: %.300q", rest)
	}
}

// holdOn is the target of a request that is held on a field until it is published to.
func holdOn(field string) string { return "/push?format=json&after=now&field=" + field }

// hold asks for a field and returns when that is held.
func (l *link) hold(s *comettest.Server, field string, header ...string) {
	l.t.Helper()
	l.get(holdOn(field), header...)
	comettest.WaitSubscribers(l.t, s, field, 1)
}

// wake publishes to a field that this connection is held on, and reads the answer.
func (l *link) wake(s *comettest.Server, field, value string) comettest.Answer {
	l.t.Helper()
	comettest.Publish(l.t, s, field+"="+escape(value))
	a := l.answer()
	wantTexts(l.t, a, field+"="+value)
	return a
}

// holdAndWake has the connection held and woken.
func (l *link) holdAndWake(s *comettest.Server, field, value string) comettest.Answer {
	l.t.Helper()
	l.hold(s, field)
	return l.wake(s, field, value)
}

// heldNow returns how many requests the admin API says are held.
func heldNow(t *testing.T, s *comettest.Server) int {
	t.Helper()
	return int(admin(t, s, "GET", "/comet/default", 200)["held"].(float64))
}

// openFiles returns how many descriptors the server has, or 0 where that is not known.
func openFiles(s *comettest.Server) int {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid))
	if err != nil {
		return 0
	}
	return len(open)
}

// startStatic starts a server with a static file, both sites open and what is more.
func startStatic(t *testing.T, global, more string, opts ...comettest.Option) *comettest.Server {
	t.Helper()
	return comettest.Start(t, both(global, staticSite+more), slices.Concat(opts,
		[]comettest.Option{comettest.File("static.txt", staticText)})...)
}

const staticSite = open + `
	root {$DIR}
	@static path /static.txt
	file_server @static
`

var staticText = strings.Repeat("a static file, line by line\n", 100)

// elapsed fails the test when what began at start took less or more.
func elapsed(t *testing.T, what string, start time.Time, least, most time.Duration) {
	t.Helper()
	if took := time.Since(start); took < least || took > most {
		t.Errorf("%s took %s; want %s to %s", what, took.Round(time.Millisecond), least, most)
	}
}

// readBody reads the JSON of an answer, if it is that.
func readBody(data []byte) *comettest.Body {
	body := new(comettest.Body)
	if json.Unmarshal(data, body) != nil {
		return nil
	}
	return body
}
