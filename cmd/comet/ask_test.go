package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// askedApplication says at /may what the header X-Say of the request says, a form of a
// status and a header. Without it, what the cookie user may watch.
type askedApplication struct {
	addr string

	mu    sync.Mutex
	asked []*http.Request
}

func newAskedApplication(t *testing.T) *askedApplication {
	t.Helper()
	a := new(askedApplication)
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.addr = server.Listener.Addr().String()
	return a
}

func (a *askedApplication) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked = append(a.asked, r)
	a.mu.Unlock()
	if r.URL.Path == "/slow" {
		select {
		case <-r.Context().Done():
		case <-time.After(comettest.Deadline):
		}
		return
	}
	status, said := 200, url.Values{}
	switch user, err := r.Cookie("user"); {
	case r.Header.Get("X-Say") != "":
		said, _ = url.ParseQuery(r.Header.Get("X-Say"))
		status, _ = strconv.Atoi(said.Get("status"))
	case err != nil:
		status = 401
		said.Set("WWW-Authenticate", "Basic")
	default:
		said.Set("Comet-Fields", "inbox/"+user.Value+", news")
	}
	size, _ := strconv.Atoi(said.Get("size"))
	for name, values := range said {
		if name != "status" && name != "size" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(status)
	if size > 0 {
		fmt.Fprint(w, strings.Repeat("x", size))
	} else if status >= 300 {
		fmt.Fprint(w, "the application's own words")
	}
}

// take returns the requests that came since the last call.
func (a *askedApplication) take() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

func (a *askedApplication) wantAsked(t *testing.T, want int) {
	t.Helper()
	if got := len(a.take()); got != want {
		t.Errorf("the application was asked %d times; want %d", got, want)
	}
}

// asking is a site, plain and over TLS, whose hold routes ask the application.
func asking(options string) string {
	return both("", `
	log
	comet {
		publish /config
		hold /push {
			field inbox/* news fresh/*
			ask /may for 1m
			`+options+`
		}
		hold /each {
			field inbox/* news fresh/*
			ask /may?room={query.room} for 0s
		}
		hold /signed {
			field inbox/* news
			ask /may for 1m
			signed 0123456789abcdef
		}
		hold /cors {
			field inbox/* news
			ask /may for 1m
			cors {
				origins https://app.example.com
				credentials
			}
		}
		hold /slowly {
			field news
			ask /slow
		}
		hold /round {
			field news
			ask /push
		}
		hold /unanswered {
			field news
			ask /typo.php
		}
		hold /over/* {
			field news
			forward
		}
		hold /throughout {
			field news
			ask /over/may for 0s
		}
		hold /away {
			field news
			ask /gone
		}
	}
	header X-Site 1
	reverse_proxy /gone 127.0.0.1:1
	reverse_proxy /may {$APP}
	reverse_proxy /slow {$APP}
	reverse_proxy /over/* {$APP}
`)
}

func startAsking(t *testing.T, opts ...comettest.Option) (*comettest.Server, *askedApplication) {
	t.Helper()
	app := newAskedApplication(t)
	return comettest.Start(t, asking(""), append(opts, comettest.Env("APP", app.addr))...), app
}

// say returns the header that makes the application say so.
func say(status int, header ...string) map[string]string {
	said := url.Values{"status": {strconv.Itoa(status)}}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		said.Add(name, value)
	}
	return map[string]string{"X-Say": said.Encode()}
}

func asUser(name string) map[string]string { return map[string]string{"Cookie": "user=" + name} }

