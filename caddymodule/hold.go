package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Hold is a handler that holds a request until a field that it watches has
// something newer, and then answers it. It answers every request that reaches it,
// unless the application is to: see Forward.
//
// A client names what it watches by `field=NAME`, and says what it has seen by a
// cursor (`Last-Event-ID`, `after=`, `last=`) or by value (`NAME=VALUE`). See
// docs/http.md for all that it may say and is told.
type Hold struct {
	// Store is the name of the store. Default: "default".
	Store string `json:"store,omitempty"`

	// Fields are the fields that a request may watch: names, and globs in which
	// `*` stands for any characters but `/` and `**` for any. Placeholders expand
	// to literal text; one that expands to nothing, or to something with a `/` or
	// a control character in it, makes the request 403. A request that names no
	// field watches the first that is no glob. Default: id.
	Fields []string `json:"fields,omitempty"`

	// Signed are the keys of which one has signed what a request watches, and until
	// when: `field=NAME&until=UNIX&sig=HEX`, where HEX is the HMAC-SHA-256 of the names
	// of the fields, each with a newline behind it, and the time. Placeholders such as
	// `{env.COMET_KEY}` are expanded when the configuration is loaded. Default: nothing
	// has to be signed.
	Signed []string `json:"signed,omitempty"`

	// Ask has the application decide who may watch what. Default: it is not asked.
	Ask *Ask `json:"ask,omitempty"`

	// Timeout is after how long a held request is answered though there is
	// nothing newer: a random time each in this range. Default: 90s-110s, and
	// 45s-55s when the request came through a proxy.
	Timeout DurationRange `json:"timeout,omitzero"`

	// Formats are the formats that may be asked for, of text, json, raw, jsonp, sse,
	// ndjson, multipart, iframe and ws. The first is that of a request that does not
	// ask. Default: text, json, raw, sse, ndjson, ws.
	Formats []wire.Format `json:"formats,omitempty"`

	// RawTimeout is the status of an answer in the format raw that has nothing to
	// tell: 200, 204, 304 or 408. Default: 204.
	RawTimeout int `json:"raw_timeout,omitempty"`

	// Retry is what clients are told of when to come back after a failure: a
	// random time each in this range. Default: 1s-3s.
	Retry DurationRange `json:"retry,omitzero"`

	// Heartbeat is how often a stream is sent something that its client ignores, so
	// that neither side, nor a proxy between, takes it for dead. Default: 20s.
	Heartbeat caddy.Duration `json:"heartbeat,omitempty"`

	// StreamMax is after how long a stream ends, to be asked for again: a random
	// time each in this range. Default: 50m-70m.
	StreamMax DurationRange `json:"stream_max,omitzero"`

	// BufferMessages and BufferBytes are how many messages, and how many bytes of
	// data, may come while a client has not read the last part of its stream for a
	// second or more. One with more before it is dropped, and loses nothing when it
	// comes back with its cursor. So is one that reads nothing for 30 seconds.
	// Default: 64, and 1 MiB.
	BufferMessages int   `json:"buffer_messages,omitempty"`
	BufferBytes    int64 `json:"buffer_bytes,omitempty"`

	// Forward has the application answer. Default: Comet does.
	Forward *Forward `json:"forward,omitempty"`

	// CORS says which pages of other origins may read the answers. Default: none.
	CORS *CORS `json:"cors,omitempty"`

	app      *App
	pool     *pool
	logger   *zap.Logger
	access   accessLog
	texts    *textCache
	holder   holder
	patterns []pattern
	keys     []string        // Signed, expanded
	fixed    *wire.HoldRoute // what it allows every request; nil: that depends
	lane     *lane           // to the application

	// longest bounds every hold, when the server has a write_timeout: it would
	// cut off an answer that comes later. Zero: no bound.
	longest time.Duration
}

