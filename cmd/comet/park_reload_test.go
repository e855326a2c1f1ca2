package main_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// wrappers are the global options with which connections that are handed back get to
// the configuration that runs then.
const wrappers = `servers :{$HTTP} {
		listener_wrappers {
			comet
		}
	}
	servers :{$HTTPS} {
		listener_wrappers {
			comet
		}
	}`

// needWrapper skips a test where the binary has no listener wrapper, or nothing that
// goes through it.
func needWrapper(t *testing.T) {
	t.Helper()
	if !comettest.Parks(t) {
		t.Skip("requests are not parked here")
	}
	if !comettest.Knows(t, "servers {\n\tlistener_wrappers {\n\t\tcomet\n\t}\n}") {
		t.Skip("there is no listener wrapper named comet in this binary")
	}
}

// version returns a configuration whose answers tell which it is.
func version(global string, n int) string {
	return both(global, fmt.Sprintf("\theader X-Version %d\n%s\trespond /app version-%d\n", n, open, n))
}

// again returns a link for the next request of a client: this one, or a new one when
// the server has said that it ends.
func again(l *link, a comettest.Answer, dial func() *link) *link {
	if !a.Close {
		return l
	}
	l.Close()
	return dial()
}

func TestParkedRequestsAreWokenByPublicationsAfterAReload(t *testing.T) {
	t.Parallel()
	rounds, clients := scale(20, 4, 8), 50
	for _, c := range []struct{ name, global string }{{"without a listener wrapper", ""}, {"with one", wrappers}} {
		t.Run(c.name, func(t *testing.T) {
			if c.global != "" {
				needWrapper(t)
			}
			s := comettest.Start(t, version(c.global, 0))
			field := freshField(t, s)
			dial := func(i int) *link { return links[i%2].dial(t, s) }
			var all []*link
			for i := range clients {
				l := dial(i)
				l.get(holdOn(field))
				all = append(all, l)
			}
			cursors := make([]string, clients)
			served := 0
			for round := 1; round <= rounds; round++ {
				comettest.WaitSubscribers(t, s, field, clients)
				s.Reload(t, version(c.global, round))
				comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, round))
				for i, l := range all {
					a, err := l.tryAnswer("GET")
					if err != nil {
						t.Fatalf("round %d: client %d was cut: %v", round, i, err)
					}
					wantTexts(t, a, fmt.Sprintf("%s=%d", field, round))
					cursors[i] = a.Cursor()
					if c.global != "" && a.Close {
						t.Fatalf("round %d: client %d is told to close: %s", round, i, a)
					}
					if !a.Close {
						served++
					}
					all[i] = again(l, a, func() *link { return dial(i) })
					all[i].get("/app")
					b, err := all[i].tryAnswer("GET")
					if err != nil {
						// An idle connection of the old configuration may end at any moment.
						if c.global != "" {
							t.Fatalf("round %d: client %d was cut between two requests: %v", round, i, err)
						}
						all[i] = dial(i)
						all[i].get("/app")
						b = all[i].answer()
					}
					if b.Body != fmt.Sprintf("version-%d", round) && (c.global != "" || a.Close) {
						t.Fatalf("round %d: client %d is served by %q", round, i, b.Body)
					}
					all[i] = again(all[i], b, func() *link { return dial(i) })
					all[i].get("/push?format=json&field=" + field + "&after=" + escape(cursors[i]))
				}
			}
			t.Logf("%d of %d connections went on", served, rounds*clients)
		})
	}
}