func TestTheApplicationChoosesWhatIsWatched(t *testing.T) {
	t.Parallel()
	s, app := startAsking(t)
	comettest.Publish(t, s, "inbox/42=hello&inbox/43=secret&news=all&other=x")
	all := say(204)
	two := say(200, "Comet-Fields: inbox/42,%6eews", "Comet-Fields: news")
	for name, test := range map[string]struct {
		query  string
		header map[string]string
		status int
		want   []string
	}{
		"nothing narrowed":          {"field=inbox/42&field=inbox/43", all, 200, []string{"inbox/42=hello", "inbox/43=secret"}},
		"nothing narrowed or named": {"", all, 200, []string{"news=all"}},
		"not even then":             {"field=other", all, 403, nil},
		"all of it":                 {"", two, 200, []string{"inbox/42=hello", "news=all"}},
		"a part of it":              {"field=news", two, 200, []string{"news=all"}},
		"by value":                  {"inbox/42=hello&news=0", two, 200, []string{"news=all"}},
		"another":                   {"field=inbox/43", two, 403, nil},
		"another besides":           {"field=inbox/42&field=inbox/43", two, 403, nil},
		"a user's own":              {"", asUser("43"), 200, []string{"inbox/43=secret", "news=all"}},
		"nothing":                   {"", say(200, "Comet-Fields: "), 403, nil},
		"what the route has not":    {"", say(200, "Comet-Fields: inbox/42, other"), 403, nil},
		"no name":                   {"", say(200, "Comet-Fields: %zz"), 502, nil},
		"a glob is a name":          {"field=inbox/42", say(200, "Comet-Fields: inbox/*"), 403, nil},
	} {
		from := len(s.Logs())
		a := s.Do(t, request{URL: "/push?format=json&wait=0&" + test.query, Header: test.header})
		t.Run(name, func(t *testing.T) {
			wantStatus(t, a, test.status)
			if test.want != nil {
				wantTexts(t, a, test.want...)
			}
			if a.Header["Comet-Fields"] != nil || a.Header.Get("Cache-Control") != "no-store" || strings.Contains(a.Body, "secret") != slices.Contains(test.want, "inbox/43=secret") {
				t.Errorf("the client is told %s", a)
			}
			switch name {
			case "what the route has not":
				s.WaitLogFrom(t, from, "add `field other` to the hold block")
			case "no name":
				s.WaitLogFrom(t, from, "the Comet-Fields of the response to `ask /may` cannot be read")
				if a.Header.Get("Retry-After") == "" {
					t.Errorf("it is not told when to come back: %s", a)
				}
			}
		})
	}
	app.take()
	for range 2 { // a plain poll and a HEAD are asked for too
		a := s.Do(t, request{Method: "HEAD", URL: "/each", Header: asUser("42")})
		wantStatus(t, a, 200)
		wantFields(t, a, "inbox/42", "news")
		app.wantAsked(t, 1)
	}
}

func TestWhatTheApplicationRefusesIsWhatTheClientGets(t *testing.T) {
	t.Parallel()
	s, app := startAsking(t)
	get := func(path string, header map[string]string) comettest.Answer {
		return s.Do(t, request{URL: path, Header: header, Client: unredirected(s)})
	}
	const words = "the application's own words"
	for _, test := range []struct {
		status int
		header []string
	}{
		{401, []string{"Www-Authenticate: Basic realm=\"x\""}},
		{302, []string{"Location: /login?to=push", "Set-Cookie: s=1; Path=/", "Set-Cookie: t=2"}},
		{403, []string{"Cache-Control: max-age=60", "Content-Type: text/html", "X-Own: 1"}},
		{404, nil},
		{500, []string{"Retry-After: 77"}},
		{503, nil},
	} {
		for range 2 { // neither is kept
			a := get("/push", say(test.status, append(test.header, "Comet-Fields: inbox/42", "Comet-Publish: id=1", "Keep-Alive: x")...))
			wantStatus(t, a, test.status)
			if a.Body != words || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Keep-Alive") != "" ||
				a.Header["Comet-Fields"] != nil || a.Header["Comet-Publish"] != nil || !slices.Equal(a.Header["X-Site"], []string{"1"}) {
				t.Errorf("got %s", a)
			}
			for _, line := range test.header {
				name, value, _ := strings.Cut(line, ": ")
				if !slices.Contains(a.Header[name], value) && name != "Cache-Control" {
					t.Errorf("%d: got %v; want %s", test.status, a.Header, line)
				}
			}
			if (a.Header.Get("Retry-After") != "") != (test.status >= 500) {
				t.Errorf("%d: Retry-After is %q", test.status, a.Header.Get("Retry-After"))
			}
		}
		app.wantAsked(t, 2)
	}
	a := s.Do(t, request{Method: "HEAD", URL: "/push", Header: say(403)})
	if wantStatus(t, a, 403); a.Header.Get("Content-Length") != fmt.Sprint(len(words)) {
		t.Errorf("got %s", a)
	}
	for path, reason := range map[string]string{
		"/unanswered": "nothing in this site answers `ask /typo.php`",
		"/push":       "is 403, and has more than the 65536 bytes",
	} {
		from := len(s.Logs())
		a := get(path, say(403, "size: 70000"))
		if wantStatus(t, a, 502); a.Header.Get("Retry-After") == "" || strings.Contains(a.Body, "x") {
			t.Errorf("%s: got %s", path, a)
		}
		s.WaitLogFrom(t, from, reason)
	}
	if a := get("/away", nil); a.Status != 502 || a.Header.Get("Retry-After") == "" {
		t.Errorf("without the application: got %s", a)
	}
	if a := get("/push?wait=0", say(200, "size: 70000")); a.Status != 200 {
		t.Errorf("a long yes: got %s", a)
	}
	from := len(s.Logs())
	wantStatus(t, get("/round", asUser("42")), 508)
	s.WaitLogFrom(t, from, "have the matcher of that route leave it out")
}

