package caddymodule

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// application is one that is asked, and counts how often.
type application struct {
	*Ask
	handle http.HandlerFunc
	asked  atomic.Int32
}

func newApplication(t *testing.T, lasts time.Duration, handle http.HandlerFunc) *application {
	t.Helper()
	a := &application{Ask: &Ask{URI: "/may"}, handle: handle}
	a.For = (*caddy.Duration)(&lasts)
	if err := a.provision(zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	a.handle(w, r)
}

// request returns a request to the route, with the lines of a header.
func (a *application) request(header ...string) *http.Request {
	r := httptest.NewRequest("GET", "/push", nil)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	ctx := context.WithValue(r.Context(), caddyhttp.ServerCtxKey, http.Handler(a))
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.1"})
	return r.WithContext(context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer()))
}

// ask asks for r, and returns what is known then.
func (a *application) ask(t *testing.T, r *http.Request) (v *verdict, own bool) {
	t.Helper()
	if v, own = a.verdict(r, a.URI); v == nil {
		t.Fatal("the client has not left")
	}
	return v, own
}

func (a *application) wantAsked(t *testing.T, want int32) {
	t.Helper()
	if got := a.asked.Swap(0); got != want {
		t.Errorf("the application was asked %d times; want %d", got, want)
	}
}

// says is an application that always says the same.
func says(status int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, line := range header {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
	}
}

func TestAYesHoldsForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApplication(t, 10*time.Second, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Second)
			says(204, "Comet-Fields: inbox/42")(w, r)
		})
		for after, want := range []int32{1, 0, 1, 0} {
			v, own := a.ask(t, a.request("Cookie: s=1"))
			if !v.isYes() || !v.limited || !slices.Equal(v.fields, []string{"inbox/42"}) || own != (want == 1) {
				t.Errorf("%d: %+v, %v", after, v, own)
			}
			a.wantAsked(t, want)
			time.Sleep(8*time.Second - time.Nanosecond + time.Duration(after%2)*2*time.Nanosecond) // from when it was asked
		}
	})
}

func TestWhatIsNoYesHoldsForNothing(t *testing.T) {
	for name, say := range map[string]http.HandlerFunc{
		"a refusal":             says(401),
		"nothing to watch":      says(200, "Comet-Fields: "),
		"a redirect":            says(302, "Location: /login"),
		"an error":              says(500),
		"a list that is wrong":  says(200, "Comet-Fields: %zz"),
		"nothing":               func(http.ResponseWriter, *http.Request) {},
		"a session that is new": says(200, "Set-Cookie: s=1"),
	} {
		a := newApplication(t, time.Hour, say)
		for range 2 {
			a.ask(t, a.request())
			a.wantAsked(t, 1)
		}
		if len(a.asking)+len(a.kept.of) > 0 {
			t.Errorf("%s: something is kept", name)
		}
	}
	a := newApplication(t, 0, says(200))
	for range 2 {
		a.ask(t, a.request())
		a.wantAsked(t, 1)
	}
}

func TestRequestsWithTheSameCredentialsAreOneQuestion(t *testing.T) {
	base := []string{"Cookie: s=1", "Authorization: Basic x", "X-Api-Key: k"}
	a := newApplication(t, time.Hour, says(200))
	a.ask(t, a.request(base...))
	a.wantAsked(t, 1)
	for _, line := range []string{
		"Accept: text/event-stream", "Accept-Language: de", "User-Agent: x", "Last-Event-Id: e.1", "Range: bytes=0-",
		"Sec-Fetch-Mode: cors", "Sec-WebSocket-Key: x", "Upgrade: websocket", "Connection: Upgrade", "If-None-Match: x",
		"Traceparent: 00-1", "Comet-Fields: inbox/43", "Content-Type: text/plain", "Te: trailers",
	} {
		a.ask(t, a.request(append(base, line)...))
		if a.asked.Load() > 0 {
			t.Errorf("%s: it is asked again", line)
		}
	}
	others := [][]string{
		nil,
		{"Cookie: s=1"},
		{"Cookie: s=1", "Authorization: Basic x"},
		{"Cookie: s=2", "Authorization: Basic x", "X-Api-Key: k"},
		{"Cookie: s=1", "Authorization: Basic y", "X-Api-Key: k"},
		{"Cookie: s=1", "Authorization: Basic x", "X-Api-Key: l"},
		{"Cookie: s=1", "Authorization: Basic x", "X-Api-Key: k", "X-Api-Key: "},
		{"Cookie: s=1", "Authorization: Basic x", "X-Api-Key: k", "X-Forwarded-User: bob"},
		{"Cookie: s=1", "Authorization: Basic x", "X-Api-Key: k", "X-Forwarded-For: 192.0.2.2"},
		{"Cookie: s=1", "Authorization: Basic x", "X-Api-Keyk: "},
	}
	for _, header := range others {
		a.ask(t, a.request(header...))
		a.wantAsked(t, 1)
		a.ask(t, a.request(header...))
		a.wantAsked(t, 0)
	}
	site := a.request(base...)
	site.Host = "other.example"
	certified := a.request(base...)
	certified.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("a certificate")}}}
	elsewhere := a.request(base...)
	caddyhttp.SetVar(elsewhere.Context(), caddyhttp.ClientIPVarKey, "192.0.2.2")
	for _, r := range []*http.Request{site, certified, elsewhere} {
		a.ask(t, r)
		a.wantAsked(t, 1)
	}
	if v, _ := a.verdict(a.request(base...), "/may?room=2"); !v.isYes() {
		t.Errorf("%+v", v)
	}
	a.wantAsked(t, 1)
}

func TestManyAskOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApplication(t, time.Hour, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			says(403, "X-Who: "+r.Header.Get("Cookie"), "Set-Cookie: s=3")(w, r)
		})
		var wg sync.WaitGroup
		var owned [2]atomic.Int32
		for i := range 200 {
			wg.Go(func() {
				who := fmt.Sprintf("s=%d", i%2)
				v, own := a.ask(t, a.request("Cookie: "+who))
				if v.status != 403 || v.header.Get("X-Who") != who {
					t.Errorf("%s is told %v", who, v.header)
				}
				if own {
					owned[i%2].Add(1)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		a.wantAsked(t, 2)
		if owned[0].Load() != 1 || owned[1].Load() != 1 || time.Since(start) != time.Second {
			t.Errorf("%d and %d are to be given the cookies, after %s", owned[0].Load(), owned[1].Load(), time.Since(start))
		}
	})
}

// PHP begins a session for who has none: nobody else may be given what that may watch.
func TestANewSessionIsForOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var session atomic.Int32
		a := newApplication(t, time.Hour, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			n := session.Add(1)
			says(200, fmt.Sprintf("Comet-Fields: visitor/%d", n), fmt.Sprintf("Set-Cookie: s=%d; Path=/", n))(w, r)
		})
		var wg sync.WaitGroup
		var fields sync.Map
		for range 20 {
			wg.Go(func() {
				v, own := a.ask(t, a.request("Cookie: consent=1"))
				if _, twice := fields.LoadOrStore(v.fields[0], true); twice || !own || v.header.Get("Set-Cookie") == "" {
					t.Errorf("%+v, %v, twice: %v", v, own, twice)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		a.wantAsked(t, 20)
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("they wait for each other: it took %s", took)
		}
		// One that is set anew each time is not new.
		for i := range 3 {
			v, own := a.ask(t, a.request("Cookie: consent=1; s=1"))
			if own != (i == 0) || own != (v.header.Get("Set-Cookie") != "") || v.fields[0] != "visitor/21" {
				t.Errorf("%+v, %v", v, own)
			}
		}
		a.wantAsked(t, 1)
	})
}

func TestWhoLeavesWaitsForNoVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := 0
		a := newApplication(t, time.Hour, func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(time.Minute):
			case <-r.Context().Done():
				cancelled++
				w.WriteHeader(499)
			}
		})
		var wg sync.WaitGroup
		start := time.Now()
		for i := 1; i <= 3; i++ {
			r := a.request()
			ctx, cancel := context.WithTimeout(r.Context(), time.Duration(i)*time.Second)
			defer cancel()
			wg.Go(func() {
				if v, _ := a.verdict(r.WithContext(ctx), "/may"); v != nil || time.Since(start) != time.Duration(i)*time.Second {
					t.Errorf("%d: %+v after %s", i, v, time.Since(start))
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if a.wantAsked(t, 1); cancelled != 1 || len(a.asking) > 0 || len(a.turns) > 0 {
			t.Errorf("cancelled %d times; %d are asking", cancelled, len(a.asking))
		}
	})
}

func TestAnApplicationThatDoesNotAnswerIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ignores atomic.Bool
		release := make(chan struct{})
		a := newApplication(t, time.Hour, func(w http.ResponseWriter, r *http.Request) {
			if !ignores.Load() {
				<-r.Context().Done()
				w.WriteHeader(504)
				return
			}
			<-release
		})
		ask := func() {
			t.Helper()
			start := time.Now()
			if v, _ := a.verdict(a.request(), "/may"); v.status != 504 || time.Since(start) != askTime {
				t.Errorf("%+v after %s; want 504", v, time.Since(start))
			}
		}
		ask()
		ignores.Store(true)
		for range 2 { // no request waits for one that was given up
			ask()
		}
		a.wantAsked(t, 3)
		if len(a.turns) != 2 {
			t.Errorf("%d are with the application; want 2", len(a.turns))
		}
		for len(a.turns) < cap(a.turns) {
			a.turns <- struct{}{}
		}
		ask()
		a.wantAsked(t, 0)
		close(release)
		synctest.Wait()
		if len(a.asking) > 0 {
			t.Errorf("%d are asking", len(a.asking))
		}
	})
}

