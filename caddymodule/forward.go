package caddymodule

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unique"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/time/rate"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Forward has the application answer the requests of a hold route: on a wake or a
// timeout a request goes on to it, through the whole site, as if the client sent it
// then. Requests of other methods than GET and HEAD, and those that ask for a
// WebSocket, go on at once.
//
// A request watches the fields of the route or, of these, what the application says when
// it is asked. What it has seen of them is said by the
// header Comet-Cursor, which every response below 500 has, or by value. When that says nothing,
// or something is newer, or there is a gap, it goes on at once.
//
// The application is told, in the header of the request: Comet-Outcome is wake,
// timeout, now or missed; Comet-Field the field that is newer, or else all that were
// watched; Comet-Value its value, percent-encoded, unless that takes more than 4 KiB:
// then Comet-Value-Omitted is 1; and Comet-Cursor where the store was before the
// application was asked. None of them is taken from a client.
type Forward struct {
	// Seen are what a client has seen of the fields, one for each, by value: each a
	// placeholder such as `{query.since}`, a header or a cookie. When all are empty
	// nothing was seen. Default: only the header Comet-Cursor says it.
	Seen []string `json:"seen,omitempty"`

	// OnTimeout is the status that a request is answered with on a timeout, 204 or
	// 304, without asking the application. Default: 0, which asks it.
	OnTimeout int `json:"on_timeout,omitempty"`

	// Share has the application asked once for all who are woken together and ask the
	// same. Default: each asks for itself.
	Share *Share `json:"share,omitempty"`

	// Pace bounds how fast requests go on. Default: no bound.
	Pace *Pace `json:"pace,omitempty"`
}

// Pace bounds how fast requests go on to an application. The others wait for their
// turn, in the order of their coming. One that waited for longer than it may be held,
// and for 30 seconds, is answered with 503.
type Pace struct {
	// Rate is how many go on in a second. Default: no bound.
	Rate float64 `json:"rate,omitempty"`

	// AtOnce is how many the application answers at once. Default: no bound.
	AtOnce int `json:"at_once,omitempty"`
}

// mark is what a log line says of a route that forwards.
func (f *Forward) mark() string {
	if f == nil {
		return ""
	}
	return ", forwarded"
}

// leastTurn is for how long a request may wait for its turn, at least.
const leastTurn = 30 * time.Second

func (h *Hold) provisionForward() error {
	f := h.Forward
	h.lane = &lane{pool: h.pool}
	if f == nil {
		return nil
	}
	if h.Signed != nil || h.CORS != nil {
		return errors.New("signed and cors are about answers of Comet, and with forward the application answers")
	}
	if err := f.check(h.Fields, h.Ask != nil); err != nil {
		return err
	}
	if p := f.Pace; p != nil {
		h.lane.atOnce = p.AtOnce
		if p.Rate > 0 {
			// Timers are not more exact than some milliseconds.
			h.lane.rate = rate.NewLimiter(rate.Limit(p.Rate), max(1, int(p.Rate/100)))
		}
	}
	return nil
}

// check returns what is wrong with the options of a route on fields, of which the
// application may be asked.
func (f *Forward) check(fields []string, asks bool) error {
	switch n := len(f.Seen); {
	case n > 0 && asks:
		return errors.New("with ask the application says which fields a request watches, so seen cannot say what was seen of each: have clients return Comet-Cursor")
	case n > 0 && n != len(fields):
		return fmt.Errorf("seen says %d values, and the number of fields is %d: give one for each, in their order, or none and have clients return Comet-Cursor", n, len(fields))
	}
	for _, placeholder := range f.Seen {
		if !strings.Contains(placeholder, "{") {
			return fmt.Errorf("seen %s is the same for every client: it wants a placeholder, such as {query.since}", placeholder)
		}
	}
	switch f.OnTimeout {
	case 0, http.StatusNoContent, http.StatusNotModified:
	default:
		return fmt.Errorf("on_timeout is forward, 204 or 304, not %d", f.OnTimeout)
	}
	for _, field := range fields {
		if p, err := parsePattern(field); err != nil || !p.isPlain() && !asks {
			return fmt.Errorf("a route that forwards watches all its fields, and %s has a star: name them, or have the application say which, with ask", field)
		}
	}
	if f.Share != nil {
		if err := f.Share.check(); err != nil {
			return fmt.Errorf("share: %w", err)
		}
	}
	if f.Pace != nil {
		return f.Pace.check()
	}
	return nil
}

