package main_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// tcp returns what is below a link.
func (l *link) tcp() *net.TCPConn {
	if c, ok := l.Conn.(*tls.Conn); ok {
		return c.NetConn().(*net.TCPConn)
	}
	return l.Conn.(*net.TCPConn)
}

// reset closes a connection without a goodbye.
func (l *link) reset() {
	_ = l.tcp().SetLinger(0)
	_ = l.tcp().Close()
}

// departures are the ways in which a client leaves. Those that stays keep their end
// of the connection open: the server must close it.
var departures = []struct {
	name    string
	plain   bool
	stays   bool
	overTLS bool
	leave   func(*link)
}{
	{"by FIN", true, false, false, func(l *link) { _ = l.Close() }},
	{"by RST", true, false, true, func(l *link) { l.reset() }},
	{"by closing its half", true, true, false, func(l *link) { _ = l.tcp().CloseWrite() }},
	{"by close_notify and FIN", false, false, true, func(l *link) { _ = l.Close() }},
	{"by close_notify and closing its half", false, true, true, func(l *link) {
		_ = l.Conn.(*tls.Conn).CloseWrite()
		_ = l.tcp().CloseWrite()
	}},
	{"by close_notify alone", false, true, true, func(l *link) { _ = l.Conn.(*tls.Conn).CloseWrite() }},
	{"by FIN without close_notify", false, false, true, func(l *link) { _ = l.tcp().Close() }},
	{"by closing its half without close_notify", false, true, true, func(l *link) { _ = l.tcp().CloseWrite() }},
}

// wantLeft checks that what a link is still told is at most one whole answer, and that
// the connection then ends.
func (l *link) wantLeft() {
	l.t.Helper()
	rest, err := io.ReadAll(l.r)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		l.t.Error("the connection is not closed")
		return
	}
	if len(rest) == 0 {
		return
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(rest)), nil)
	if err != nil {
		l.t.Errorf("what it is still told is no answer: %.300q", rest)
		return
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		l.t.Errorf("what it is still told is no whole answer: %.300q", rest)
	}
}

func TestAParkedClientThatLeavesIsForgottenWithItsDescriptor(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "")
	const n = 20
	for _, l := range links {
		for _, d := range departures {
			if l.name == "plain" && !d.plain || l.name == "TLS" && !d.overTLS {
				continue
			}
			for _, when := range []string{"while held", "between two requests", "while held a second time"} {
				t.Run(l.name+", "+when+", "+d.name, func(t *testing.T) {
					field := freshField(t, s)
					plainLink(t, s).Close()
					var calm int
					comettest.Eventually(t, comettest.Deadline, func() bool {
						calm = openFiles(s)
						return heldNow(t, s) == 0 && calm == openFiles(s)
					}, "the server is not calm")
					var all []*link
					for range n {
						all = append(all, l.dial(t, s))
					}
					askAll := func() {
						for _, l := range all {
							l.get(holdOn(field))
						}
						comettest.WaitSubscribers(t, s, field, n)
					}
					askAll()
					if when != "while held" {
						comettest.Publish(t, s, field+"=1")
						for _, l := range all {
							wantTexts(t, l.answer(), field+"=1")
						}
						comettest.WaitSubscribers(t, s, field, 0)
					}
					if when == "while held a second time" {
						askAll()
					}
					start := time.Now()
					for _, l := range all {
						d.leave(l)
					}
					comettest.WaitSubscribers(t, s, field, 0)
					comettest.Eventually(t, comettest.Deadline, func() bool { return heldNow(t, s) == 0 }, "they are counted as held")
					comettest.Eventually(t, comettest.Deadline, func() bool { return openFiles(s) <= calm+2 },
						fmt.Sprintf("their descriptors stay: %d before, %d connections", calm, n))
					elapsed(t, "forgetting them", start, 0, 10*time.Second)
					if d.stays {
						for _, l := range all {
							l.wantLeft()
						}
					}
				})
			}
		}
	}
}

func TestAParkedClientThatLeavesWhileItIsWokenDoesNoHarm(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "")
	for _, l := range links {
		t.Run(l.name, func(t *testing.T) {
			field := freshField(t, s)
			stays := l.dial(t, s)
			cursor := now(t, s)
			for round := range scale(10, 3, 5) {
				stays.get("/push?format=json&field=" + field + "&after=" + escape(cursor))
				var all []*link
				for range 30 {
					leaves := l.dial(t, s)
					leaves.get(holdOn(field))
					all = append(all, leaves)
				}
				comettest.WaitSubscribers(t, s, field, len(all)+1)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for i, l := range all {
						departures[i%3].leave(l)
					}
				}()
				comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, round))
				a := stays.answer()
				wantTexts(t, a, fmt.Sprintf("%s=%d", field, round))
				cursor = a.Cursor()
				<-done
				comettest.WaitSubscribers(t, s, field, 0)
			}
			comettest.Eventually(t, comettest.Deadline, func() bool { return heldNow(t, s) == 0 }, "some are counted as held")
		})
	}
}

// A client that goes away with a request half sent, or with one that nobody will
// answer, leaves nothing behind either.
func TestAParkedClientThatLeavesInTheMiddleOfItsNextRequestIsForgotten(t *testing.T) {
	t.Parallel()
	s := startStatic(t, "", "")
	overBoth(t, s, "half a request after an answer", func(t *testing.T, dial func() *link, field string) {
		calm := openFiles(s)
		for n, cut := range []int{1, 10, 40} {
			l := dial()
			l.holdAndWake(s, field, fmt.Sprint(n))
			l.say(l.ask("/static.txt")[:cut])
			l.Close()
			m := dial()
			m.hold(s, field)
			m.wake(s, field, "again")
			m.say(m.ask(holdOn(field))[:cut])
			m.reset()
		}
		comettest.Eventually(t, comettest.Deadline, func() bool { return openFiles(s) <= calm+2 }, "their descriptors stay")
	})
}