func TestReloadsWhileParkedRequestsAreWokenCutNobody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, global string }{{"without a listener wrapper", ""}, {"with one", wrappers}} {
		t.Run(c.name, func(t *testing.T) {
			if c.global != "" {
				needWrapper(t)
			}
			s := comettest.Start(t, version(c.global, 0))
			const field = "busy"
			comettest.Publish(t, s, field+"=0")
			total := scale(200, 40, 60)
			start := now(t, s)
			var clients sync.WaitGroup
			for i := range 20 {
				l := links[i%2].dial(t, s)
				clients.Go(func() {
					cursor, next := start, 1
					for next <= total {
						if _, err := io.WriteString(l.Conn, l.ask("/push?format=json&field="+field+"&after="+escape(cursor))); err == nil {
							a, err := l.tryAnswer("GET")
							if err == nil {
								if a.JSON == nil || a.Missed() {
									t.Errorf("client %d: got %.300s", i, a)
									return
								}
								for _, m := range a.JSON.Messages {
									if m.Text() != fmt.Sprint(next) {
										t.Errorf("client %d: got %s; want %d", i, m.Text(), next)
										return
									}
									next++
								}
								cursor = a.Cursor()
								if !a.Close {
									continue
								}
							} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
								t.Errorf("client %d has no answer after %d", i, next-1)
								return
							}
						}
						// A connection that is idle in the server of a configuration ends with
						// it, perhaps when the next request is on its way.
						l.Close()
						conn, err := redial(s, l)
						if err != nil {
							t.Errorf("client %d: %v", i, err)
							return
						}
						l = conn
					}
				})
			}
			stop := make(chan struct{})
			var reloads sync.WaitGroup
			reloads.Go(func() {
				for n := 1; ; n++ {
					select {
					case <-stop:
						t.Logf("%d reloads", n-1)
						return
					default:
					}
					if err := s.TryReload(version(c.global, n)); err != nil {
						t.Error(err)
					}
				}
			})
			p := publisher{s, ""}
			for n := 1; n <= total; n++ {
				if err := publishPlain(t, p, field, n); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			clients.Wait()
			close(stop)
			reloads.Wait()
		})
	}
}

// publishPlain publishes a number once, also when the connection for it is cut.
func publishPlain(t *testing.T, p publisher, field string, n int) error {
	t.Helper()
	for {
		a := p.s.Try(t.Context(), request{URL: "/config", Type: comettest.FormType, Body: fmt.Sprintf("%s=%d", field, n)})
		if a.Err == nil {
			if a.Body != "OK\n" {
				return fmt.Errorf("publishing %d: %s", n, a)
			}
			return nil
		}
		if all := p.s.Try(t.Context(), request{URL: "/config?field=" + field}); all.Err == nil && strings.TrimSpace(all.Body) == fmt.Sprint(n) {
			return nil
		}
	}
}

// redial opens a connection as l was. It may be called on any goroutine.
func redial(s *comettest.Server, l *link) (*link, error) {
	// In the moment of a reload the system resets the new connections that were in
	// the queue of the socket that is closed.
	var conn net.Conn
	var err error
	for deadline := time.Now().Add(comettest.Deadline); ; {
		conn, err = net.DialTimeout("tcp", l.RemoteAddr().String(), comettest.Deadline)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
	if err := conn.SetDeadline(time.Now().Add(2 * comettest.Deadline)); err != nil {
		return nil, err
	}
	if l.host == "127.0.0.1" {
		return newLink(l.t, conn, l.host), nil
	}
	return newLink(l.t, tls.Client(conn, s.TLSConfig(l.t)), l.host), nil
}

func TestWithTheListenerWrapperAParkedConnectionIsServedByTheNewConfiguration(t *testing.T) {
	t.Parallel()
	needWrapper(t)
	s := comettest.Start(t, version(wrappers, 0))
	n := 0
	for _, what := range []string{"held", "between two requests", "held and with a request ahead"} {
		overBoth(t, s, what, func(t *testing.T, dial func() *link, field string) {
			l := dial()
			l.holdAndWake(s, field, "first")
			for range scale(5, 2, 3) {
				n++
				if what != "between two requests" {
					l.hold(s, field)
				}
				if what == "held and with a request ahead" {
					l.get("/app")
				}
				s.Reload(t, version(wrappers, n))
				if what != "between two requests" {
					if a := l.wake(s, field, fmt.Sprint(n)); a.Close {
						t.Fatalf("the answer after a reload closes the connection: %s", a)
					}
				}
				if what != "held and with a request ahead" {
					l.get("/app")
				}
				a := l.wantBody(fmt.Sprintf("version-%d", n))
				if a.Header.Get("X-Version") != fmt.Sprint(n) {
					t.Fatalf("the connection is served by version %s; want %d", a.Header.Get("X-Version"), n)
				}
				b := l.holdAndWake(s, field, fmt.Sprint("again ", n))
				if b.Header.Get("X-Version") != fmt.Sprint(n) || b.Close {
					t.Fatalf("the next hold got %s; want version %d", b, n)
				}
			}
		})
	}
}

func TestAnExitAnswersParkedRequestsAndClosesIdleConnections(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, both("comet {\n\t\tdrain 1s\n\t}", open))
	field := freshField(t, s)
	var idle, held []*link
	for _, l := range links {
		for range 10 {
			conn := l.dial(t, s)
			conn.holdAndWake(s, field, "1") // parked between two requests
			idle = append(idle, conn)
		}
	}
	for i, l := range links {
		for n := range 20 {
			conn := l.dial(t, s)
			if n%2 == 1 {
				conn.get("/push?wait=0&field=" + field)
				conn.answer()
			}
			conn.get(holdOn(field))
			held = append(held, conn)
			comettest.WaitSubscribers(t, s, field, i*20+n+1)
		}
	}
	start := time.Now()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for _, l := range held {
		group.Go(func() {
			a, err := l.tryAnswer("GET")
			if err != nil {
				t.Errorf("a held request was cut: %v", err)
				return
			}
			if a.JSON == nil || len(a.JSON.Messages) > 0 || !a.Close || a.Cursor() == "" {
				t.Errorf("got %s; want a timeout with Connection: close", a)
			}
			if rest, err := io.ReadAll(l.r); len(rest) > 0 || isTimeout(err) {
				t.Errorf("after the answer came %q, %v", rest, err)
			}
		})
	}
	for _, l := range idle {
		group.Go(func() {
			if rest, err := io.ReadAll(l.r); len(rest) > 0 || isTimeout(err) {
				t.Errorf("an idle connection got %q, %v; want its end", rest, err)
			}
		})
	}
	group.Wait()
	s.WaitExit(t)
	elapsed(t, "the exit with drain 1s", start, 0, 8*time.Second)
}