func (p *Pace) check() error {
	if p.Rate < 0 || p.AtOnce < 0 || p.Rate == 0 && p.AtOnce == 0 {
		return errors.New("pace: it wants a rate, a number of requests at once, or both, above zero")
	}
	return nil
}

// serveForward has the application answer a request, at once or later.
//
// As in Hold.ServeHTTP there is little on this goroutine.
func (h *Hold) serveForward(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket") {
		cursor := store.Cursor{}
		if h.pool.open() == nil {
			cursor = h.pool.store.Cursor()
		}
		return next.ServeHTTP(w, tellApplication(r, cursor))
	}
	v := &crossing{route: h, w: w, r: r}
	aside(v.begin)
	for v.wait != nil {
		v.wait.wait()
		aside(v.proceed)
	}
	if v.passage == nil {
		return v.err
	}
	return h.goOn(w, r, next, v.passage)
}

// crossing is a request at a route that forwards.
type crossing struct {
	route   *Hold
	w       http.ResponseWriter
	r       *http.Request
	wait    *goroutineForwarded // set while the goroutine has to wait
	passage *passage            // set when it is to go on
	err     error
}

func (v *crossing) proceed() {
	var more bool
	if v.passage, more, v.err = v.wait.proceed(v.w); !more {
		v.wait = nil
	}
}

// begin lets a request go on, or has it held.
func (v *crossing) begin() {
	was := passageOf(v.r)
	switch {
	case was == nil:
	case was.lane == v.route.lane:
		v.passage = was
		return
	default: // it waited at another route, perhaps of a configuration before
		was.Lose()
		if was.lane.pool != v.route.pool {
			was = nil
		}
	}
	v.err = v.arrive(was)
}

