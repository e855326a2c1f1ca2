package caddymodule

import (
	"net/http"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// applicationPublisher publishes what an application does, as it is seen in its
// responses.
type applicationPublisher struct {
	app    *App
	pool   *pool
	logger *zap.Logger
}

func (p *applicationPublisher) provision(ctx caddy.Context, store string) error {
	app, err := ctx.App("comet")
	if err != nil {
		return err
	}
	p.app = app.(*App)
	p.logger = ctx.Logger()
	p.pool, err = p.app.use(store)
	return err
}

// publish publishes a batch. Nothing is published, and nobody is told, as long as
// another process has the store: a configuration that uses it does not start.
func (p *applicationPublisher) publish(batch []store.Publication) error {
	if p.pool.open() != nil {
		return nil
	}
	_, _, err := p.pool.store.Publish(batch)
	return err
}

// refuse counts and logs what is not published. The application's response is what
// it would have been.
func (p *applicationPublisher) refuse(level zapcore.Level, r *http.Request, e *wire.Error) {
	p.pool.countRefused(refusedStatus[e.Status])
	if c := p.logger.Check(level, "refused to publish"); c != nil {
		c.Write(append(callerOf(r), zap.String("reason", e.Detail))...)
	}
}

// applicationWriter is what an application answers through. It looks at the status,
// and with takes it keeps the header Comet-Publish from the client.
type applicationWriter struct {
	headWriter

	takes bool
	said  []string // the values of Comet-Publish in the response
	cut   bool     // it could not be written to the end
}

func newApplicationWriter(w http.ResponseWriter, takes bool) *applicationWriter {
	aw := &applicationWriter{takes: takes}
	aw.begin(w, aw)
	return aw
}

// headerPublish is the header of a response that publishes, in the case that
// net/http keeps it.
const headerPublish = "Comet-Publish"

// serve has an application answer, and calls done when it has done what was asked
// for: when the response is over, and was 2xx or 3xx. One that failed in the middle
// was not; but when it could not be written to the end because the client left, what
// the application did is done, though reverse_proxy panics then.
func (w *applicationWriter) serve(r *http.Request, next caddyhttp.Handler, done func()) error {
	over := false
	defer func() {
		left := w.cut || r.Context().Err() != nil // which may come a moment later
		if (over || left) && w.status >= 200 && w.status < 400 && r.Method != http.MethodConnect && !w.answered {
			done()
		}
	}()
	err := next.ServeHTTP(w, r)
	over = err == nil
	if w.takes && !w.answered { // else the connection may be parked, and the header used elsewhere
		takeOut(w.Header()) // trailers, and what handle_errors would send
	}
	return err
}

// beginHead takes out what the header publishes.
func (w *applicationWriter) beginHead() {
	if w.takes {
		header := w.Header()
		w.said = header[headerPublish]
		takeOut(header)
	}
}

// WriteHeader begins the response, unless the status is informational: then a
// handler may have set what is to be published by the response.
func (w *applicationWriter) WriteHeader(status int) {
	if !w.takes || w.status != 0 || !isInformational(status) {
		w.headWriter.WriteHeader(status)
		return
	}
	header := w.Header()
	said := header[headerPublish]
	takeOut(header)
	w.headWriter.WriteHeader(status)
	if said != nil {
		header[headerPublish] = said
	}
}

// Write writes a part of the body.
func (w *applicationWriter) Write(p []byte) (int, error) {
	n, err := w.headWriter.Write(p)
	w.cut = w.cut || err != nil
	return n, err
}

// takeOut takes Comet-Publish out of a header, and out of the trailers.
func takeOut(header http.Header) {
	delete(header, headerPublish)
	delete(header, http.TrailerPrefix+headerPublish)
	unlist(header, "Trailer", func(name string) bool { return strings.EqualFold(name, headerPublish) })
}

// FromResponses is a handler that lets an application publish by its responses: by
// the header `Comet-Publish: id=124&news=hi`, a form of fields and values, which may
// be repeated, with at most 8 KiB and 64 fields in all. It is published when the
// response is over and was 2xx or 3xx, and never sent to the client.
//
// The header of a request means nothing, and is taken out too.
type FromResponses struct {
	// Store is the name of the store. Default: "default".
	Store string `json:"store,omitempty"`

	publisher applicationPublisher
}

// CaddyModule returns the Caddy module information.
func (FromResponses) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.comet_from_responses",
		New: func() caddy.Module { return new(FromResponses) },
	}
}

// Provision takes the store into use.
func (f *FromResponses) Provision(ctx caddy.Context) error {
	if err := f.publisher.provision(ctx, f.Store); err != nil {
		return err
	}
	f.publisher.app.responses = append(f.publisher.app.responses, f)
	return nil
}

// ServeHTTP has the next handlers answer, and publishes what their response says.
func (f *FromResponses) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	delete(r.Header, headerPublish) // an application may send back what it is sent
	aw := newApplicationWriter(w, true)
	return aw.serve(r, next, func() { f.publish(r, aw.said) })
}

func (f *FromResponses) publish(r *http.Request, said []string) {
	if said == nil {
		return
	}
	batch, e := wire.ReadResponse(said)
	if e == nil {
		e = publishError(f.publisher.publish(batch))
	}
	if e != nil {
		f.publisher.refuse(zapcore.WarnLevel, r, e)
	}
}

var (
	_ caddy.Provisioner           = (*FromResponses)(nil)
	_ caddyhttp.MiddlewareHandler = (*FromResponses)(nil)
)