// The defaults of Hold.
var (
	defaultTimeout      = DurationRange{90 * time.Second, 110 * time.Second}
	defaultProxyTimeout = DurationRange{45 * time.Second, 55 * time.Second}
	defaultRetry        = DurationRange{time.Second, 3 * time.Second}
	defaultStreamMax    = DurationRange{50 * time.Minute, 70 * time.Minute}
	defaultFields       = []string{"id"}
	defaultFormats      = []wire.Format{wire.Text, wire.JSON, wire.Raw, wire.SSE, wire.NDJSON, wire.WS}
)

// CaddyModule returns the Caddy module information.
func (Hold) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.comet_hold",
		New: func() caddy.Module { return new(Hold) },
	}
}

// Provision checks the options and takes the store into use.
func (h *Hold) Provision(ctx caddy.Context) error {
	app, err := ctx.App("comet")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	h.logger = ctx.Logger()
	h.holder = h.app.holder
	h.texts = new(textCache)
	if len(h.Fields) == 0 {
		h.Fields = defaultFields
	}
	for _, field := range h.Fields {
		p, err := parsePattern(field)
		if err != nil {
			return err
		}
		h.patterns = append(h.patterns, p)
	}
	for _, s := range h.Signed {
		key, err := expandKey(s)
		if err != nil {
			return fmt.Errorf("signed: %w", err)
		}
		h.keys = append(h.keys, key)
	}
	if h.Ask != nil {
		if err := h.Ask.provision(h.logger); err != nil {
			return fmt.Errorf("ask: %w", err)
		}
	}
	if len(h.Formats) == 0 {
		h.Formats = defaultFormats
	}
	for _, format := range h.Formats {
		if err := checkFormat(string(format)); err != nil {
			return err
		}
	}
	if h.RawTimeout == 0 {
		h.RawTimeout = http.StatusNoContent
	}
	if err := checkRawTimeout(h.RawTimeout); err != nil {
		return err
	}
	if !slices.ContainsFunc(h.patterns, pattern.hasPlaceholder) {
		fixed := h.allowing(h.patterns)
		h.fixed = &fixed
	}
	if h.Retry.IsZero() {
		h.Retry = defaultRetry
	}
	if err := h.checkStreams(); err != nil {
		return err
	}
	if h.CORS != nil {
		if err := h.CORS.provision(); err != nil {
			return fmt.Errorf("cors: %w", err)
		}
	}
	server := h.app.server(ctx)
	h.access = newAccessLog(ctx, server)
	if server != nil && server.WriteTimeout > 0 {
		h.longest = time.Duration(server.WriteTimeout) / 10 * 9
		h.logger.Warn("the server's write_timeout bounds how long requests are held",
			zap.Duration("write_timeout", time.Duration(server.WriteTimeout)), zap.Duration("longest", h.longest))
	}
	if h.pool, err = h.app.use(h.Store); err != nil {
		return err
	}
	h.app.holders = append(h.app.holders, h)
	return h.provisionForward()
}

const (
	defaultHeartbeat      = 20 * time.Second
	defaultBufferMessages = 64
	defaultBufferBytes    = 1 << 20
)

// checkStreams checks what there is of streams, and fills in the defaults.
func (h *Hold) checkStreams() error {
	if h.Heartbeat < 0 || h.BufferMessages < 0 || h.BufferBytes < 0 {
		return errors.New("heartbeat, buffer_messages or buffer_bytes is negative")
	}
	h.Heartbeat = cmp.Or(h.Heartbeat, caddy.Duration(defaultHeartbeat))
	h.BufferMessages = cmp.Or(h.BufferMessages, defaultBufferMessages)
	h.BufferBytes = cmp.Or(h.BufferBytes, defaultBufferBytes)
	if h.StreamMax.IsZero() {
		h.StreamMax = defaultStreamMax
	}
	return nil
}

func checkFormat(name string) error {
	if slices.Contains(wire.Formats(), name) {
		return nil
	}
	return fmt.Errorf("there is no format %q; there are %s", name, strings.Join(wire.Formats(), ", "))
}

