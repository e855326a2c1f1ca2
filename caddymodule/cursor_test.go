package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// newCursor returns a handler with a store of its own, which another process has
// when it has an error.
func newCursor(openErr error) *Cursor {
	p := &pool{store: store.New(store.DefaultLimits()), openErr: openErr}
	p.openOnce.Do(func() {})
	return &Cursor{pool: p}
}

func (c *Cursor) now() string { return c.pool.store.Cursor().String() }

// serveThrough has handlers pass a request on, one to the next, and the last one to
// handler.
func serveThrough(t *testing.T, r *http.Request, handler caddyhttp.HandlerFunc, handlers ...caddyhttp.MiddlewareHandler) http.Header {
	t.Helper()
	next := caddyhttp.Handler(handler)
	for _, h := range slices.Backward(handlers) {
		inner := next
		next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, inner) })
	}
	w := httptest.NewRecorder()
	if err := next.ServeHTTP(w, r); err != nil {
		t.Error(err)
	}
	return w.Header()
}

// servePage is an application that answers with a page.
func servePage(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusOK)
	return nil
}

func newRequest(t *testing.T, header http.Header) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header = header
	return r
}

func TestWhatOnlyCometMayTellIsNotTakenFromClients(t *testing.T) {
	c := newCursor(nil)
	sent := http.Header{
		"Comet-Cursor":         {"theirs", "more"},
		"comet-cursor":         {"x"},
		"Comet_cursor":         {"x"},
		"COMET CURSOR":         {"x"},
		"Comet.Cursor":         {"x"},
		"Comet_field":          {"x"},
		"Comet-Outcome":        {"x"},
		"Comet-Value":          {"x"},
		"Comet_value-Omitted":  {"x"},
		"Connection":           {"keep-alive, Comet-Cursor", "comet-outcome"},
		"Comet-Values":         {"kept"},
		"X-Comet-Cursor":       {"kept"},
		"Comet-Cursor-":        {"kept"},
		"Cometacursor":         {"kept"},
		"Comet-Publish":        {"kept"},
		"Comet-Value-Omitted1": {"kept"},
	}
	want := http.Header{
		"Comet-Cursor":         {c.now()},
		"Connection":           {"keep-alive"},
		"Comet-Values":         {"kept"},
		"X-Comet-Cursor":       {"kept"},
		"Comet-Cursor-":        {"kept"},
		"Cometacursor":         {"kept"},
		"Comet-Publish":        {"kept"},
		"Comet-Value-Omitted1": {"kept"},
	}
	serveThrough(t, newRequest(t, sent), func(_ http.ResponseWriter, r *http.Request) error {
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Error(diff)
		}
		if got := sentCursor(r); got != "theirs" {
			t.Errorf("the client sent %q; want theirs", got)
		}
		return nil
	}, c)
}

func TestTheCursorThatAClientSentHasOneName(t *testing.T) {
	for want, header := range map[string]http.Header{
		"":     {"Comet_cursor": {"x"}, "Comet Cursor": {"y"}},
		"mine": {"Comet-Cursor": {"mine"}},
	} {
		r := newRequest(t, header)
		if got := sentCursor(r); got != want {
			t.Errorf("before it goes on: %q; want %q", got, want)
		}
		if got := sentCursor(tellApplication(r, store.Cursor{Epoch: "e"})); got != want {
			t.Errorf("as it goes on: %q; want %q", got, want)
		}
	}
}

