package caddymodule

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// What an application is told in the header of a request, beside headerCursor and
// headerField, in the case that net/http keeps it.
const (
	headerOutcome      = "Comet-Outcome"
	headerValue        = "Comet-Value"
	headerValueOmitted = "Comet-Value-Omitted"
)

var toldHeaders = []string{headerCursor, headerField, headerOutcome, headerValue, headerValueOmitted}

// told is what an application is told with a request, in whose context it is.
type told struct {
	cursor string // empty: none
	sent   string // what the client sent as Comet-Cursor
	timed  bool   // a Cursor handler tells the client as well

	done    bool     // it was told
	watched []string // the fields that a request was held for, or would have been
}

type toldKey struct{}

func toldOf(r *http.Request) *told {
	t, _ := r.Context().Value(toldKey{}).(*told)
	return t
}

// withTold returns what is told with r, and is there from then on, for handlers that come
// later too.
//
// It changes r itself, which others have: placeholders read the body of that request.
func withTold(r *http.Request) *told {
	t := toldOf(r)
	if t == nil {
		t = &told{sent: r.Header.Get(headerCursor)}
		*r = *r.WithContext(context.WithValue(r.Context(), toldKey{}, t))
	}
	return t
}

// tellApplication returns r as it goes on to an application: marked, with the cursor
// in its header, unless that is the zero one, and with nothing there that only Comet
// may say. A request that was told another cursor before is told this one.
func tellApplication(r *http.Request, cursor store.Cursor) *http.Request {
	t := withTold(r)
	t.done = true
	for name := range r.Header {
		if tells(name) {
			delete(r.Header, name)
		}
	}
	unlist(r.Header, "Connection", tells) // or a proxy would drop it
	t.cursor = ""
	if cursor != (store.Cursor{}) {
		t.cursor = cursor.String()
		r.Header[headerCursor] = []string{t.cursor}
	}
	return r
}

// untell takes back what tellApplication has told, since a handler of ours answers. A
// request that is held is kept with its header, the same for many.
func untell(r *http.Request) {
	t := toldOf(r)
	if t == nil {
		return
	}
	delete(r.Header, headerCursor)
	if t.sent != "" {
		r.Header[headerCursor] = []string{t.sent}
	}
}

// sentCursor returns the Comet-Cursor that the client sent, empty if it sent none.
func sentCursor(r *http.Request) string {
	if t := toldOf(r); t != nil {
		return t.sent
	}
	return r.Header.Get(headerCursor)
}

// tells reports whether an application may take a header of that name for one that
// tells it something. To CGI a hyphen is `_`, and to PHP a space and a dot are too, so
// here all that are neither letters nor digits are alike. Caddy drops what has `_` or a
// dot in its name before, unless it is told to expect that.
func tells(name string) bool {
	return slices.ContainsFunc(toldHeaders, func(header string) bool {
		if len(name) != len(header) {
			return false
		}
		for i := range len(name) {
			if alike(name[i]) != alike(header[i]) {
				return false
			}
		}
		return true
	})
}

// alike returns one byte for all that tells does not tell apart.
func alike(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c - 'A' + 'a'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return '-'
}

// Cursor is a handler that tells where a store is, so that a page can be followed
// from the moment it was made. The application is told with each request, by the
// header `Comet-Cursor`, with the cursor from before it is asked; and a script in a
// page, with its response, by `Server-Timing: comet;desc="CURSOR"`.
//
// The headers Comet-Cursor, Comet-Field, Comet-Outcome, Comet-Value and
// Comet-Value-Omitted that a client sends are taken out, in all spellings that CGI
// does not tell apart.
type Cursor struct {
	// Store is the name of the store. Default: "default".
	Store string `json:"store,omitempty"`

	pool *pool
}

// CaddyModule returns the Caddy module information.
func (Cursor) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.comet_cursor",
		New: func() caddy.Module { return new(Cursor) },
	}
}

// Provision takes the store into use.
func (c *Cursor) Provision(ctx caddy.Context) error {
	app, err := ctx.App("comet")
	if err != nil {
		return err
	}
	c.pool, err = app.(*App).use(c.Store)
	return err
}

// ServeHTTP has the next handlers answer, with the cursor of now. What was told
// before stays: that is what the application is to go by. Nothing is told as long as
// another process has the store.
func (c *Cursor) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	t := withTold(r)
	if !t.done {
		cursor := store.Cursor{}
		if c.pool.open() == nil {
			cursor = c.pool.store.Cursor()
		}
		r = tellApplication(r, cursor)
	}
	if !t.timed {
		t.timed = true
		cw := &cursorWriter{told: t, request: r}
		cw.begin(w, cw)
		w = cw
	}
	return next.ServeHTTP(w, r)
}

// cursorWriter is what a page is answered through, with the cursor that its
// application was told.
type cursorWriter struct {
	headWriter

	told    *told
	request *http.Request
}

func (w *cursorWriter) beginHead() {
	if w.told.cursor != "" && !w.answered && w.isPage() {
		w.Header().Add("Server-Timing", `comet;desc="`+w.told.cursor+`"`)
	}
}

// isPage reports whether the response is HTML, or says that the client has the HTML
// already: that is as of now, and would keep the cursor of when it was sent.
func (w *cursorWriter) isPage() bool {
	if w.status == http.StatusNotModified {
		return strings.Contains(w.request.Header.Get("Accept"), "text/html")
	}
	mediaType, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	mediaType = strings.TrimSpace(mediaType)
	return strings.EqualFold(mediaType, "text/html") || strings.EqualFold(mediaType, "application/xhtml+xml")
}

var (
	_ caddy.Provisioner           = (*Cursor)(nil)
	_ caddyhttp.MiddlewareHandler = (*Cursor)(nil)
)