func checkRawTimeout(status int) error {
	switch status {
	case http.StatusOK, http.StatusNoContent, http.StatusNotModified, http.StatusRequestTimeout:
		return nil
	}
	return fmt.Errorf("the status of a raw answer that has nothing to tell is 200, 204, 304 or 408, not %d", status)
}

// The headers of an answer, in the case that net/http keeps them.
const (
	headerCursor = "Comet-Cursor"
	headerField  = "Comet-Field"
	headerMissed = "Comet-Missed"
)

// holdBody is how much of a body a held request may have: it is read only to see
// when the client leaves.
const holdBody = 64 << 10

// ServeHTTP answers a request when there is something to tell it.
//
// Where the goroutine has to wait, as for HTTP/2 and HTTP/3, its stack is most of
// what the request costs. Where it does not, growing its stack is most of what the
// handler costs. So there is little on it, and what needs more is done aside.
func (h *Hold) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.Forward != nil {
		return h.serveForward(w, r, next)
	}
	v := &visit{route: h, w: w, r: r}
	aside(v.begin)
	for v.wait != nil {
		v.wait.wait()
		aside(v.proceed)
	}
	return v.err
}

// visit is a request at a hold route.
type visit struct {
	route *Hold
	w     http.ResponseWriter
	r     *http.Request
	wait  goroutineHold // set while the goroutine has to wait
	err   error
}

func (v *visit) begin() { v.wait, v.err = v.route.begin(v.w, v.r) }

func (v *visit) proceed() {
	if !v.wait.proceed(v.w) {
		v.wait = nil
	}
}

// begin answers a request, or has it held. It returns what to wait for if that is
// to be done on this goroutine.
func (h *Hold) begin(w http.ResponseWriter, r *http.Request) (goroutineHold, error) {
	setAnswered(w)
	untell(r)
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "Accept")
	header.Set("X-Content-Type-Options", "nosniff")
	if h.CORS != nil {
		if isPreflight(r) {
			return nil, h.answerPreflight(w, r)
		}
		h.CORS.expose(header, r)
	}
	if err := h.pool.open(); err != nil {
		h.setRetryAfter(w)
		return nil, caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	s := h.pool.store

	route, err := h.expand(r)
	if err != nil {
		return nil, h.refuse(w, r, wire.Text, wire.Errorf(http.StatusForbidden, "%v", err))
	}
	cookies := header["Set-Cookie"]
	route, ok, err := h.ask(w, r, route)
	if !ok {
		return nil, err
	}
	if session := wire.SessionOf(queryOf(r)); session != "" && r.Method == http.MethodPost {
		return nil, h.changeSession(w, r, route, session)
	}
	method, asks := asUpgrade(r)
	ask, e := wire.ReadHold(route, method, queryOf(r), asks)
	if e != nil {
		if e.Status == http.StatusMethodNotAllowed {
			header.Set("Allow", wire.HoldMethods)
		}
		return nil, h.refuse(w, r, ask.Style.Format, e)
	}
	accept := ""
	if ask.Style.Format == wire.WS || isConnect(r) {
		if accept, e = h.acceptSocket(r, ask.Style.Format); e != nil {
			return nil, h.refuse(w, r, ask.Style.Format, e)
		}
	}
	if ask.Style.Format == wire.Iframe {
		// Any page that has it in a frame is sent what it tells.
		header.Add("Content-Security-Policy", "frame-ancestors "+h.CORS.ancestors())
	}
	stream := ask.Style.Format.IsStream()
	timeout := h.timeout(r)
	if stream {
		header.Set("X-Accel-Buffering", "no") // nginx would keep it back
		timeout = h.bound(h.StreamMax.pick())
	}
	if ask.Wait >= 0 {
		timeout = min(timeout, ask.Wait)
	}
	if h.keys != nil {
		signature, err := h.checkSignature(r)
		if err != nil {
			return nil, h.refuseUnsigned(w, r, ask.Style.Format, err)
		}
		timeout = max(0, min(timeout, time.Until(signature.Until)))
	}
	result := s.Read(ask.Query)
	if result.NewEpoch && timeout > 0 && !h.pool.gaps.Allow() {
		h.spreadGap(r)
		result = s.Read(ask.Query)
	}
	a := asked{route: h, query: ask.Query, style: unique.Make(ask.Style), since: now(), timeout: timeout, accept: accept}
	if route.All {
		a.granted = route.Plain
	}
	if !stream && (result.Ready() || timeout == 0) {
		h.answer(w, r, a, result, outcomeNow)
		return nil, nil
	}

	if !isConnect(r) { // the body of which is what the client says
		body, e := readBody(w, r, holdBody)
		if e != nil {
			return nil, h.refuse(w, r, ask.Style.Format, e)
		}
		a.bodySize = len(body)
	}
	dropReadTimeout(w)
	hold := h.holder.stream
	if stream {
		a.first = result
	} else {
		hold = h.holder.hold
		if h.Ask != nil { // the cookies that it set would come late, over newer ones
			header["Set-Cookie"] = cookies
		}
	}
	wait, err := hold(w, r, a)
	if err != nil {
		err = h.refuseHeld(w, r, ask.Style.Format, err)
	}
	return wait, err
}