func TestTheApplicationIsAskedAsByTheClientItself(t *testing.T) {
	t.Parallel()
	s, app := startAsking(t)
	send := map[string]string{
		"User-Agent": "test", "Range": "bytes=0-1", "If-None-Match": "x", "Last-Event-ID": "e.1",
		"Comet-Fields": "inbox/43", "Comet_Fields": "inbox/43", "X-Forwarded-For": "192.0.2.7",
	}
	maps.Copy(send, asUser("42"))
	s.Do(t, request{URL: "/each?wait=0&room=" + escape("a&b=../c"), Header: send})
	s.Do(t, request{URL: "/may?room=" + escape("a&b=../c"), Header: map[string]string{
		"User-Agent": "test", "Cookie": "user=42", "X-Forwarded-For": "192.0.2.7", "Accept-Encoding": "identity",
	}})
	asked := app.take()
	if len(asked) != 2 {
		t.Fatalf("the application has %d requests; want 2", len(asked))
	}
	if got, want := asked[0], asked[1]; got.Method != "GET" || got.RequestURI != want.RequestURI || got.Host != want.Host ||
		got.ContentLength != 0 || fmt.Sprint(got.Header) != fmt.Sprint(want.Header) {
		t.Errorf("asked was  %s %s %s %v\nthe client: %s %s %v", got.Method, got.Host, got.RequestURI, got.Header, want.Host, want.RequestURI, want.Header)
	}
	line := s.WaitLog(t, `"uri":"/may?room=a%26b%3D..%2Fc"`)
	if !strings.Contains(line, "handled request") || !strings.Contains(line, `"status":200`) {
		t.Errorf("the access log says %s", line)
	}
}

// It may come to the application by a route that forwards, where its connection, which is
// that of the held request, is not to be touched.
func TestTheApplicationIsAskedThroughARouteThatForwards(t *testing.T) {
	t.Parallel()
	s, app := startAsking(t)
	comettest.Publish(t, s, "news=0")
	l := plainLink(t, s)
	for i := range 3 {
		l.get("/throughout?after=now&format=json", "X-Say: status=200")
		comettest.WaitSubscribers(t, s, "news", 1)
		app.wantAsked(t, 1)
		comettest.Publish(t, s, fmt.Sprint("news=", i))
		wantTexts(t, l.answer(), fmt.Sprint("news=", i))
		l.get("/throughout", "X-Say: status=403")
		if a := l.answer(); a.Status != 403 || a.Body != "the application's own words" {
			t.Errorf("got %s", a)
		}
		app.wantAsked(t, 1)
	}
}

