package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Touch is a handler that bumps fields when an application has done what a request
// asked for: when the response is over and was 2xx or 3xx. A field becomes the next
// whole number after its value, 1 when it has none.
//
// It never changes the response. A field whose value is not a number is left as it
// is, and so is one that the request itself watches, on a hold route that forwards:
// else each answer would wake all again.
type Touch struct {
	// Store is the name of the store. Default: "default".
	Store string `json:"store,omitempty"`

	// Fields are the names of the fields. Placeholders expand to literal text, of
	// the request as it reached this handler; a name with one that expands to
	// nothing, or to something with a `/` or a control character in it, is left out.
	Fields []string `json:"fields,omitempty"`

	publisher applicationPublisher
	patterns  []pattern
	warned    atomic.Bool // of a field that cannot be bumped, or a full store
	circular  atomic.Bool // and of one that is not bumped by who watches it
}

// CaddyModule returns the Caddy module information.
func (*Touch) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.comet_touch",
		New: func() caddy.Module { return new(Touch) },
	}
}

// Provision checks the options and takes the store into use.
func (t *Touch) Provision(ctx caddy.Context) error {
	if len(t.Fields) == 0 {
		return errors.New("a touch names no field")
	}
	for _, field := range t.Fields {
		p, err := parseTouched(field)
		if err != nil {
			return err
		}
		t.patterns = append(t.patterns, p)
	}
	if err := t.publisher.provision(ctx, t.Store); err != nil {
		return err
	}
	t.publisher.app.touches = append(t.publisher.app.touches, t)
	return nil
}

// parseTouched parses the name of a field to be touched.
func parseTouched(field string) (pattern, error) {
	p, err := parsePattern(field)
	if err == nil && !p.isPlain() {
		err = fmt.Errorf("the field %s has a star in it, and what is touched has a name", field)
	}
	return p, err
}

// ServeHTTP has the next handlers answer, and touches the fields when they have.
func (t *Touch) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	batch, wrong := t.expand(r)
	told := withTold(r)
	aw := newApplicationWriter(w, false)
	return aw.serve(r, next, func() {
		for _, err := range wrong {
			t.publisher.refuse(zapcore.DebugLevel, r, wire.Errorf(http.StatusBadRequest, "%v", err))
		}
		t.publish(r, t.leaveOut(told.watched, r, batch))
	})
}

// expand returns what a request touches, and what is wrong with the names that are
// left out. It is called before the next handlers, which may rewrite the request.
func (t *Touch) expand(r *http.Request) (batch []store.Publication, wrong []error) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	batch = make([]store.Publication, 0, len(t.patterns))
	for _, p := range t.patterns {
		expanded, err := p.expand(repl)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		batch = append(batch, store.Publication{Field: expanded.name(), Bump: true})
	}
	return batch, wrong
}

// leaveOut takes out of a batch what r itself watches.
func (t *Touch) leaveOut(watched []string, r *http.Request, batch []store.Publication) []store.Publication {
	return slices.DeleteFunc(batch, func(p store.Publication) bool {
		circular := slices.Contains(watched, p.Field)
		if circular && !t.circular.Swap(true) {
			t.publisher.logger.Warn("a request that watches a field does not touch it, or each answer would wake all again: have the matcher of the touch leave out what is held",
				append(callerOf(r), zap.String("field", p.Field))...)
		}
		return circular
	})
}

// publish bumps the fields that can be.
//
// One that the store does not know is made, also when nobody watches it: who comes
// later, with a cursor of before or with the value 0, is to be told.
func (t *Touch) publish(r *http.Request, batch []store.Publication) {
	for len(batch) > 0 {
		err := t.publisher.publish(batch)
		if err == nil {
			return
		}
		level := zapcore.WarnLevel
		if t.warned.Swap(true) {
			level = zapcore.DebugLevel // anybody can repeat it
		}
		t.publisher.refuse(level, r, publishError(err))
		bump := (*store.BumpError)(nil)
		if !errors.As(err, &bump) {
			return
		}
		batch = slices.DeleteFunc(batch, func(p store.Publication) bool { return p.Field == bump.Field })
	}
}

var (
	_ caddy.Provisioner           = (*Touch)(nil)
	_ caddyhttp.MiddlewareHandler = (*Touch)(nil)
)
