package main_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// asked is an application that notes what it is asked.
type asked struct {
	answer http.HandlerFunc

	mu       sync.Mutex
	requests []*http.Request
	now      int // that it answers
	most     int // that it answered at once
}

// newAsked starts an application that answers what it is asked with the number of the
// request, unless it is given another way.
func newAsked(t *testing.T, answer http.HandlerFunc) (a *asked, address string) {
	t.Helper()
	a = &asked{answer: answer}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return a, server.Listener.Addr().String()
}

func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, r)
	n := len(a.requests)
	a.now++
	a.most = max(a.most, a.now)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.now--
		a.mu.Unlock()
	}()
	if a.answer != nil {
		a.answer(w, r)
		return
	}
	fmt.Fprintf(w, "answer %d", n)
}

// count returns how often it was asked.
func (a *asked) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests)
}

// last returns what it was asked last.
func (a *asked) last(t *testing.T) *http.Request {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.requests) == 0 {
		t.Fatal("the application was not asked")
	}
	return a.requests[len(a.requests)-1]
}

// startForwarding starts comet before an application, with a route /list on the field
// list that forwards, with further options.
func startForwarding(t *testing.T, app, options string, opts ...comettest.Option) *comettest.Server {
	t.Helper()
	return comettest.Start(t, forwardingSite(options), append(opts, comettest.Env("APP", app))...)
}

func forwardingSite(options string) string {
	body := `
	comet {
		publish /config
		hold /list* {
			field list
			forward
			` + options + `
		}
		hold /push {
			field **
		}
	}
	reverse_proxy {$APP}
`
	return comettest.Global("") + "http://127.0.0.1:{$HTTP} {\n" + body + "}\nhttps://localhost:{$HTTPS} {\n\ttls internal\n" + body + "}\n"
}

// forwardedBy is a way in which a request that the application answers is held.
type forwardedBy struct {
	name   string
	client func(t *testing.T, s *comettest.Server) *http.Client
	url    func(s *comettest.Server, path string) string
	opts   []comettest.Option
}

func ownConnection(_ *testing.T, s *comettest.Server) *http.Client {
	return &http.Client{Transport: s.Client().Transport.(*http.Transport).Clone()}
}

var forwardedByAll = []forwardedBy{
	{"HTTP/1.1", ownConnection, (*comettest.Server).URL, nil},
	{"HTTP/1.1 on goroutines", ownConnection, (*comettest.Server).URL, []comettest.Option{comettest.WithParking("off")}},
	{"HTTPS/1.1", func(t *testing.T, s *comettest.Server) *http.Client { return s.TLSClient(t, false) }, (*comettest.Server).TLSURL, nil},
	{"HTTP/2", func(t *testing.T, s *comettest.Server) *http.Client { return s.TLSClient(t, true) }, (*comettest.Server).TLSURL, nil},
	{"HTTP/3", func(t *testing.T, s *comettest.Server) *http.Client { return s.HTTP3Client(t) }, (*comettest.Server).TLSURL, nil},
}

func TestAForwardedRequestIsAnsweredByTheApplicationWhenItIsWoken(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, nil)
			s := startForwarding(t, address, "", by.opts...)
			comettest.Publish(t, s, "list=1")
			client := by.client(t, s)
			ask := request{URL: by.url(s, "/list?a=b"), Client: client, Header: map[string]string{
				"Comet-Outcome": "wake", "Comet-Value": "forged", "Comet-Field": "forged", "Cookie": "a=b",
			}}

			// Nothing was seen.
			a := s.Do(t, ask)
			wantForwarded(t, app, a, "answer 1", "now", "list", "1")
			if got := app.last(t).URL.String(); got != "/list?a=b" {
				t.Errorf("the application was asked for %s", got)
			}
			if got := app.last(t).Header.Get("Cookie"); got != "a=b" {
				t.Errorf("the application was sent the cookies %q", got)
			}

			// Three in a row, on the same connection.
			for n := range 3 {
				ask.Header["Comet-Cursor"] = a.Cursor()
				held := comettest.HoldOn(t, s, ask, "list")
				if app.count() != n+1 {
					t.Fatalf("the application was asked %d times before there was anything", app.count())
				}
				comettest.Publish(t, s, fmt.Sprintf("list=%s", url.QueryEscape(fmt.Sprint("ä ", n))))
				a = comettest.Await(t, held)
				wantForwarded(t, app, a, fmt.Sprint("answer ", n+2), "wake", "list", fmt.Sprint("ä ", n))
			}

			// What came between two requests.
			ask.Header["Comet-Cursor"] = a.Cursor()
			comettest.Publish(t, s, "list=between")
			a = s.Do(t, ask)
			wantForwarded(t, app, a, "answer 5", "now", "list", "between")

			ask.Header["Comet-Cursor"] = "what is this"
			wantForwarded(t, app, s.Do(t, ask), "answer 6", "missed", "list", "between")
		})
	}
}