func TestNoMoreAreWithTheApplicationThanMayBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		a := newApplication(t, time.Hour, func(w http.ResponseWriter, r *http.Request) {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
			says(200)(w, r)
		})
		var wg sync.WaitGroup
		for i := range 3*maxAsking + 1 {
			wg.Go(func() {
				if v, _ := a.ask(t, a.request(fmt.Sprint("Cookie: s=", i))); !v.isYes() {
					t.Errorf("%+v", v)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		if most.Load() != maxAsking || time.Since(start) != 4*time.Second {
			t.Errorf("%d at once, after %s", most.Load(), time.Since(start))
		}
	})
}

func TestWhatTheApplicationSays(t *testing.T) {
	broken := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		panic(http.ErrAbortHandler)
	}
	writes := func(status, size int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			for range size / 1024 {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					panic(http.ErrAbortHandler) // as reverse_proxy does
				}
			}
		}
	}
	for name, test := range map[string]struct {
		say    http.HandlerFunc
		status int
		reason string // of one that is no verdict
		body   int
	}{
		"a yes":                 {says(200), 200, "", 0},
		"a long yes":            {writes(200, 1<<20), 200, "", 0},
		"a long refusal":        {writes(403, maxAskBody), 403, "", maxAskBody},
		"a longer one":          {writes(403, maxAskBody+1024), 502, "is 403, and has more", 0},
		"nothing":               {func(http.ResponseWriter, *http.Request) {}, 502, "nothing in this site answers `ask /may`", 0},
		"a body alone":          {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }, 200, "", 0},
		"a part of it":          {broken, 502, "broke off", 0},
		"a panic":               {func(http.ResponseWriter, *http.Request) { panic(errors.New("oops")) }, 500, "a handler failed", 0},
		"an upgrade":            {says(101), 502, "is 101", 0},
		"early hints":           {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); says(401)(w, r) }, 401, "", 0},
		"a name that is wrong":  {says(200, "Comet-Fields: a%0ab"), 502, "has a control character", 0},
		"no name":               {says(200, "Comet-Fields: "), 403, "", len("the application lets you watch nothing here\n")},
		"names in a refusal":    {says(403, "Comet-Fields: a%0ab"), 403, "", 0},
		"flushed, with no more": {func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() }, 200, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplication(t, time.Hour, test.say)
			v, _ := a.ask(t, a.request())
			if v.status != test.status || (v.err != nil) != (test.reason != "") || len(v.body) != test.body {
				t.Errorf("%+v; want %d", v, test.status)
			}
			if v.err != nil && !strings.Contains(v.err.Error(), test.reason) {
				t.Errorf("the reason is %q; want %q", v.err, test.reason)
			}
			if len(a.turns) > 0 {
				t.Error("its turn is not over")
			}
		})
	}
}