func TestWhatWasToldStays(t *testing.T) {
	first, second := newCursor(nil), newCursor(nil)
	tell := func(header string) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error {
			if got := r.Header.Values("Comet-Cursor"); !slices.Equal(got, []string{header}) {
				t.Errorf("the application is told %q; want %q", got, header)
			}
			if r.Header.Get("Comet-Outcome") == "" {
				t.Error("the outcome is lost")
			}
			return servePage(w, r)
		}
	}
	timing := func(name string, header http.Header, cursor string) {
		t.Helper()
		if got := header.Values("Server-Timing"); !slices.Equal(got, []string{`comet;desc="` + cursor + `"`}) {
			t.Errorf("%s: the page is told %q; want %s once", name, got, cursor)
		}
	}
	// forwards tells the application what only Comet may say.
	forwards := middleware(func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
		r = tellApplication(r, store.Cursor{Epoch: "forwarded", Position: 7})
		r.Header.Set("Comet-Outcome", "wake")
		return next.ServeHTTP(w, r)
	})
	outcome := middleware(func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
		r.Header.Set("Comet-Outcome", "wake")
		return next.ServeHTTP(w, r)
	})

	sent := func() *http.Request { return newRequest(t, http.Header{"Comet-Cursor": {"theirs"}}) }
	timing("two sites' directives", serveThrough(t, sent(), tell(first.now()), first, outcome, second), first.now())
	timing("forwarded before", serveThrough(t, sent(), tell("forwarded.7"), forwards, first), "forwarded.7")
	timing("forwarded between", serveThrough(t, sent(), func(w http.ResponseWriter, r *http.Request) error {
		if got := sentCursor(r); got != "theirs" {
			t.Errorf("the client sent %q; want theirs", got)
		}
		return tell("forwarded.7")(w, r)
	}, first, forwards, second), "forwarded.7")
}

type middleware func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error

func (m middleware) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return m(w, r, next)
}

func TestAStoreThatAnotherProcessHasTellsNothing(t *testing.T) {
	c := newCursor(errors.New("in use"))
	header := serveThrough(t, newRequest(t, http.Header{"Comet-Cursor": {"theirs"}, "Comet_field": {"x"}}), func(w http.ResponseWriter, r *http.Request) error {
		if len(r.Header) > 0 {
			t.Errorf("the application is told %v; want nothing", r.Header)
		}
		if got := sentCursor(r); got != "theirs" {
			t.Errorf("the client sent %q; want theirs", got)
		}
		return servePage(w, r)
	}, c)
	if timing, ok := header["Server-Timing"]; ok {
		t.Errorf("the page is told %q; want nothing", timing)
	}
}

func TestPagesAreToldTheCursor(t *testing.T) {
	c := newCursor(nil)
	for contentType, page := range map[string]bool{
		"text/html":                           true,
		"TEXT/HTML ; charset=UTF-8":           true,
		"application/xhtml+xml;charset=utf-8": true,
		"":                                    false,
		"application/json":                    false,
		"text/html-sandboxed":                 false,
		"text/plain; x=text/html":             false,
	} {
		header := serveThrough(t, newRequest(t, http.Header{}), func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			if len(w.Header()["Server-Timing"]) > 0 {
				t.Error("the hints have it already")
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Server-Timing", "db;dur=5")
			w.WriteHeader(http.StatusOK)
			w.WriteHeader(http.StatusOK)
			return nil
		}, c)
		want := []string{"db;dur=5"}
		if page {
			want = append(want, `comet;desc="`+c.now()+`"`)
		}
		if got := header["Server-Timing"]; !slices.Equal(got, want) {
			t.Errorf("%q: %q; want %q", contentType, got, want)
		}
	}
}

func TestWhatOthersHaveOfARequestStaysOne(t *testing.T) {
	type key struct{}
	r := newRequest(t, http.Header{})
	r = r.WithContext(context.WithValue(r.Context(), key{}, "theirs"))
	told := tellApplication(r, store.Cursor{Epoch: "e"})
	if told != r {
		t.Error("it is another request, so a placeholder that reads the body takes it away")
	}
	if r.Context().Value(key{}) != "theirs" {
		t.Error("its context is lost")
	}
}

func TestToTellTheCursorCostsLittle(t *testing.T) {
	c := newCursor(nil)
	header := http.Header{
		"Accept": {"text/html"}, "Accept-Encoding": {"gzip"}, "Accept-Language": {"en"},
		"Cookie": {"session=1"}, "Referer": {"https://app.example.com/"}, "User-Agent": {"Mozilla/5.0"},
		"Sec-Fetch-Dest": {"document"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Site": {"same-origin"},
	}
	r := newRequest(t, header)
	w := discard{make(http.Header)}
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		return nil
	})
	ctx := r.Context()
	if n := testing.AllocsPerRun(100, func() {
		*r = *r.WithContext(ctx)
		_ = c.ServeHTTP(w, r, next)
	}); n > 6 {
		t.Errorf("%v allocations; want six", n)
	}
}