// wantForwarded checks an answer of the application, and what it was told.
func wantForwarded(t *testing.T, app *asked, a comettest.Answer, body, outcome, field, value string) {
	t.Helper()
	r := app.last(t)
	if a.Status != 200 || a.Body != body || a.Cursor() == "" {
		t.Errorf("got %s; want 200 %q", a, body)
	}
	got, err := url.PathUnescape(r.Header.Get("Comet-Value"))
	if err != nil {
		t.Errorf("the value: %v", err)
	}
	if r.Header.Get("Comet-Outcome") != outcome || r.Header.Get("Comet-Field") != field || got != value {
		t.Errorf("the application was told %v; want %s %s %q", r.Header, outcome, field, value)
	}
	if told := r.Header.Values("Comet-Cursor"); len(told) != 1 || told[0] != a.Cursor() {
		t.Errorf("the application was told the cursor %q, and the client %q", told, a.Cursor())
	}
}

func TestAForwardedRequestGoesOnByValue(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, nil)
	s := startForwarding(t, address, "seen {query.since}")
	comettest.Publish(t, s, "list=5")
	wantForwarded(t, app, s.Do(t, request{URL: "/list"}), "answer 1", "now", "list", "5")
	wantForwarded(t, app, s.Do(t, request{URL: "/list?since=4"}), "answer 2", "now", "list", "5")
	held := comettest.HoldOn(t, s, request{URL: s.URL("/list?since=5")}, "list")
	comettest.Publish(t, s, "list=3") // not newer
	comettest.Publish(t, s, "list=6")
	wantForwarded(t, app, comettest.Await(t, held), "answer 3", "wake", "list", "6")
}

func TestAForwardedRequestEndsByItsTimeout(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll[:2] {
		for _, on := range []string{"forward", "204", "304"} {
			t.Run(by.name+" "+on, func(t *testing.T) {
				t.Parallel()
				app, address := newAsked(t, nil)
				s := startForwarding(t, address, "timeout 300ms\n\t\t\ton_timeout "+on, by.opts...)
				cursor := comettest.Publish(t, s, "list=1").Cursor()
				client := by.client(t, s)
				for range 2 {
					a := s.Do(t, request{URL: by.url(s, "/list"), Client: client, Header: map[string]string{"Comet-Cursor": cursor}})
					if on != "forward" {
						if fmt.Sprint(a.Status) != on || a.Cursor() != cursor || a.Body != "" || app.count() != 0 {
							t.Errorf("got %s, and the application was asked %d times", a, app.count())
						}
						continue
					}
					wantForwarded(t, app, a, fmt.Sprint("answer ", app.count()), "timeout", "list", "")
				}
			})
		}
	}
}

func TestOtherMethodsGoOnAtOnce(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, nil)
	s := startForwarding(t, address, "")
	cursor := comettest.Publish(t, s, "list=1").Cursor()
	for n, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "HEAD"} {
		a := s.Do(t, request{Method: method, URL: "/list", Body: "hello", Header: map[string]string{"Comet-Cursor": cursor, "Comet_Outcome": "wake"}})
		if a.Status != 200 || app.count() != n+1 {
			t.Errorf("%s: got %s", method, a)
		}
		for name := range app.last(t).Header {
			if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "Comet-Outcome") && method != "HEAD" {
				t.Errorf("%s: the application was sent %s", method, name)
			}
		}
		if app.last(t).Header.Get("Comet-Cursor") == "" {
			t.Errorf("%s: the application was told no cursor", method)
		}
	}
}