func TestTheApplicationIsAskedAsTheClientAsks(t *testing.T) {
	var got *http.Request
	a := newApplication(t, time.Hour, func(w http.ResponseWriter, r *http.Request) { got = r })
	r := a.request(
		"Cookie: s=1", "Authorization: Basic x", "Accept: text/event-stream", "Accept-Language: de", "User-Agent: x", "X-Forwarded-For: 192.0.2.1",
		"X-Own: 1", "Origin: https://app.example.com",
		"Accept-Encoding: gzip", "Range: bytes=0-", "If-None-Match: x", "If-Modified-Since: x", "Content-Type: x", "Content-Length: 4",
		"Connection: Upgrade, X-Forwarded-For", "Upgrade: websocket", "Keep-Alive: 1", "Te: trailers", "Transfer-Encoding: chunked",
		"Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13", "Last-Event-ID: e.1", "Expect: 100-continue", "Comet-Fields: inbox/43", "Comet-Cursor: e.1",
	)
	r.Header[":protocol"] = []string{"websocket"}
	r.Method, r.Host, r.RemoteAddr, r.Proto, r.ProtoMajor, r.ProtoMinor = "CONNECT", "app.example.com", "192.0.2.7:1", "websocket", 3, 0
	r.TLS = new(tls.ConnectionState)
	a.verdict(r, "/may?x=1")
	want := http.Header{
		"Cookie": {"s=1"}, "Authorization": {"Basic x"}, "Accept": {"text/event-stream"}, "Accept-Language": {"de"}, "User-Agent": {"x"},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Own": {"1"}, "Origin": {"https://app.example.com"}, "Accept-Encoding": {"identity"},
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Error(diff)
	}
	if got.Method != "GET" || got.URL.String() != "/may?x=1" || got.RequestURI != "/may?x=1" || got.Proto != "HTTP/3.0" ||
		got.Host != r.Host || got.RemoteAddr != r.RemoteAddr || got.TLS != r.TLS || got.Body != http.NoBody {
		t.Errorf("%+v", got)
	}
	if uri := got.Context().Value(askKey{}); uri != "/may" {
		t.Errorf("it does not say that it asks, but %v", uri)
	}
	if r.Header.Get("Upgrade") == "" || r.Header.Get("Accept-Encoding") != "gzip" {
		t.Error("the request itself was changed")
	}
}

func TestThePlaceholdersOfAnAskAreLiteralText(t *testing.T) {
	for _, test := range []struct{ uri, value, want string }{
		{"/may", "", "/may"},
		{"/may/{x}/a?y={x}&z={no}", "42", "/may/42/a?y=42&z="},
		{"/may/{x}", "a?b#c d%2e&ü", "/may/a%3Fb%23c%20d%252e&%C3%BC"},
		{"/may?x={x}", "a&admin=1#+ /../{y}", "/may?x=a%26admin%3D1%23%2B+%2F..%2F%7By%7D"},
		{"/may?x={x}", "", "/may?x="},
		{"/may/{x}", "", ""},
		{"/may/{x}", "..", ""},
		{"/may/.{x}", ".", ""},
		{"/may/{x}", "../login", ""},
		{"/may/{x}", `..\login`, ""},
		{"/may/{x}", "a\nb", ""},
		{"/may/{no}", "", ""},
	} {
		a := &Ask{URI: test.uri}
		if err := a.provision(zap.NewNop()); err != nil {
			t.Fatal(err)
		}
		repl := caddy.NewReplacer()
		repl.Set("x", test.value)
		r := httptest.NewRequest("GET", "/push", nil)
		got, err := a.expand(r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl)))
		if err != nil {
			got = ""
		}
		if got != test.want {
			t.Errorf("%s with %q: %q, %v; want %q", test.uri, test.value, got, err, test.want)
		}
	}
}

// A stranger may have as many cookies as there are.
func TestVerdictsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k verdicts
		who := func(i int) (c asker) {
			copy(c[:], fmt.Sprint(i))
			return c
		}
		add := func(i int, fields ...string) {
			k.add(who(i), &verdict{status: 200, fields: fields, header: http.Header{}}, time.Now().Add(time.Minute))
			if len(k.of) > maxVerdicts || k.order.Len() != len(k.of) || k.size > maxVerdictsSize {
				t.Fatalf("%d: %d verdicts in a list of %d, with %d bytes", i, len(k.of), k.order.Len(), k.size)
			}
		}
		for i := range 3 * maxVerdicts {
			add(i, "inbox/42")
			add(i, "inbox/43") // in its place
		}
		if k.get(who(2*maxVerdicts-1)) != nil || k.get(who(2*maxVerdicts)) == nil || len(k.of) != maxVerdicts {
			t.Error("it is not the oldest that went")
		}
		many := slices.Repeat([]string{strings.Repeat("x", 255)}, 64)
		for i := range maxVerdicts {
			add(i, many...)
		}
		if most := maxVerdictsSize / (64 * 255); len(k.of) > most || len(k.of) < most/2 {
			t.Errorf("%d long verdicts are kept; want nearly %d", len(k.of), most)
		}
		time.Sleep(time.Minute)
		if k.get(who(maxVerdicts-1)) != nil {
			t.Error("one is given that does not hold any more")
		}
		k.add(who(1), &verdict{status: 200}, time.Now())
		if len(k.of) != 0 || k.size != 0 || k.order.Len() != 0 {
			t.Errorf("%d verdicts are kept that do not hold any more", len(k.of))
		}
	})
}