func TestAnExitIsNotDelayedByParkedConnectionsBetweenRequests(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, both("comet {\n\t\tdrain 30s\n\t}", open))
	field := freshField(t, s)
	var idle []*link
	for _, l := range links {
		for range 10 {
			conn := l.dial(t, s)
			conn.holdAndWake(s, field, "1")
			idle = append(idle, conn)
		}
	}
	start := time.Now()
	s.Stop(t)
	elapsed(t, "the exit with nobody held", start, 0, 8*time.Second)
	for _, l := range idle {
		l.wantEnd()
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestAParkedConnectionBetweenRequestsObeysTheServersTimeouts(t *testing.T) {
	t.Parallel()
	const timeouts = `servers {
		timeouts {
			idle 2s
			read_header 4s
		}
	}`
	s := startStatic(t, timeouts, "")
	// The server closes what is idle, and a POST that meets this gets no answer.
	s.Client().Transport.(*http.Transport).DisableKeepAlives = true
	overBoth(t, s, "an idle one is closed after the idle timeout, not before", func(t *testing.T, dial func() *link, field string) {
		t.Parallel()
		l := dial()
		l.holdAndWake(s, field, "1")
		start := time.Now()
		l.wantEnd()
		elapsed(t, "closing it", start, 1900*time.Millisecond, 6*time.Second)
	})
	overBoth(t, s, "a request in time is served and starts it anew", func(t *testing.T, dial func() *link, field string) {
		t.Parallel()
		l := dial()
		l.holdAndWake(s, field, "1")
		for n := range 2 {
			time.Sleep(1200 * time.Millisecond)
			l.get("/static.txt")
			l.wantBody(staticText)
			time.Sleep(1200 * time.Millisecond)
			l.holdAndWake(s, field, fmt.Sprint(n))
		}
		start := time.Now()
		l.wantEnd()
		elapsed(t, "closing it", start, 1900*time.Millisecond, 6*time.Second)
	})
	overBoth(t, s, "being held is not being idle", func(t *testing.T, dial func() *link, field string) {
		t.Parallel()
		l := dial()
		for n := range 2 {
			l.hold(s, field)
			time.Sleep(2500 * time.Millisecond)
			l.wake(s, field, fmt.Sprint(n))
		}
	})
	overBoth(t, s, "half a request is given up", func(t *testing.T, dial func() *link, field string) {
		t.Parallel()
		l := dial()
		l.holdAndWake(s, field, "1")
		start := time.Now()
		l.say(l.ask("/static.txt")[:20])
		_, err := io.ReadAll(l.r) // an answer is allowed
		if isTimeout(err) {
			t.Fatal("the connection is not closed")
		}
		elapsed(t, "giving it up", start, 3900*time.Millisecond, 12*time.Second)
	})
}
