package main_test

import (
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// failing are applications that are in trouble, or give it.
var failing = map[string]struct {
	answer http.HandlerFunc
	want   func(a comettest.Answer, kept bool) bool
}{
	"slow": {func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Millisecond)
		fmt.Fprint(w, "all of it")
	}, isWhole("all of it")},
	"down": {nil, isFailure(502)},
	"answers 500": {func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusInternalServerError)
	}, isFailure(500)},
	"sends no length": {func(w http.ResponseWriter, _ *http.Request) {
		for range 10 {
			fmt.Fprint(w, strings.Repeat("x", 1000))
			_ = http.NewResponseController(w).Flush()
		}
	}, isWhole(strings.Repeat("x", 10_000))},
	"sends much": {func(w http.ResponseWriter, _ *http.Request) {
		piece := []byte(strings.Repeat("x", 64<<10))
		for range 32 {
			_, _ = w.Write(piece)
		}
	}, isWhole(strings.Repeat("x", 2<<20))},
	"closes half-way": {func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "half of it")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, isCut},
	"closes half-way without a length": {func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "half of it")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, isCut},
	"closes at once": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, isFailure(502)},
}

func isWhole(body string) func(comettest.Answer, bool) bool {
	return func(a comettest.Answer, _ bool) bool { return a.Err == nil && a.Status == 200 && a.Body == body }
}

func isFailure(status int) func(comettest.Answer, bool) bool {
	return func(a comettest.Answer, _ bool) bool {
		return a.Err == nil && a.Status == status && a.Header.Get("Retry-After") != "" && a.Cursor() == ""
	}
}

// isCut: an answer that is shared, or paced, is kept until it is whole.
func isCut(a comettest.Answer, kept bool) bool {
	if kept {
		return isFailure(502)(a, kept)
	}
	return a.Err != nil
}

func TestAnApplicationInTroubleIsAskedOnceForEach(t *testing.T) {
	t.Parallel()
	for name, app := range failing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, address := newAsked(t, app.answer)
			if app.answer == nil {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				address = listener.Addr().String()
				listener.Close()
			}
			s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold /alone {
			field list
			forward
		}
		hold /shared {
			field list
			forward
			share
		}
		hold /paced {
			field list
			forward
			pace 20
		}
	}
	reverse_proxy {$APP} {
		transport http {
			keepalive off
		}
	}
}
`, comettest.Env("APP", address))
			calm := countLeftovers(t, s)
			for _, path := range []string{"/alone", "/shared", "/paced"} {
				n := scale(1000, 40, 60)
				if name == "sends much" {
					n /= 5 // the answers are kept here
				}
				cursor, before := comettest.Publish(t, s, "list=0").Cursor(), a.count()
				answers := crowdAt(t, s, forwardedByAll[0], path, n, func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} })
				comettest.Publish(t, s, "list=1")
				for range n {
					select {
					case got := <-answers:
						if !app.want(got, path != "/alone") {
							t.Errorf("%s: got %.300s", path, got)
						}
					case <-time.After(2 * comettest.Deadline):
						t.Fatalf("%s: not all were answered", path)
					}
				}
				asked, most := a.count()-before, n
				if path == "/shared" && name != "sends much" {
					most = 2
				}
				if asked > most {
					t.Errorf("%s: the application was asked %d times by %d clients", path, asked, n)
				}
				s.Client().CloseIdleConnections()
				wantCalm(t, s, calm)
			}
		})
	}
}

// wantCalm waits until a server has no more of its clients than it had before.
func wantCalm(t *testing.T, s *comettest.Server, before leftovers) {
	t.Helper()
	comettest.Eventually(t, 2*comettest.Deadline, func() bool {
		after := countLeftovers(t, s)
		return after.held == 0 && after.goroutines <= before.goroutines+10+2*runtime.NumCPU() && after.descriptors <= before.descriptors+10
	}, "what is left of clients does not go")
}

// Nobody stays held when the process ends, nor is the application asked for all of them
// then.
func TestForwardedRequestsAreToldToComeBackAtAnExit(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll {
		for i, options := range []string{"", "on_timeout 204", "pace 1/m"} {
			if i > 0 && by.name != "HTTP/1.1" && by.name != "HTTP/2" {
				continue
			}
			t.Run(by.name+" "+options, func(t *testing.T) {
				t.Parallel()
				app, address := newAsked(t, nil)
				s := startForwarding(t, address, options, by.opts...)
				cursor, n := comettest.Publish(t, s, "list=0").Cursor(), 20
				answers := crowdOf(t, s, by, n, func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} })
				if strings.HasPrefix(options, "pace") { // all but one wait for their turn
					comettest.Publish(t, s, "list=1")
					each(t, answers, 1, func(comettest.Answer) {})
					n--
				}
				s.Stop(t)
				each(t, answers, n, func(a comettest.Answer) {
					if a.Status != 503 || a.Header.Get("Retry-After") == "" || a.Cursor() != "" {
						t.Errorf("got %s", a)
					}
				})
				if app.count() > 1 {
					t.Errorf("the application was asked %d times", app.count())
				}
			})
		}
	}
}

func TestAReloadCutsNoForwardedRequest(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll {
		for name, global := range map[string]string{by.name: "", by.name + " with the listener wrapper": wrappers} {
			if global != "" && !strings.HasSuffix(by.name, "/1.1") {
				continue
			}
			t.Run(name, func(t *testing.T) {
				if global != "" {
					needWrapper(t)
				}
				t.Parallel()
				_, first := newAsked(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "before") })
				_, second := newAsked(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "after") })
				site := func(app, options string) string {
					return strings.Replace(strings.ReplaceAll(forwardingSite(options), "{$APP}", app), "{\n", "{\n"+global+"\n", 1)
				}
				s := comettest.Start(t, site(first, ""), by.opts...)
				cursor := comettest.Publish(t, s, "list=0").Cursor()
				header := func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} }
				// The one that a goroutine holds goes on where it is.
				parked := comettest.Parks(t) && strings.HasSuffix(by.name, "/1.1")
				for round := range 3 {
					answers := crowdOf(t, s, by, 10, header)
					s.Reload(t, site(second, fmt.Sprintf("retry %ds", round+1)))
					comettest.Publish(t, s, fmt.Sprint("list=", round+1))
					each(t, answers, 10, func(a comettest.Answer) {
						if a.Status != 200 || parked && a.Body != "after" {
							t.Errorf("got %s", a)
						}
						cursor = a.Cursor()
					})
				}
				// With the route gone they go on.
				answers := crowdOf(t, s, by, 10, header)
				s.Reload(t, strings.ReplaceAll(site(second, ""), "/list*", "/other"))
				each(t, answers, 10, func(a comettest.Answer) {
					if a.Status != 200 || a.Body != "after" {
						t.Errorf("got %s", a)
					}
				})
			})
		}
	}
}