func TestOneCredentialIsAskedForOnce(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s, app := startAsking(t, p.opts...)
			comettest.Publish(t, s, "inbox/42=0&inbox/43=0&news=0")
			const clients = 200
			var all sync.WaitGroup
			answers := make(chan comettest.Answer, 2*clients)
			ctx, cancel := context.WithTimeout(t.Context(), 2*comettest.Deadline)
			defer cancel()
			for i := range 2 * clients {
				header := asUser([]string{"42", "43"}[i%2])
				header["User-Agent"] = fmt.Sprint("browser ", i%7)
				all.Go(func() {
					answers <- s.Try(ctx, request{URL: "/push?format=json&after=now", Header: header})
				})
			}
			comettest.WaitSubscribers(t, s, "news", 2*clients)
			comettest.WaitSubscribers(t, s, "inbox/42", clients)
			comettest.Publish(t, s, "news=1")
			all.Wait()
			for range 2 * clients {
				wantTexts(t, <-answers, "news=1")
			}
			app.wantAsked(t, 2)

			// Those who leave are not waited for, and their question goes with them.
			leaving, leave := context.WithCancel(t.Context())
			var gone sync.WaitGroup
			for range 20 {
				gone.Go(func() { s.Try(leaving, request{URL: "/slowly"}) })
			}
			comettest.Eventually(t, comettest.Deadline, func() bool {
				app.mu.Lock()
				defer app.mu.Unlock()
				return len(app.asked) > 0
			}, "the application is not asked")
			slow := app.take()
			leave()
			gone.Wait()
			if len(slow) != 1 {
				t.Errorf("%d requests; want 1", len(slow))
			}
			select {
			case <-slow[0].Context().Done():
			case <-time.After(comettest.Deadline):
				t.Error("the application is still asked when nobody waits")
			}
			comettest.Eventually(t, comettest.Deadline, func() bool {
				return metrics(t, s)[`comet_hold_requests_total{outcome="left"}`] > 0
			}, "nobody is counted who left")
		})
	}
}

func TestTheApplicationIsAskedOnEachWay(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s, app := startAsking(t, append(p.opts, comettest.Env("GODEBUG", "http2xconnect=1"))...)
			comettest.Publish(t, s, "inbox/42=0&inbox/43=0&news=0")
			for _, w := range ways(t, s) {
				t.Run(w.name, func(t *testing.T) {
					for _, format := range []string{"sse", "ndjson"} {
						target := "/push?after=now&format=" + format
						mine, theirs := openStream(t, w, target, "Cookie: user=42"), openStream(t, w, target, "Cookie: user=43")
						if _, err := w.open(target, noCut); err == nil || !strings.Contains(err.Error(), "401") {
							t.Errorf("without a cookie: %v; want 401", err)
						}
						comettest.Publish(t, s, "inbox/42=for 42&inbox/43=for 43&news=both")
						mine.want(t, "for 42", "both")
						theirs.want(t, "for 43", "both")
						mine.close()
						theirs.close()
					}
				})
			}
			for _, w := range ways(t, s)[3:] {
				ws, res := connectSocket(t, w, "/push?after=now", "Cookie", "user=42")
				wantStatusOf(t, res, http.StatusOK)
				_, res = connectSocket(t, w, "/push?after=now")
				wantStatusOf(t, res, http.StatusUnauthorized)
				comettest.Publish(t, s, "inbox/43=no&inbox/42=over "+w.name)
				ws.want("over " + w.name)
			}
			app.take()
		})
	}
}

func wantStatusOf(t *testing.T, res *http.Response, want int) {
	t.Helper()
	if res.StatusCode != want {
		t.Errorf("got %s; want %d", res.Status, want)
	}
}