// refuseHeld answers a request that could not be held.
func (h *Hold) refuseHeld(w http.ResponseWriter, r *http.Request, format wire.Format, err error) error {
	switch {
	case errors.Is(err, errMaxClient):
		h.setRetryAfter(w)
		return h.refuse(w, r, format, wire.Errorf(http.StatusTooManyRequests, "too many requests of this address are held; close some, or let the tabs of a browser share one"))
	case errors.Is(err, errExiting), errors.Is(err, errMaxHeld), errors.Is(err, store.ErrFull):
		h.setRetryAfter(w)
		if h.Forward == nil {
			w.Header().Set(headerCursor, h.pool.store.Cursor().String())
		}
		h.note(r, outcomeRefused, outcomeField(outcomeRefused))
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	return err
}

// expand returns what the route allows this request.
func (h *Hold) expand(r *http.Request) (wire.HoldRoute, error) {
	if h.fixed != nil {
		return *h.fixed, nil
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	patterns := make([]pattern, len(h.patterns))
	for i, p := range h.patterns {
		expanded, err := p.expand(repl)
		if err != nil {
			return wire.HoldRoute{}, err
		}
		patterns[i] = expanded
	}
	return h.allowing(patterns), nil
}

// allowing returns what the route allows by patterns that are expanded.
func (h *Hold) allowing(patterns []pattern) wire.HoldRoute {
	route := wire.HoldRoute{
		Formats: h.Formats,
		Allows: func(name string) bool {
			return slices.ContainsFunc(patterns, func(p pattern) bool { return p.matches(name) })
		},
	}
	for _, p := range patterns {
		if p.isPlain() {
			route.Plain = append(route.Plain, p.name())
		}
	}
	return route
}

func (h *Hold) timeout(r *http.Request) time.Duration {
	timeout := h.Timeout
	if timeout.IsZero() {
		timeout = defaultTimeout
		if forwardingHeader(r) != "" || isTrustedProxy(r) {
			timeout = defaultProxyTimeout
		}
	}
	return h.bound(timeout.pick())
}

// bound returns how long a request may be held that is to be held for d.
func (h *Hold) bound(d time.Duration) time.Duration {
	if h.longest > 0 {
		return min(d, h.longest)
	}
	return d
}

// spreadGap waits a moment, because many clients come with cursors of an epoch of
// before a restart.
func (h *Hold) spreadGap(r *http.Request) {
	select {
	case <-time.After(h.Retry.pick()):
	case <-r.Context().Done():
	}
}

// reply returns what a client is told of a result, and how its request ended.
func (h *Hold) reply(style wire.Style, result store.Result, why outcome) (wire.Answer, outcome) {
	if result.Missed != nil && (why == outcomeNow || why == outcomeWake) {
		why = outcomeMissed
	}
	// Also to one that left: it may have closed only its half of the connection.
	return wire.NewAnswer(style, h.RawTimeout, result, h.Retry.pick()), why
}

// answer tells a client what there is, and notes how its request ended.
func (h *Hold) answer(w http.ResponseWriter, r *http.Request, a asked, result store.Result, why outcome) {
	answer, why := h.reply(a.style.Value(), result, why)
	h.note(r, why, outcomeFields(why, a.since.elapsed(), a.query.Fields)...)
	header := w.Header()
	a.tell(header, answer.Type, answer.Cursor, answer.Missed)
	if answer.HasBody() {
		header.Set("Content-Length", strconv.Itoa(answer.Len()))
	}
	if why == outcomeExit && r.ProtoMajor == 1 {
		header.Set("Connection", "close")
	}
	w.WriteHeader(answer.Status)
	if r.Method == http.MethodHead {
		return
	}
	for _, part := range answer.Parts {
		if _, err := w.Write(part); err != nil {
			return // the client left; it goes on from the cursor it has
		}
	}
	if why == outcomeWake {
		h.pool.observeWake(result)
	}
}

// tell puts what an answer tells beside its body into its header.
func (a *asked) tell(header http.Header, contentType string, cursor store.Cursor, missed bool) {
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	header.Set(headerCursor, cursor.String())
	header.Set(headerField, wire.FieldList(a.query.Fields))
	if missed {
		header.Set(headerMissed, "true")
	}
}

// note counts how a request ended, and puts it into the access log.
func (h *Hold) note(r *http.Request, why outcome, fields ...zap.Field) {
	h.pool.countHold(why)
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		for _, f := range fields {
			extra.Add(f)
		}
	}
}

// outcomeFields is what the access log tells of how a held request ended.
func outcomeFields(why outcome, after time.Duration, fields []string) []zap.Field {
	return []zap.Field{
		outcomeField(why),
		zap.Duration("comet_held", after),
		zap.Strings("comet_field", fields),
	}
}

func outcomeField(why outcome) zap.Field { return zap.Stringer("comet_outcome", why) }

// refuse answers a request that asks for what it cannot be given.
func (h *Hold) refuse(w http.ResponseWriter, r *http.Request, format wire.Format, e *wire.Error) error {
	h.note(r, outcomeRefused, outcomeField(outcomeRefused))
	header := w.Header()
	if h.Forward == nil { // else a client may take it for that of an answer
		header.Set(headerCursor, h.pool.store.Cursor().String())
	}
	if e.Status == http.StatusUpgradeRequired && r.ProtoMajor == 1 {
		header.Set("Connection", "Upgrade")
		header.Set("Upgrade", "websocket")
		header.Set("Sec-WebSocket-Version", wire.SocketVersion)
	}
	return writeError(w, e, format == wire.JSON)
}

func (h *Hold) setRetryAfter(w http.ResponseWriter) {
	seconds := int64((h.Retry.pick() + time.Second - 1) / time.Second)
	w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
}

// allows reports whether the route would let a held request go on watching what
// it does.
func (h *Hold) allows(held *held, r *http.Request) bool {
	route, err := h.expand(r)
	if err != nil || h.pool != held.pool {
		return false
	}
	fields := held.waiter.fields()
	if h.keys != nil {
		signature, err := h.checkSignature(r)
		if err != nil || slices.ContainsFunc(fields, func(name string) bool { return !slices.Contains(signature.Fields, name) }) {
			return false
		}
	}
	return !slices.ContainsFunc(fields, func(name string) bool { return !route.Allows(name) })
}

var (
	_ caddy.Provisioner           = (*Hold)(nil)
	_ caddyhttp.MiddlewareHandler = (*Hold)(nil)
)