func TestALargeValueIsLeftOut(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, nil)
	s := startForwarding(t, address, "")
	for data, left := range map[string]bool{
		strings.Repeat("x", 4096): false,
		strings.Repeat("x", 4097): true,
		strings.Repeat(" ", 2000): true, // encoded it is larger
	} {
		cursor := comettest.Publish(t, s, "list=1").Cursor()
		comettest.PublishAs(t, s, "field=list", "text/plain", data)
		s.Do(t, request{URL: "/list", Header: map[string]string{"Comet-Cursor": cursor, "Comet-Value-Omitted": "2"}})
		header := app.last(t).Header
		if header.Get("Comet-Value-Omitted") == "1" != left || header.Get("Comet-Value") == "" != left {
			t.Errorf("%d bytes: the application was told %.100q", len(data), header)
		}
	}
}

// Authentication and the rest of the chain see a request again, as it came.
func TestAForwardedRequestComesAgainAsTheClientSentIt(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, nil)
	hashed, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	header X-Site yes
	log {
		output stderr
	}
	comet {
		publish /config
		hold /site/* {
			field list/{http.auth.user.id}
			forward
		}
	}
	@site path /list* # as it is by then
	basic_auth @site {
		ann {$HASH}
	}
	request_header -Authorization
	request_header +X-Added once
	uri strip_prefix /site
	reverse_proxy {$APP}
}
`, comettest.Env("APP", address), comettest.Env("HASH", string(hashed)))
	cursor := comettest.Publish(t, s, "list/ann=1").Cursor()
	client := ownConnection(t, s)
	for n := range 3 {
		ask := request{URL: s.URL("/site/list?a=%20b"), Client: client, Header: map[string]string{
			"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret")), "Comet-Cursor": cursor, "X-Odd": "a  b",
		}}
		held := comettest.HoldOn(t, s, ask, "list/ann")
		from := len(s.Logs())
		comettest.Publish(t, s, "list/ann=2")
		a := comettest.Await(t, held)
		if a.Status != 200 || a.Header.Get("X-Site") != "yes" || app.count() != n+1 {
			t.Fatalf("got %s, the application was asked %d times", a, app.count())
		}
		cursor = a.Cursor()
		r := app.last(t)
		if r.RequestURI != "/list?a=%20b" || r.Header.Get("X-Odd") != "a  b" || r.Header.Get("Authorization") != "" || !slices.Equal(r.Header["X-Added"], []string{"once"}) {
			t.Errorf("the application was sent %s %v", r.RequestURI, r.Header)
		}
		line := s.WaitLogFrom(t, from, `"uri":"/site/list?a=%20b"`)
		for _, has := range []string{`"user_id":"ann"`, `"status":200`, `"comet_outcome":"wake"`, `"comet_held":`, `"comet_field":["list/ann"]`} {
			if !strings.Contains(line, has) {
				t.Errorf("the access log says %s; want %s", line, has)
			}
		}
		if lines := strings.Count(s.Logs()[from:], `"uri":"/site/list`); lines != 1 {
			t.Errorf("the access log has %d lines of it", lines)
		}
	}
	if a := s.Do(t, request{URL: "/site/list"}); a.Status != 401 {
		t.Errorf("without a password: %s", a)
	}
}

func TestAForwardedRequestWhoseClientLeavesIsForgotten(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, nil)
			s := startForwarding(t, address, "", by.opts...)
			cursor := comettest.Publish(t, s, "list=1").Cursor()
			ctx, cancel := context.WithCancel(t.Context())
			client := by.client(t, s)
			left := make(chan comettest.Answer)
			go func() {
				left <- s.Try(ctx, request{URL: by.url(s, "/list"), Client: client, Header: map[string]string{"Comet-Cursor": cursor}})
			}()
			comettest.WaitSubscribers(t, s, "list", 1)
			cancel()
			<-left
			comettest.WaitSubscribers(t, s, "list", 0)
			comettest.Publish(t, s, "list=2")
			time.Sleep(50 * time.Millisecond)
			if app.count() != 0 {
				t.Errorf("the application was asked %d times", app.count())
			}
		})
	}
}

// crowdOf has n clients of one kind held, each on a connection of its own, and returns
// where their answers come.
func crowdOf(t *testing.T, s *comettest.Server, by forwardedBy, n int, header func(i int) map[string]string) chan comettest.Answer {
	t.Helper()
	return crowdAt(t, s, by, "/list", n, header)
}

func crowdAt(t *testing.T, s *comettest.Server, by forwardedBy, path string, n int, header func(i int) map[string]string) chan comettest.Answer {
	t.Helper()
	before, _ := comettest.Subscribers(t, s, "list")
	answers := make(chan comettest.Answer, 2*n)
	for i := range n {
		client := by.client(t, s)
		go func() {
			a := s.Try(t.Context(), request{URL: by.url(s, path), Client: client, Header: header(i)})
			client.CloseIdleConnections()
			answers <- a
		}()
	}
	comettest.WaitSubscribers(t, s, "list", before+n)
	return answers
}

// each waits for n answers.
func each(t *testing.T, answers <-chan comettest.Answer, n int, check func(comettest.Answer)) {
	t.Helper()
	for range n {
		select {
		case a := <-answers:
			if a.Err != nil {
				t.Fatal(a.Err)
			}
			check(a)
		case <-time.After(2 * comettest.Deadline):
			t.Fatal("not all were answered")
		}
	}
}

func TestOneRequestIsSharedByAllWhoAskTheSame(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Add("Vary", "Cookie")
				fmt.Fprintf(w, "for %s", r.Header.Get("Cookie"))
			})
			s := startForwarding(t, address, "share", by.opts...)
			n, rounds := 100, 3
			cursor := comettest.Publish(t, s, "list=0").Cursor()
			for round := range rounds {
				before := app.count()
				answers := crowdOf(t, s, by, n, func(i int) map[string]string {
					return map[string]string{"Comet-Cursor": cursor, "Cookie": fmt.Sprint("user=", i%2)}
				})
				comettest.Publish(t, s, fmt.Sprint("list=", round+1))
				got := map[string]int{}
				each(t, answers, n, func(a comettest.Answer) {
					got[a.Body]++
					cursor = a.Cursor()
					if a.Status != 200 || cursor == "" || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") {
						t.Errorf("got %s", a)
					}
				})
				if want := map[string]int{"for user=0": n / 2, "for user=1": n / 2}; !maps.Equal(got, want) {
					t.Errorf("got %v; want %v", got, want)
				}
				if asked := app.count() - before; asked < 2 || asked > 4 {
					t.Errorf("the application was asked %d times for two users", asked)
				}
			}
		})
	}
}

func TestWhatMustNotBeSharedIsNot(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.Header){
		"a cookie is set":     func(h http.Header) { h.Set("Set-Cookie", "session=1") },
		"private":             func(h http.Header) { h.Set("Cache-Control", "max-age=0, Private") },
		"by another header":   func(h http.Header) { h.Set("Vary", "Accept-Encoding, X-Tenant") },
		"by everything":       func(h http.Header) { h.Set("Vary", "*") },
		"an event stream":     func(h http.Header) { h.Set("Content-Type", "text/event-stream") },
		"large, with length":  func(h http.Header) { h.Set("Content-Length", strconv.Itoa(3<<20)) },
		"large, unannounced":  func(http.Header) {},
		"larger in one piece": func(h http.Header) { h.Set("X-Piece", "1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			size := 100
			if strings.HasPrefix(name, "large") {
				size = 3 << 20
			}
			app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
				answer(w.Header())
				head := r.Header.Get("Cookie") + " "
				fmt.Fprint(w, head, strings.Repeat("x", size-len(head)))
			})
			s := startForwarding(t, address, "share public")
			n := 10
			cursor := comettest.Publish(t, s, "list=0").Cursor()
			answers := crowdOf(t, s, forwardedByAll[0], n, func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} })
			comettest.Publish(t, s, "list=1")
			each(t, answers, n, func(a comettest.Answer) {
				if a.Status != 200 || len(a.Body) != size {
					t.Errorf("got %d, %d bytes; want 200, %d", a.Status, len(a.Body), size)
				}
			})
			if app.count() != n {
				t.Errorf("the application was asked %d times", app.count())
			}
		})
	}
}

func TestASharedRequestIsThatOfNobodyWhenItIsPublic(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q", r.Header["Cookie"], r.Header["Authorization"])
	})
	s := startForwarding(t, address, "share public by X-Tenant")
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	n := 20
	answers := crowdOf(t, s, forwardedByAll[0], n, func(i int) map[string]string {
		return map[string]string{"Comet-Cursor": cursor, "Cookie": fmt.Sprint("user=", i), "Authorization": "Bearer x", "X-Tenant": fmt.Sprint(i % 2)}
	})
	comettest.Publish(t, s, "list=1")
	each(t, answers, n, func(a comettest.Answer) {
		if a.Body != `[] []` {
			t.Errorf("got %s", a)
		}
	})
	if app.count() < 2 || app.count() > 4 {
		t.Errorf("the application was asked %d times for two tenants", app.count())
	}
}

// What is published while the application is being asked is told by another request.
func TestWhatComesWhileTheApplicationAnswersIsAskedForAgain(t *testing.T) {
	t.Parallel()
	may := make(chan bool)
	app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		<-may
		fmt.Fprint(w, r.Header.Get("Comet-Value"))
	})
	t.Cleanup(func() { close(may) })
	s := startForwarding(t, address, "share")
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	header := func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} }
	first := crowdOf(t, s, forwardedByAll[0], 10, header)
	comettest.Publish(t, s, "list=1")
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })
	cursor = now(t, s)
	second := crowdOf(t, s, forwardedByAll[0], 10, header)
	comettest.Publish(t, s, "list=2")
	may <- true
	each(t, first, 10, func(a comettest.Answer) {
		if a.Body != "1" {
			t.Errorf("the first got %s", a)
		}
	})
	may <- true
	each(t, second, 10, func(a comettest.Answer) {
		if a.Body != "2" {
			t.Errorf("the second got %s", a)
		}
	})
	if app.count() != 2 {
		t.Errorf("the application was asked %d times", app.count())
	}
}

// Who asks for others may leave.
func TestWhenTheOneWhoAsksLeavesTheOthersAreAnswered(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll[:4] {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(300 * time.Millisecond):
					fmt.Fprint(w, "answer")
				case <-r.Context().Done():
				}
			})
			s := startForwarding(t, address, "share", by.opts...)
			cursor := comettest.Publish(t, s, "list=0").Cursor()
			ctx, leave := context.WithCancel(t.Context())
			client := by.client(t, s)
			left := make(chan comettest.Answer)
			go func() {
				left <- s.Try(ctx, request{URL: by.url(s, "/list"), Client: client, Header: map[string]string{"Comet-Cursor": cursor, "Referer": "leaves"}})
			}()
			comettest.WaitSubscribers(t, s, "list", 1)
			answers := crowdOf(t, s, by, 10, func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} })
			comettest.Publish(t, s, "list=1")
			comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })
			if app.last(t).Header.Get("Referer") == "" {
				t.Skip("another was the first")
			}
			leave()
			<-left
			each(t, answers, 10, func(a comettest.Answer) {
				if a.Body != "answer" {
					t.Errorf("got %s", a)
				}
			})
			if app.count() != 1 {
				t.Errorf("the application was asked %d times", app.count())
			}
		})
	}
}

func TestPaceBoundsHowManyGoOn(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll[:4] {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, func(http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Millisecond) })
			s := startForwarding(t, address, "pace 4", by.opts...)
			cursor, n := comettest.Publish(t, s, "list=0").Cursor(), 60
			answers := crowdOf(t, s, by, n, func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} })
			comettest.Publish(t, s, "list=1")
			for range n / 2 { // who comes meanwhile waits behind them
				client := by.client(t, s)
				t.Cleanup(client.CloseIdleConnections)
				go func() { answers <- s.Try(t.Context(), request{URL: by.url(s, "/list"), Client: client}) }()
			}
			each(t, answers, n+n/2, func(a comettest.Answer) {
				if a.Status != 200 {
					t.Errorf("got %s", a)
				}
			})
			if app.count() != n+n/2 || app.most > 4 {
				t.Errorf("the application was asked %d times, %d at once", app.count(), app.most)
			}
		})
	}
}

func TestPaceBoundsHowFastTheyGoOn(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, nil)
	s := startForwarding(t, address, "pace 50/s")
	cursor, n := comettest.Publish(t, s, "list=0").Cursor(), 26
	answers := crowdOf(t, s, forwardedByAll[0], n, func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} })
	start := time.Now()
	comettest.Publish(t, s, "list=1")
	each(t, answers, n, func(a comettest.Answer) {
		if a.Status != 200 {
			t.Errorf("got %s", a)
		}
	})
	if took := time.Since(start); took < 490*time.Millisecond || app.count() != n {
		t.Errorf("%d requests went on in %s, at 50 a second", app.count(), took)
	}
}

// The application says what a request watches, and then answers it.
func TestTheApplicationSaysWhatAForwardedRequestWatches(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		user, err := r.Cookie("user")
		switch {
		case r.URL.Path != "/may":
			fmt.Fprint(w, r.Header.Get("Comet-Outcome"), " ", r.Header.Get("Comet-Field"))
		case err != nil:
			http.Error(w, "log in", http.StatusUnauthorized)
		case user.Value != "all":
			w.Header().Set("Comet-Fields", "inbox/"+user.Value)
		}
	})
	for _, by := range forwardedByAll[:4] {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			body := `
	comet {
		publish /config
		hold /inbox {
			field inbox/*
			ask /may
			forward
		}
	}
	reverse_proxy {$APP}
`
			s := comettest.Start(t, comettest.Global("")+"http://127.0.0.1:{$HTTP} {\n"+body+"}\nhttps://localhost:{$HTTPS} {\n\ttls internal\n"+body+"}\n",
				append(by.opts, comettest.Env("APP", address))...)
			cursor := comettest.Publish(t, s, "inbox/ann=1&inbox/bob=1").Cursor()
			ask := func(cookie, cursor string) request {
				return request{URL: by.url(s, "/inbox"), Client: by.client(t, s), Header: map[string]string{"Cookie": cookie, "Comet-Cursor": cursor}}
			}
			ann := comettest.HoldOn(t, s, ask("user=ann", cursor), "inbox/ann")
			bob := comettest.HoldOn(t, s, ask("user=bob", cursor), "inbox/bob")
			comettest.Publish(t, s, "inbox/bob=2")
			if a := comettest.Await(t, bob); a.Status != 200 || a.Body != "wake inbox/bob" {
				t.Errorf("bob got %s", a)
			}
			comettest.Publish(t, s, "inbox/ann=2")
			if a := comettest.Await(t, ann); a.Status != 200 || a.Body != "wake inbox/ann" {
				t.Errorf("ann got %s", a)
			}
			for _, c := range []struct {
				cookie, cursor string
				status         int
				body           string
			}{
				{"", cursor, 401, "log in\n"},
				{"", "", 200, "now "}, // of what has seen nothing only the application knows
				{"user=all", cursor, 502, ""},
			} {
				if a := s.Do(t, ask(c.cookie, c.cursor)); a.Status != c.status || a.Body != c.body {
					t.Errorf("%q, %q: got %s; want %d %q", c.cookie, c.cursor, a, c.status, c.body)
				}
			}
		})
	}
}