func TestAStreamWatchesNoMoreThanItWasGranted(t *testing.T) {
	t.Parallel()
	s, app := startAsking(t)
	comettest.Publish(t, s, "inbox/42=0&inbox/43=0&news=0")
	change := func(session, cookie, body string) comettest.Answer {
		return s.Do(t, request{
			Method: "POST", URL: s.URL("/push?session=" + session), Type: "application/json", Body: body,
			Header: map[string]string{"Cookie": cookie},
		})
	}
	stream := openStream(t, plainWay(s), "/push?format=ndjson&after=now&field=news", "Cookie: user=42")
	wantStatus(t, change(stream.session, "user=42", `{"watch":["inbox/42"]}`), 200)
	wantStatus(t, change(stream.session, "user=42", `{"watch":["inbox/43"]}`), 403)
	wantStatus(t, change(stream.session, "user=43", `{"watch":["inbox/43"]}`), 403)
	wantStatus(t, change(stream.session, "user=43", `{"watch":["inbox/42"]}`), 403)
	wantStatus(t, change(stream.session, "", `{"watch":["inbox/42"]}`), 401)
	wantStatus(t, change(stream.session, "user=42", `{"unwatch":["news"]}`), 200)

	ws := openSocket(t, plainLink(t, s), "/push?after=now&field=news", "Cookie: user=42")
	ws.wantFrame(textFrame) // its session
	for body, want := range map[string]string{
		`{"watch":["inbox/43"]}`: `"status":403`,
		`{"watch":["fresh/1"]}`:  `"status":403`,
		`{"watch":["inbox/42"]}`: `"watch":["news","inbox/42"]`,
	} {
		ws.send(final|textFrame, body)
		for text := ""; !strings.Contains(text, want); {
			if text = string(ws.wantFrame(textFrame)); strings.Contains(text, "inbox/43") && !strings.Contains(text, "error") {
				t.Fatalf("told %s; want %s", text, want)
			}
		}
	}
	unlimited := openSocket(t, plainLink(t, s), "/push?after=now&field=news", "X-Say: status=200")
	unlimited.wantFrame(textFrame)
	unlimited.send(final|textFrame, `{"watch":["inbox/43"]}`)
	for !strings.Contains(string(unlimited.wantFrame(textFrame)), `"watch":["news","inbox/43"]`) {
	}
	comettest.Publish(t, s, "inbox/43=secret&inbox/42=hello")
	ws.want("hello")
	stream.want(t, "hello")
	unlimited.want("secret")
	app.take()
}

// PHP sets a cookie for who has none. One that comes with the answer of a request that
// was held would be set over what was set meanwhile.
func TestCookiesOfTheApplicationComeAtOnceOrNotAtAll(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s, app := startAsking(t, p.opts...)
			comettest.Publish(t, s, "news=0")
			begins := say(200, "Set-Cookie: s=1; Path=/", "Comet-Fields: news")
			wants := func(what string, cookies []string, want bool) {
				t.Helper()
				if slices.Contains(cookies, "s=1; Path=/") != want {
					t.Errorf("%s is given the cookies %q", what, cookies)
				}
			}
			wants("an answer", s.Do(t, request{URL: "/push?wait=0", Header: begins}).Header["Set-Cookie"], true)
			wants("a stream", openStream(t, plainWay(s), "/push?format=sse&after=now", "X-Say: "+begins["X-Say"]).header["Set-Cookie"], true)
			wants("a WebSocket", upgrade(t, plainLink(t, s), "/push?after=now", "X-Say: "+begins["X-Say"]).Header["Set-Cookie"], true)
			app.wantAsked(t, 3)
			held := comettest.HoldOn(t, s, request{URL: s.URL("/push?after=now"), Header: begins}, "news")
			comettest.Publish(t, s, "news=1")
			wants("one that was held", comettest.Await(t, held).Header["Set-Cookie"], false)
			app.wantAsked(t, 1)
			// One that it has already is set anew for the one that it was asked with, and the yes is kept.
			begins["Cookie"] = "s=0"
			for _, own := range []bool{true, false} {
				wants("one who has it", s.Do(t, request{URL: "/push?wait=0", Header: begins}).Header["Set-Cookie"], own)
			}
			app.wantAsked(t, 1)
		})
	}
}

