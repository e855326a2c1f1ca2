package wire

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// MaxFields is how many fields one request may watch.
const MaxFields = 64

// HoldMethods are the methods of a hold route, as Allow names them.
const HoldMethods = "GET, HEAD"

// HoldRoute is what a route lets a request ask for.
type HoldRoute struct {
	Plain   []string               // names without a wildcard, in order
	All     bool                   // of Plain is watched by a request that names none, not the first
	Allows  func(name string) bool // whether a request may watch a field
	Formats []Format               // the first is the default
}

// Only returns the route as it is for who may watch these fields of it, and no others.
func (r *HoldRoute) Only(fields []string) HoldRoute {
	return HoldRoute{
		Plain:   fields,
		All:     true,
		Allows:  func(name string) bool { return slices.Contains(fields, name) },
		Formats: r.Formats,
	}
}

// check returns the answer to a request for a field that may not be watched.
func (r *HoldRoute) check(name string) *Error {
	switch {
	case r.Allows(name):
		return nil
	case r.All:
		return Errorf(http.StatusForbidden, "the field %q is not among those that the application lets you watch here", name)
	default:
		return Errorf(http.StatusForbidden, "the field %q may not be watched here; to allow it, add `field %s` to the hold block of this route", name, name)
	}
}

// Hold is what a request to a hold route asks for.
type Hold struct {
	Query store.Query
	Style Style

	// Wait is how long the request asks to be held, at most; negative when it
	// does not say.
	Wait time.Duration
}

// ReadHold reads a request to a hold route. When it returns an error, the format
// of the style is the one to answer in.
func ReadHold(route HoldRoute, method, query string, header http.Header) (Hold, *Error) {
	h := Hold{Style: Style{Format: Text}, Wait: -1}
	pairs, err := parseQuery(query)
	if err != nil {
		return h, badRequest("the query cannot be read: %v", err)
	}
	format, e := readFormat(route, first(pairs, "format"), header)
	if e != nil {
		return h, e
	}
	h.Style.Format = format
	if method != http.MethodGet && method != http.MethodHead {
		return h, Errorf(http.StatusMethodNotAllowed, "the method %.20q is not one of %s", method, HoldMethods)
	}
	if e = h.Style.read(pairs); e != nil {
		return h, e
	}
	if h.Query.Fields, e = readFields(route, pairs); e != nil {
		return h, e
	}
	lastEventID := header.Get("Last-Event-ID")
	if lastEventID == "" && h.Style.Format == SSE {
		lastEventID = first(pairs, "lastEventId") // of clients that cannot set the header
	}
	if h.Query.Since, e = readSince(h, pairs, lastEventID); e != nil {
		return h, e
	}
	if wait := first(pairs, "wait"); wait != "" {
		seconds, err := strconv.ParseFloat(wait, 64)
		if err != nil || !(seconds >= 0) {
			return h, badRequest("wait=%.40q is not a number of seconds", wait)
		}
		h.Wait = time.Duration(min(seconds*float64(time.Second), math.MaxInt64/2))
	}
	if method == http.MethodHead {
		h.Wait = 0
	}
	return h, nil
}

// readFields returns what a request watches, each once.
func readFields(route HoldRoute, pairs []pair) ([]string, *Error) {
	var fields []string
	for _, name := range all(pairs, "field") {
		if name == "" {
			continue
		}
		if e := checkName("field", name); e != nil {
			return nil, e
		}
		if !slices.Contains(fields, name) {
			fields = append(fields, name)
		}
		if len(fields) > MaxFields {
			return nil, errTooMany
		}
	}
	for _, name := range fields {
		if e := route.check(name); e != nil {
			return nil, e
		}
	}
	if len(fields) > 0 {
		return fields, nil
	}
	for _, name := range route.Plain {
		if len(fields) < MaxFields && !isReserved(name) && !slices.Contains(fields, name) &&
			slices.ContainsFunc(pairs, func(p pair) bool { return p.name == name }) {
			fields = append(fields, name)
		}
	}
	if len(fields) > 0 {
		return fields, nil
	}
	if route.All {
		return route.Plain, nil
	}
	if len(route.Plain) == 0 {
		return nil, badRequest("say what to watch: ?field=NAME")
	}
	return route.Plain[:1], nil
}

// readSince returns what a client has seen of the fields it watches.
func readSince(h Hold, pairs []pair, lastEventID string) (store.Since, *Error) {
	if lastEventID != "" {
		c, err := store.ParseCursor(lastEventID)
		if err != nil {
			return store.SinceLost(), nil
		}
		return store.SinceCursor(c), nil
	}
	switch after := first(pairs, "after"); after {
	case "":
	case "now":
		return store.SinceNow(), nil
	case "first":
		return store.SinceFirst(), nil
	default:
		c, err := store.ParseCursor(after)
		if err != nil {
			return store.Since{}, badRequest("after=%.80q is not a cursor; send one that an answer gave you, or after=now or after=first", after)
		}
		return store.SinceCursor(c), nil
	}
	if last := first(pairs, "last"); last != "" {
		n, err := strconv.ParseUint(last, 10, 31)
		if err != nil {
			return store.Since{}, badRequest("last=%.40q is not a number of messages", last)
		}
		return store.SinceLast(int(n)), nil
	}
	seen := make([]store.Seen, len(h.Query.Fields))
	for i, name := range h.Query.Fields {
		if !isReserved(name) {
			value := first(pairs, name)
			seen[i] = store.Seen{Value: value, Given: value != ""}
		}
		if h.Style.Format == Text && !seen[i].Given {
			seen[i] = store.Seen{Value: "0", Given: true} // as in the recipe
		}
	}
	return store.SinceValues(seen), nil
}
