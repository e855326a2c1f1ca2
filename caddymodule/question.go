package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

const (
	// askTime is in what time the application is to answer.
	askTime = 30 * time.Second

	// maxAsking is how many requests of one route are with the application at once.
	// The others wait their turn.
	maxAsking = 128
)

// verdict is what the application said, or why that is not known.
type verdict struct {
	status int
	err    error // why it is not known; then status is that of the answer

	limited bool     // to the fields
	fields  []string // that may be watched

	header   http.Header // of the response, without what is about a connection
	body     []byte      // likewise; a yes has none
	personal bool        // it sets a cookie that the request did not have: it is for nobody else
	asked    time.Time
}

func (v *verdict) isYes() bool { return v.err == nil && v.status >= 200 && v.status < 300 }

// undecided is the verdict when the application cannot be asked, or says nothing that
// counts.
func undecided(status int, format string, args ...any) *verdict {
	return &verdict{status: status, err: fmt.Errorf(format, args...)}
}

// question is a request to the application that all of one asker wait for. It is given up
// when none of them is left.
type question struct {
	ctx     context.Context // of the request
	cancel  context.CancelFunc
	waiting int           // guarded by Ask.mu
	done    chan struct{} // closed when there is a verdict
	verdict *verdict
}

// verdict returns what the application says of r, for which it is asked for uri, and
// whether it was asked with r itself. There is none when the client has left.
func (a *Ask) verdict(r *http.Request, uri string) (v *verdict, own bool) {
	asked, err := askRequest(r, uri)
	if err != nil {
		return undecided(http.StatusInternalServerError, "%w", err), false
	}
	who := askerOf(asked)
	a.mu.Lock()
	if v := a.kept.get(who); v != nil {
		a.mu.Unlock()
		return v, false
	}
	q := a.asking[who]
	if q == nil || q.ctx.Err() != nil {
		q, own = a.begin(asked, who), true
		a.asking[who] = q
	}
	q.waiting++
	a.mu.Unlock()

	v = a.await(r, q)
	if v != nil && v.personal && !own {
		q, own = a.begin(asked, who), true
		q.waiting++ // nobody else knows of it
		v = a.await(r, q)
	}
	return v, own
}

// await waits for the verdict. There is none when the client of r leaves before.
func (a *Ask) await(r *http.Request, q *question) *verdict {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if q.waiting--; q.waiting == 0 {
			q.cancel()
		}
	}()
	select {
	case <-q.done:
		return q.verdict
	case <-r.Context().Done():
		return nil
	case <-q.ctx.Done():
	}
	select {
	case <-q.done:
		return q.verdict
	default: // there are handlers that do not heed the context
		return a.late()
	}
}

// late is the verdict when there is none in time.
func (a *Ask) late() *verdict {
	return undecided(http.StatusGatewayTimeout, "the application has not answered `ask %s` in %s", a.URI, askTime)
}

// begin asks the application.
func (a *Ask) begin(asked *http.Request, who asker) *question {
	q := &question{done: make(chan struct{})}
	q.ctx, q.cancel = context.WithTimeout(context.WithoutCancel(asked.Context()), askTime)
	ctx := context.WithValue(q.ctx, askKey{}, a.URI)
	// What the request was told that is to be held, and its connection, are its own.
	for _, key := range []any{toldKey{}, connKey{}} {
		ctx = context.WithValue(ctx, key, nil)
	}
	r := asked.Clone(ctx) // which may outlive that one
	go func() {
		defer q.cancel()
		q.verdict = a.put(r)
		a.mu.Lock()
		if a.asking[who] == q {
			delete(a.asking, who)
			if q.verdict.isYes() && !q.verdict.personal {
				a.kept.add(who, q.verdict, q.verdict.asked.Add(a.lasts))
			}
		}
		a.mu.Unlock()
		close(q.done)
	}()
	return q
}

// askKey is the context key of the URI in a request to the application: where it comes to
// a hold route, that asks for it.
type askKey struct{}

// put puts a request to the application, when it is its turn.
func (a *Ask) put(r *http.Request) *verdict {
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-r.Context().Done():
		return a.late()
	}
	asked := time.Now()
	v := a.serve(r)
	v.asked = asked
	if c := a.logger.Check(zap.DebugLevel, "asked the application"); c != nil {
		c.Write(zap.String("uri", r.RequestURI), zap.Int("status", v.status), zap.Strings("fields", v.fields),
			zap.Duration("duration", time.Since(asked)), zap.Error(v.err))
	}
	return v
}

// serve has the site answer a request to the application.
func (a *Ask) serve(r *http.Request) (v *verdict) {
	response := askResponse{header: make(http.Header)}
	defer func() {
		switch failure := recover(); {
		case response.tooLarge:
			v = undecided(http.StatusBadGateway, "the response to `ask %s` is %d, and has more than the %d bytes that are passed on", a.URI, response.status, maxAskBody)
		case failure == http.ErrAbortHandler: //nolint:errorlint // nothing is wrapped around it
			v = undecided(http.StatusBadGateway, "the response to `ask %s` broke off", a.URI)
		case failure != nil:
			a.logger.Error("asking the application", zap.String("uri", r.RequestURI), zap.Any("failure", failure), zap.ByteString("stack", debug.Stack()))
			v = undecided(http.StatusInternalServerError, "a handler failed at `ask %s`", a.URI)
		default:
			v = a.read(r, &response)
		}
	}()
	r.Context().Value(caddyhttp.ServerCtxKey).(http.Handler).ServeHTTP(&response, r)
	return nil // but what it says
}

// read returns what a response to r says.
func (a *Ask) read(r *http.Request, response *askResponse) *verdict {
	switch {
	case response.status == 0:
		return undecided(http.StatusBadGateway, "nothing in this site answers `ask %s`", a.URI)
	case response.status < 200:
		return undecided(http.StatusBadGateway, "the response to `ask %s` is %d", a.URI, response.status)
	}
	v := &verdict{status: response.status, header: response.sent, body: response.body.Bytes()}
	cookies := v.header["Set-Cookie"]
	v.personal = setsNewCookie(r, cookies)
	for _, name := range connectionHeaders {
		delete(v.header, name)
	}
	said, says := v.header[headerFields]
	if !says || !v.isYes() {
		return v
	}
	fields, err := wire.ReadFieldList(said)
	if err != nil {
		return undecided(http.StatusBadGateway, "the Comet-Fields of the response to `ask %s` cannot be read: %w", a.URI, err)
	}
	v.limited, v.fields = true, fields
	if len(fields) == 0 {
		v.status, v.body = http.StatusForbidden, []byte("the application lets you watch nothing here\n")
		v.header = http.Header{"Content-Type": {wire.TextType}, "Set-Cookie": cookies}
	}
	return v
}

// setsNewCookie reports whether a response sets a cookie that its request does not have.
// One that it has is of the asker, and set anew by each response of some.
func setsNewCookie(r *http.Request, set []string) bool {
	return slices.ContainsFunc(set, func(line string) bool {
		cookie, err := http.ParseSetCookie(line)
		if err != nil {
			return true
		}
		_, err = r.Cookie(cookie.Name)
		return err != nil
	})
}