func TestAskGoesTogetherWithTheOtherOptions(t *testing.T) {
	t.Parallel()
	s, app := startAsking(t)
	comettest.Publish(t, s, "inbox/42=hello&inbox/43=secret&news=0")
	soon := time.Now().Add(time.Hour)
	const key = "0123456789abcdef"
	for query, want := range map[string]int{
		sign(key, soon, "inbox/42"):                         200,
		sign(key, soon, "inbox/43"):                         403, // not by the application
		sign("another key of some length", soon, "news"):    403,
		sign(key, soon, "inbox/42", "news"):                 200,
		sign(key, time.Now().Add(-time.Second), "inbox/42"): 403,
	} {
		wantStatus(t, s.Do(t, request{URL: "/signed?wait=0&" + query, Header: asUser("42")}), want)
		wantStatus(t, s.Do(t, request{URL: "/signed?wait=0&" + query}), 401)
	}

	app.take()
	page := map[string]string{"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET"}
	wantStatus(t, s.Do(t, request{Method: "OPTIONS", URL: "/cors", Header: page}), 204)
	app.wantAsked(t, 0)
	for _, header := range []map[string]string{asUser("42"), say(401, "Access-Control-Allow-Origin: *", "Vary: X-Own")} {
		header["Origin"] = "https://app.example.com"
		a := s.Do(t, request{URL: "/cors?wait=0", Header: header})
		if got := a.Header["Access-Control-Allow-Origin"]; !slices.Equal(got, []string{"https://app.example.com"}) || !strings.Contains(strings.Join(a.Header["Vary"], ","), "Origin") {
			t.Errorf("the page sees %s", a)
		}
	}
}

func TestAReloadKeepsWhatWasGranted(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s, app := startAsking(t, p.opts...)
			comettest.Publish(t, s, "inbox/42=0&news=0")
			held := comettest.HoldOn(t, s, request{URL: s.URL("/push?after=now&format=json"), Header: asUser("42")}, "inbox/42")
			stream := openStream(t, plainWay(s), "/push?format=ndjson&after=now", "Cookie: user=42")
			app.take()
			s.Reload(t, asking("timeout 50s"))
			wantStatus(t, s.Do(t, request{
				Method: "POST", URL: s.URL("/push?session=" + stream.session), Type: "application/json", Body: `{"watch":["fresh/1"]}`,
				Header: say(200),
			}), 403)
			comettest.Publish(t, s, "inbox/42=hello")
			wantTexts(t, comettest.Await(t, held), "inbox/42=hello")
			stream.want(t, "hello")
			app.wantAsked(t, 1) // the change
			wantStatus(t, s.Do(t, request{URL: "/push?wait=0", Header: asUser("42")}), 200)
			app.wantAsked(t, 1) // what the route before knew is gone with it
		})
	}
}

func TestAStrangerWithManyCookiesIsBounded(t *testing.T) {
	t.Parallel()
	s, app := startAsking(t)
	comettest.Publish(t, s, "news=0")
	before := heapOf(t, s)
	const connections, each = 8, 150
	var fields []string
	for i := range 64 {
		fields = append(fields, fmt.Sprintf("inbox/%0110d", i))
	}
	said := say(204, "Comet-Fields: "+strings.Join(fields, ","))["X-Say"] // nearly as much as there may be
	var flood sync.WaitGroup
	for i := range connections {
		flood.Go(func() {
			conn, err := net.Dial("tcp", plainWay(s).addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(4 * comettest.Deadline))
			r := bufio.NewReader(conn)
			for n := range each {
				fmt.Fprintf(conn, "GET /push?wait=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: user=%d.%d\r\nX-Say: %s\r\n\r\n", i, n, said)
				res, err := http.ReadResponse(r, nil)
				if err != nil || res.StatusCode != 200 {
					t.Errorf("%v, %v", res, err)
					return
				}
				res.Body.Close()
			}
		})
	}
	flood.Wait()
	app.wantAsked(t, connections*each)
	grown := heapOf(t, s) - before
	t.Logf("after %d cookies the heap is %d KiB larger", connections*each, grown>>10)
	if grown > 8<<20 {
		t.Error("that is too much")
	}
}

// heapOf returns how many bytes of a server's heap are in use, garbage not counted.
func heapOf(t *testing.T, s *comettest.Server) int {
	t.Helper()
	admin := fmt.Sprintf("http://127.0.0.1:%d/debug/", s.Port("ADMIN"))
	s.Do(t, request{URL: admin + "pprof/heap?gc=1"})
	var vars struct {
		Memstats struct{ HeapAlloc int } `json:"memstats"`
	}
	if err := json.Unmarshal([]byte(s.Do(t, request{URL: admin + "vars"}).Body), &vars); err != nil {
		t.Fatal(err)
	}
	return vars.Memstats.HeapAlloc
}
