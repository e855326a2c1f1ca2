package caddymodule

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Publish is a handler through which a backend publishes, and reads and deletes
// fields. It answers every request that reaches it. See docs/http.md for what a
// request may say.
//
// With neither `allow` nor `tokens`, only this machine may publish: a loopback TCP
// peer whose request was not forwarded by a proxy.
type Publish struct {
	// Store is the name of the store. Default: "default".
	Store string `json:"store,omitempty"`

	// Allow lists who may publish: addresses, CIDRs, `private_ranges`, and `unix`
	// for peers on unix sockets. It goes by the connection's peer or, behind
	// trusted_proxies, by the client address; then the server must have
	// trusted_proxies_strict. Default: this machine, or anybody when there are
	// tokens.
	Allow []string `json:"allow,omitempty"`

	// Tokens are those of which a request must carry one, as `Authorization:
	// Bearer`. Placeholders such as `{env.COMET_TOKEN}` are expanded when the
	// configuration is loaded. Default: none is asked for.
	Tokens []string `json:"tokens,omitempty"`

	// MaxBody is how many bytes a body may have. Default: 1 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	app    *App
	pool   *pool
	logger *zap.Logger
	access access
}

const defaultMaxBody = 1 << 20

// CaddyModule returns the Caddy module information.
func (Publish) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.comet_publish",
		New: func() caddy.Module { return new(Publish) },
	}
}

// Provision checks the options and takes the store into use.
func (p *Publish) Provision(ctx caddy.Context) error {
	app, err := ctx.App("comet")
	if err != nil {
		return err
	}
	p.app = app.(*App)
	p.logger = ctx.Logger()
	if p.MaxBody < 0 {
		return errors.New("max_body is negative")
	}
	if p.MaxBody == 0 {
		p.MaxBody = defaultMaxBody
	}
	if err := p.access.provision(ctx, p.app.server(ctx), p.Allow, p.Tokens); err != nil {
		return err
	}
	p.pool, err = p.app.use(p.Store)
	p.app.publish = append(p.app.publish, p)
	return err
}

// ServeHTTP does what a backend asks for.
func (p *Publish) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	setAnswered(w)
	if err := p.pool.open(); err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	s := p.pool.store
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set(headerCursor, s.Cursor().String())
	asJSON := wire.WantsJSON(r.Header["Accept"])

	denied, err := p.access.check(r, p.isSiteName)
	if err != nil {
		return err
	}
	if denied != nil {
		p.pool.countRefused(denied.kind)
		p.logger.Warn("refused to publish",
			append(callerOf(r), zap.String("reason", denied.reason), zap.Int("status", denied.status))...)
		detail := "this request may not publish; the server's log says why"
		if denied.status == http.StatusUnauthorized {
			header.Set("WWW-Authenticate", `Bearer realm="comet"`)
			detail = "publishing wants a token; the server's log says more"
		}
		return writeError(w, wire.Errorf(denied.status, "%s", detail), asJSON)
	}

	ask, e := wire.ReadPublish(wire.PublishRequest{
		Method:      r.Method,
		Query:       queryOf(r),
		ContentType: r.Header.Get("Content-Type"),
		Body:        func() (string, *wire.Error) { return readBody(w, r, p.MaxBody) },
	})
	if e != nil {
		if e.Status == http.StatusMethodNotAllowed {
			header.Set("Allow", wire.PublishMethods)
		}
		return p.refuse(w, r, e, asJSON)
	}

	var (
		states []store.State
		cursor store.Cursor
		body   = []byte(wire.OK)
	)
	switch {
	case ask.Read != nil:
		states, cursor = s.States(ask.Read)
		body, e = wire.Value(states)
	case ask.Delete != nil:
		states, cursor = s.Delete(ask.Delete)
	default:
		states, cursor, err = s.Publish(ask.Batch)
		e = publishError(err)
	}
	header.Set(headerCursor, cursor.String())
	if e != nil {
		return p.refuse(w, r, e, asJSON)
	}
	contentType := wire.TextType
	if asJSON {
		contentType, body = "application/json", wire.States(states, cursor)
	}
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, err = w.Write(body)
		_ = err // the backend left; what it asked for is done
	}
	return nil
}

// refuse answers a request that asks for what cannot be done.
func (p *Publish) refuse(w http.ResponseWriter, r *http.Request, e *wire.Error, asJSON bool) error {
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		p.pool.countRefused(refusedStatus[e.Status])
		p.logger.Warn("refused to publish",
			append(callerOf(r), zap.String("reason", e.Detail), zap.Int("status", e.Status))...)
	}
	return writeError(w, e, asJSON)
}

// refusedStatus is what the metric calls the reason of an answer.
var refusedStatus = map[int]string{
	http.StatusBadRequest:            "invalid",
	http.StatusRequestTimeout:        "slow",
	http.StatusRequestEntityTooLarge: "too_large",
	http.StatusUnsupportedMediaType:  "type",
	http.StatusInsufficientStorage:   "full",
}

// callerOf returns what a log line says of who sent a request.
func callerOf(r *http.Request) []zap.Field {
	return []zap.Field{
		zap.String("remote_addr", r.RemoteAddr),
		zap.Stringer("client_ip", clientAddr(r)),
		zap.String("host", r.Host),
		zap.String("method", r.Method),
		zap.String("uri", r.RequestURI),
	}
}

// who returns what a log line says of who may publish.
func (p *Publish) who() string {
	var who []string
	if len(p.Allow) > 0 {
		who = append(who, strings.Join(p.Allow, " "))
	}
	if len(p.Tokens) > 0 {
		who = append(who, "who has a token")
	}
	if len(who) == 0 {
		return "this machine"
	}
	return strings.Join(who, ", only ")
}

// publishError returns the answer to a publication that the store did not take.
func publishError(err error) *wire.Error {
	if bump := (*store.BumpError)(nil); errors.As(err, &bump) {
		return wire.Errorf(http.StatusBadRequest, "%v", bump)
	}
	if err != nil {
		return wire.Errorf(http.StatusInsufficientStorage, "%v: raise max_fields or max_memory, or delete fields", err)
	}
	return nil
}

// isSiteName reports whether the Host of r is a name of the site that the handler
// stands in.
func (p *Publish) isSiteName(r *http.Request) bool {
	for _, route := range p.app.routes() {
		if route.handler == caddyhttp.MiddlewareHandler(p) && route.isNamed(r) {
			return true
		}
	}
	return false
}

var (
	_ caddy.Provisioner           = (*Publish)(nil)
	_ caddyhttp.MiddlewareHandler = (*Publish)(nil)
)