// arrive lets a request go on that comes for the first time, or has it held. was is the
// way that it had at another route.
func (v *crossing) arrive(was *passage) error {
	h, w, r := v.route, v.w, v.r
	if err := h.pool.open(); err != nil {
		h.setRetryAfter(w)
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	route, err := h.expand(r)
	if err != nil {
		return h.refuseForwarded(w, r, wire.Errorf(http.StatusForbidden, "%v", err))
	}
	body, e := readBody(w, r, holdBody)
	if e != nil {
		return h.refuseForwarded(w, r, e)
	}
	a := asked{route: h, style: forwardStyle, since: now(), timeout: h.timeout(r), bodySize: len(body)}
	if body == "" {
		a.key = h.Forward.key(r)
	} else {
		r.Body = io.NopCloser(strings.NewReader(body))
	}
	p, err := v.look(&a, route, was)
	if err != nil || a.query.Fields == nil {
		return err
	}
	if p != nil {
		if h.lane.enter(p); h.lane.isGranted(p) {
			v.passage = p
			return nil
		}
		a.waits = p
	}
	dropReadTimeout(w)
	if v.wait, err = h.holder.forward(w, r, a); err != nil {
		a.quit()
		return h.refuseHeld(w, r, wire.Text, err)
	}
	return nil
}

// look returns the way of a request that goes on at once, or does not have to wait but
// for its turn; nil if it is to be held. Without fields it was answered. was is the way
// that it had at another route.
func (v *crossing) look(a *asked, route wire.HoldRoute, was *passage) (*passage, error) {
	h, w, r := v.route, v.w, v.r
	if was != nil {
		a.query.Fields, a.since = was.fields, was.since
		p := a.passage(was.why, store.Result{Cursor: was.at})
		p.message = was.message
		return p, nil
	}
	var nothing bool
	a.query.Since, nothing = h.Forward.since(r, len(route.Plain))
	if !nothing {
		cookies := w.Header()["Set-Cookie"]
		may, ok, err := h.ask(w, r, route)
		if !ok {
			setAnswered(w)
			return nil, err
		}
		if w.Header()["Set-Cookie"] = cookies; cookies == nil { // the application will set its own
			w.Header().Del("Set-Cookie")
		}
		if route = may; len(route.Plain) == 0 {
			return nil, h.fail(w, r, http.StatusBadGateway, errNoFields)
		}
	}
	a.query.Fields = append([]string{}, route.Plain...)
	result := h.pool.store.Read(a.query)
	if result.NewEpoch && !h.pool.gaps.Allow() {
		h.spreadGap(r)
		result = h.pool.store.Read(a.query)
	}
	switch {
	case result.Missed != nil:
		return a.passage(outcomeMissed, result), nil
	case nothing, result.Ready(), r.Method == http.MethodHead:
		return a.passage(outcomeNow, result), nil
	}
	return nil, nil
}

// errNoFields is the error of a request of which the application does not say what it
// watches, where the route does not either.
var errNoFields = errors.New("the fields of the route have stars, and the response to `ask` has no Comet-Fields to say which of them a request watches")

// forwardStyle is the style of a request that the application answers.
var forwardStyle = unique.Make(wire.Style{Format: "forward"})

func (h *Hold) refuseForwarded(w http.ResponseWriter, r *http.Request, e *wire.Error) error {
	setAnswered(w)
	w.Header().Set("Cache-Control", "no-store")
	return h.refuse(w, r, wire.Text, e)
}

// since returns what a client has seen, or that it says nothing of that.
func (f *Forward) since(r *http.Request, fields int) (since store.Since, nothing bool) {
	if sent := sentCursor(r); sent != "" {
		c, err := store.ParseCursor(sent)
		if err != nil {
			return store.SinceLost(), false
		}
		return store.SinceCursor(c), false
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	seen := make([]store.Seen, fields)
	nothing = true
	for i, placeholder := range f.Seen {
		value := repl.ReplaceAll(placeholder, "")
		seen[i] = store.Seen{Value: value, Given: value != ""}
		nothing = nothing && value == ""
	}
	return store.SinceValues(seen), nothing
}

// passage returns the way of the request to the application, for what there is to
// tell.
func (a *asked) passage(why outcome, result store.Result) *passage {
	p := newPassage(a.route, why, result, a.query.Fields, a.since)
	p.shareBy(a.route.Forward.Share, a.key)
	return p
}

func newPassage(route *Hold, why outcome, result store.Result, fields []string, since moment) *passage {
	p := &passage{lane: route.lane, why: why, fields: fields, at: result.Cursor, since: since}
	if route.Forward != nil && route.Forward.Share != nil {
		p.share = route.Forward.Share
		p.public = p.share.Public
	}
	if n := len(result.Messages); n > 0 {
		p.message = result.Messages[n-1]
	}
	return p
}

// shareBy gives p the key of its request, unless its route shares by something else.
func (p *passage) shareBy(share *Share, key *shareKey) {
	if key == nil || !p.share.equal(share) {
		p.share = nil
		return
	}
	of := key.with(p.why, p.fields)
	p.key = &of
}

// quit gives up a request that was to wait for its turn.
func (a *asked) quit() {
	if a.waits != nil {
		a.waits.Lose()
	}
}

// limit is for how long the request is held: until it is woken or, when it waits for
// its turn already, for that.
func (a *asked) limit() time.Duration {
	if a.waits != nil {
		return a.route.turnLimit()
	}
	return a.timeout
}

// turnLimit is for how long a request may wait for its turn.
func (h *Hold) turnLimit() time.Duration {
	return max(leastTurn, cmp.Or(h.Timeout.Max, defaultProxyTimeout.Max))
}

// maxTold is how many bytes a value may have that the application is told.
const maxTold = 4 << 10

// goOn has the application answer a request whose turn has come, or gives it the
// answer to another one.
func (h *Hold) goOn(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, p *passage) error {
	returnAfter(r)
	defer p.lane.leave(p)
	if p.answer != nil {
		setAnswered(w)
		h.note(r, p.why, outcomeFields(p.why, p.since.elapsed(), p.fields)...)
		h.pool.metrics.shared.Inc()
		return p.answer.send(w, r)
	}
	cursor := h.pool.store.Cursor()
	p.update(h.pool.store)
	leads := p.lane.begin(p, cursor)
	h.note(r, p.why, outcomeFields(p.why, p.since.elapsed(), p.fields)...)
	h.pool.metrics.asked.Inc()
	r = tellApplication(r, cursor)
	withTold(r).watched = p.fields
	p.tell(r.Header)
	if p.public {
		r.Header.Del("Cookie")
		r.Header.Del("Authorization")
	}
	fw := newForwardWriter(w, cursor)
	if !leads && p.lane.atOnce == 0 {
		return fw.failed(next.ServeHTTP(fw, r))
	}
	return serveKept(fw, r, next, p, leads)
}

// update notes what has come while p waited for its turn, up to a cursor that was taken
// before.
func (p *passage) update(s *store.Store) {
	if len(p.fields) == 0 {
		return
	}
	later := s.Read(store.Query{Fields: p.fields, Since: store.SinceCursor(p.at)})
	if n := len(later.Messages); n > 0 {
		p.message = later.Messages[n-1]
		if p.why == outcomeTimeout {
			p.why = outcomeWake
		}
	}
}

// tell tells the application how it comes to be asked.
func (p *passage) tell(header http.Header) {
	header.Set(headerOutcome, p.why.String())
	if p.message == nil {
		if len(p.fields) > 0 {
			header.Set(headerField, wire.FieldList(p.fields))
		}
		return
	}
	header.Set(headerField, wire.FieldList([]string{p.message.Field}))
	if len(p.message.Data) <= maxTold {
		if value := url.PathEscape(p.message.Data); len(value) <= maxTold {
			header.Set(headerValue, value)
			return
		}
	}
	header.Set(headerValueOmitted, "1")
}

// forwardWriter is what an application answers a forwarded request through.
type forwardWriter struct {
	headWriter

	cursor  store.Cursor
	control *http.ResponseController // nil: a client may take as long as it likes
}

// A client that takes none of so many bytes of a response for so long is given no more of
// it, where others wait for what it takes up.
const (
	stallTime  = 30 * time.Second
	stallBytes = 64 << 10
)

// writeInTime has it so, until done is called. Where the server has a write timeout, that
// is how long the client may take.
func (w *forwardWriter) writeInTime(r *http.Request) (done func()) {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if server != nil && server.WriteTimeout > 0 {
		return func() {}
	}
	w.control = http.NewResponseController(w.ResponseWriter)
	return func() { _ = w.control.SetWriteDeadline(time.Time{}) }
}

// Write writes a part of the body.
func (w *forwardWriter) Write(p []byte) (n int, err error) {
	if w.control == nil {
		return w.headWriter.Write(p)
	}
	w.WriteHeader(http.StatusOK)
	for piece := range slices.Chunk(p, stallBytes) {
		_ = w.control.SetWriteDeadline(time.Now().Add(stallTime))
		m, err := w.headWriter.Write(piece)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

func newForwardWriter(w http.ResponseWriter, cursor store.Cursor) *forwardWriter {
	fw := &forwardWriter{cursor: cursor}
	fw.begin(w, fw)
	return fw
}

// beginHead tells the client what to go on from. What the application says nothing of
// is not to be kept by a browser: it would be asked again only when it is too late.
func (w *forwardWriter) beginHead() {
	header := w.Header()
	if w.status < http.StatusInternalServerError { // else it has not been told what woke it
		header.Set(headerCursor, w.cursor.String())
	}
	if header.Get("Cache-Control") == "" && header.Get("Expires") == "" {
		header.Set("Cache-Control", "no-cache")
	}
	if w.status >= http.StatusInternalServerError {
		w.setRetryAfter()
	}
}

// failed returns the error of an application, after which its client is to come back
// later. One that is the client's is an answer as others are.
func (w *forwardWriter) failed(err error) error {
	if err == nil || w.status != 0 {
		return err
	}
	if statusOf(err) >= http.StatusInternalServerError {
		w.setRetryAfter()
	} else {
		w.Header().Set(headerCursor, w.cursor.String())
	}
	return err
}

func (w *forwardWriter) setRetryAfter() {
	if header := w.Header(); header.Get("Retry-After") == "" {
		header.Set("Retry-After", failedRetry)
	}
}

// failedRetry is after how many seconds a client is to come back when the application
// has failed.
const failedRetry = "5"

// statusOf returns the status that an error of a handler stands for.
func statusOf(err error) int {
	if failure := (caddyhttp.HandlerError{}); errors.As(err, &failure) && failure.StatusCode != 0 {
		return failure.StatusCode
	}
	return http.StatusInternalServerError
}

// isHeadOf reports whether b may be the head that r came with. Handlers may have
// changed r since.
func isHeadOf(b []byte, r *http.Request) bool {
	came, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return false
	}
	sent, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return came.Method == cmp.Or(sent.Method, r.Method) && came.RequestURI == cmp.Or(sent.RequestURI, r.RequestURI) &&
		came.Host == r.Host && came.Proto == r.Proto
}
