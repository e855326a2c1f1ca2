package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Ask has the application decide who may watch what: by a request of its own, a GET
// with the header of the one that is to be held.
//
// A response of 2xx lets it watch, all that the route has or, when there is a header
// `Comet-Fields` (names separated by commas, percent-encoded), of that these alone.
// Any other response is what the client gets.
type Ask struct {
	// URI is what is asked for: a path that begins with `/`, and a query if need be.
	// It is handled by the whole site, as a request of the client's own would be, and
	// must not lead to a route that asks. Placeholders expand to literal text; one in
	// the path that expands to nothing, or to something with a `/` or a control
	// character in it, makes the request 403.
	URI string `json:"uri,omitempty"`

	// For is for how long a yes holds for all requests with the same credentials.
	// Zero: until the response is there. Default: 10s.
	For *caddy.Duration `json:"for,omitempty"`

	logger      *zap.Logger
	path, query string        // of URI
	lasts       time.Duration // For
	turns       chan struct{} // holds one for each request that is with the application

	mu     sync.Mutex // guards what follows
	asking map[asker]*question
	kept   verdicts
}

const defaultAskFor = 10 * time.Second

// headerFields is the header of a response that says what may be watched, in the case
// that net/http keeps it.
const headerFields = "Comet-Fields"

// provision checks the options.
func (a *Ask) provision(logger *zap.Logger) error {
	if err := checkAsk(a.URI); err != nil {
		return err
	}
	a.logger = logger
	a.path, a.query, _ = strings.Cut(a.URI, "?")
	a.lasts = defaultAskFor
	if a.For != nil {
		a.lasts = time.Duration(*a.For)
	}
	if a.lasts < 0 {
		return errors.New("for is negative")
	}
	a.turns = make(chan struct{}, maxAsking)
	a.asking = make(map[asker]*question)
	return nil
}

// checkAsk reports what is wrong with the URI that is to be asked for.
func checkAsk(uri string) error {
	switch {
	case !strings.HasPrefix(uri, "/") || strings.HasPrefix(uri, "//"):
		return fmt.Errorf("the URI %q is not a path of this site, such as /may-watch.php", uri)
	case strings.Contains(uri, "#") || strings.ContainsFunc(uri, func(c rune) bool { return c <= ' ' || c == 0x7f }):
		return fmt.Errorf("the URI %q has something in it that is to be percent-encoded", uri)
	}
	return nil
}

// ask has the application say whether r may watch, where the route asks, and returns
// what of route that is. It is not ok when r was answered, or has to be with the error.
//
// The cookies that come with a yes are set in the header of w.
func (h *Hold) ask(w http.ResponseWriter, r *http.Request, route wire.HoldRoute) (may wire.HoldRoute, ok bool, err error) {
	a := h.Ask
	if a == nil {
		return route, true, nil
	}
	if uri, isAsk := r.Context().Value(askKey{}).(string); isAsk {
		return route, false, h.fail(w, r, http.StatusLoopDetected, fmt.Errorf(
			"what `ask %s` asks for comes to a hold route that asks, and so on: have the matcher of that route leave it out", uri))
	}
	uri, err := a.expand(r)
	if err != nil {
		return route, false, h.refuse(w, r, wire.Text, wire.Errorf(http.StatusForbidden, "%v", err))
	}
	v, own := a.verdict(r, uri)
	switch {
	case v == nil:
		h.note(r, outcomeLeft, outcomeField(outcomeLeft))
		return route, false, nil
	case v.err != nil:
		return route, false, h.fail(w, r, v.status, v.err)
	case !v.isYes():
		h.passOn(w, r, v, own)
		return route, false, nil
	}
	if v.limited {
		for _, name := range v.fields {
			if !route.Allows(name) {
				h.warnOfAsk(r, fmt.Errorf("the application lets it watch the field %q, which the route does not have; to allow it, add `field %s` to the hold block", name, name))
				return route, false, h.refuse(w, r, wire.Text, wire.Errorf(http.StatusForbidden, "the application lets you watch what this route does not have; the server's log says more"))
			}
		}
		route = route.Only(v.fields)
	}
	if own {
		for _, cookie := range v.header["Set-Cookie"] {
			w.Header().Add("Set-Cookie", cookie)
		}
	}
	return route, true, nil
}

// fail answers a request of which the application did not say whether it may watch.
func (h *Hold) fail(w http.ResponseWriter, r *http.Request, status int, err error) error {
	h.note(r, outcomeRefused, outcomeField(outcomeRefused))
	h.warnOfAsk(r, err)
	h.setRetryAfter(w)
	return caddyhttp.Error(status, err)
}

// warnOfAsk logs what an administrator has to change for the application to be asked.
func (h *Hold) warnOfAsk(r *http.Request, err error) {
	h.logger.Warn("refused to hold", append(callerOf(r), zap.String("reason", err.Error()))...)
}

// passOn answers a request with what the application said. Its cookies are for the
// client whose request it was asked with.
func (h *Hold) passOn(w http.ResponseWriter, r *http.Request, v *verdict, own bool) {
	h.note(r, outcomeRefused, outcomeField(outcomeRefused))
	header := w.Header()
	for name, values := range v.header {
		switch {
		case strings.HasPrefix(name, "Comet-"), h.CORS != nil && strings.HasPrefix(name, "Access-Control-"):
		case name == "Set-Cookie" && !own:
		case name == "Set-Cookie", name == "Vary":
			header[name] = slices.Concat(header[name], values)
		default:
			header[name] = slices.Clone(values) // handlers may change them
		}
	}
	header.Set("Cache-Control", "no-store")
	if v.status >= 500 && header.Get("Retry-After") == "" {
		h.setRetryAfter(w)
	}
	if v.status != http.StatusNotModified {
		header.Set("Content-Length", strconv.Itoa(len(v.body)))
	}
	w.WriteHeader(v.status)
	if r.Method != http.MethodHead {
		_, err := w.Write(v.body)
		_ = err // the client left
	}
}

// expand returns what is asked for r.
func (a *Ask) expand(r *http.Request) (string, error) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	path, err := repl.ReplaceFunc(a.path, func(name string, value any) (any, error) {
		text := caddy.ToString(value)
		if strings.Trim(text, ".") == "" || strings.ContainsAny(text, `/\`) || strings.ContainsFunc(text, unicode.IsControl) {
			return nil, fmt.Errorf("the placeholder {%s} is %q here, and that cannot be part of a path", name, text)
		}
		return url.PathEscape(text), nil
	})
	if err != nil || a.query == "" {
		return path, err
	}
	query, err := repl.ReplaceFunc(a.query, func(_ string, value any) (any, error) {
		return url.QueryEscape(caddy.ToString(value)), nil
	})
	return path + "?" + query, err
}

// errNotGranted is the answer to who wants a stream to watch more than the application
// lets it.
var errNotGranted = wire.Errorf(http.StatusForbidden, "the application lets this stream watch no more: ask for a stream of its own for other fields")
