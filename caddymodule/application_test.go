package caddymodule

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// serveApplication has a handler answer through an applicationWriter, and returns
// how often it was done.
func serveApplication(r *http.Request, w http.ResponseWriter, handler func(http.ResponseWriter) error) (done int, err error) {
	aw := newApplicationWriter(w, true)
	defer func() { _ = recover() }()
	err = aw.serve(r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error { return handler(w) }), func() { done++ })
	return done, err
}

func TestAnApplicationHasDoneWhatItSaysItHas(t *testing.T) {
	status := func(status int) func(http.ResponseWriter) error {
		return func(w http.ResponseWriter) error {
			w.WriteHeader(status)
			return nil
		}
	}
	for name, c := range map[string]struct {
		handler func(http.ResponseWriter) error
		left    bool
		broken  bool // the connection
		method  string
		done    int
	}{
		"200":            {handler: status(200), done: 1},
		"302":            {handler: status(302), done: 1},
		"304":            {handler: status(304), done: 1},
		"400":            {handler: status(400)},
		"500":            {handler: status(500)},
		"101":            {handler: status(101)},
		"103 alone":      {handler: status(103)},
		"nobody answers": {handler: func(http.ResponseWriter) error { return nil }},
		"CONNECT":        {handler: status(200), method: http.MethodConnect},
		"by a body":      {handler: func(w http.ResponseWriter) error { _, err := io.WriteString(w, "x"); return err }, done: 1},
		"by a copy": {handler: func(w http.ResponseWriter) error {
			_, err := io.Copy(w, io.LimitReader(strings.NewReader("x"), 1))
			return err
		}, done: 1},
		"by a flush":       {handler: func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }, done: 1},
		"the first counts": {handler: func(w http.ResponseWriter) error { w.WriteHeader(404); w.WriteHeader(200); return nil }},
		"an error":         {handler: func(w http.ResponseWriter) error { w.WriteHeader(200); return errors.New("failed") }},
		"a panic":          {handler: func(w http.ResponseWriter) error { w.WriteHeader(200); panic(http.ErrAbortHandler) }},
		"a client that left in the middle": {
			left: true, done: 1,
			handler: func(w http.ResponseWriter) error { w.WriteHeader(200); panic(http.ErrAbortHandler) },
		},
		"a client that left, of which a write tells first": {
			broken: true, done: 1,
			handler: func(w http.ResponseWriter) error {
				if _, err := io.WriteString(w, "x"); err != nil {
					panic(http.ErrAbortHandler)
				}
				return nil
			},
		},
		"a client that left before": {left: true, handler: func(http.ResponseWriter) error { return errors.New("canceled") }},
	} {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		if c.left {
			leave()
		}
		method := c.method
		if method == "" {
			method = http.MethodPost
		}
		var w http.ResponseWriter = httptest.NewRecorder()
		if c.broken {
			w = brokenWriter{w}
		}
		if done, _ := serveApplication(httptest.NewRequestWithContext(ctx, method, "/", nil), w, c.handler); done != c.done {
			t.Errorf("%s: done %d times; want %d", name, done, c.done)
		}
	}
}

// brokenWriter is a writer to a client that has left.
type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("the client has left") }

func TestResponsesKeepWhatElseIsInTheirHeader(t *testing.T) {
	w := httptest.NewRecorder()
	_, err := serveApplication(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), w, func(w http.ResponseWriter) error {
		header := w.Header()
		header.Set("Comet-Publish", "id=1")
		header["Trailer"] = []string{"Checksum, comet-publish", "Expires"}
		w.WriteHeader(http.StatusEarlyHints)
		if header.Get("Comet-Publish") != "id=1" {
			t.Error("what is set for the response is lost with the hints")
		}
		w.WriteHeader(http.StatusNotFound)
		header.Set("Comet-Publish", "id=2")
		header.Set(http.TrailerPrefix+"Comet-Publish", "id=3")
		return errors.New("for handle_errors")
	})
	if err == nil {
		t.Error("the error is lost")
	}
	header := w.Header()
	if trailer := strings.Join(header["Trailer"], " "); trailer != "Checksum Expires" || len(header) != 1 {
		t.Errorf("the header is %q", header)
	}
}

func TestAResponseThatPublishesNothingCostsOneAllocation(t *testing.T) {
	publisher := new(FromResponses)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	w := discard{make(http.Header)}
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		return nil
	})
	if n := testing.AllocsPerRun(100, func() { _ = publisher.ServeHTTP(w, r, next) }); n > 1 {
		t.Errorf("%v allocations; want one", n)
	}
}

func TestABodyIsCopiedWithoutABuffer(t *testing.T) {
	w := &copied{discard: discard{make(http.Header)}}
	_, err := serveApplication(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), w, func(w http.ResponseWriter) error {
		_, err := io.CopyN(w, strings.NewReader("body"), 4)
		return err
	})
	if err != nil || w.n != 4 {
		t.Errorf("%d bytes were left to the connection to copy, %v; want 4", w.n, err)
	}
}

// copied notes what it is left to copy, as a connection that can do it itself.
type copied struct {
	discard
	n int64
}

func (c *copied) ReadFrom(r io.Reader) (n int64, err error) {
	n, err = io.Copy(io.Discard, r)
	c.n += n
	return n, err
}

// discard is a response writer that sends nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
