package caddymodule

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sketch is what is kept of a request that is parked: as much as is needed to
// find its route after a reload, and to write its line of the access log. The
// request itself, with all that Caddy has made of it, takes ten times the memory.
type sketch struct {
	server *caddyhttp.Server
	conn   net.Conn // that the server had
	wire   string   // the request as the client sent it, without its body
	rest   *sketchRest
}

// sketchRest is what most requests do not have.
type sketchRest struct {
	url  string // what was made of its URL, empty if nothing
	vars map[string]any

	// Placeholders that are not there any more when the request was handled, and
	// their values.
	placeholders map[string]string

	// Of the access log.
	bodySize int
	fields   []zap.Field
}

// userPlaceholder has the name of the user, as the access log tells it.
const userPlaceholder = "http.auth.user.id"

// drawSketch returns a sketch of r, which came on conn and whose route has
// patterns.
func drawSketch(r *http.Request, conn net.Conn, patterns []pattern, bodySize int) sketch {
	ctx := r.Context()
	s := sketch{conn: conn}
	s.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)

	sent, _ := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	uri := sent.RequestURI
	if uri == "" {
		uri = r.RequestURI
	}
	var rest sketchRest
	if sent.URL == nil || *sent.URL != *r.URL {
		rest.url = r.URL.String()
	}
	size := len(r.Method) + len(uri) + len(r.Host) + 32
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v) + 4
		}
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteString(r.Method)
	b.WriteByte(' ')
	b.WriteString(uri)
	b.WriteByte(' ')
	b.WriteString(r.Proto)
	b.WriteString("\r\nHost: ")
	b.WriteString(r.Host)
	b.WriteString("\r\n")
	for name, values := range r.Header {
		for _, v := range values {
			b.WriteString(name)
			b.WriteString(": ")
			b.WriteString(v)
			b.WriteString("\r\n")
		}
	}
	b.WriteString("\r\n")
	s.wire = b.String()

	if vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		for name, value := range vars {
			switch name {
			case caddyhttp.ClientIPVarKey, caddyhttp.TrustedProxyVarKey, "start_time": // Caddy sets them anew
			default:
				if value != nil {
					if rest.vars == nil {
						rest.vars = make(map[string]any)
					}
					rest.vars[name] = value
				}
			}
		}
	}
	repl := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	keep := func(name string) {
		if value, ok := repl.GetString(name); ok && value != "" {
			if rest.placeholders == nil {
				rest.placeholders = make(map[string]string)
			}
			rest.placeholders[name] = value
		}
	}
	keep(userPlaceholder)
	for _, p := range patterns {
		for _, part := range p {
			if part.kind == placeholder {
				keep(strings.Trim(part.text, "{}"))
			}
		}
	}
	rest.bodySize = bodySize
	if rest.url != "" || rest.vars != nil || rest.placeholders != nil || bodySize > 0 {
		s.rest = &rest
	}
	return s
}

// request returns the request again as server sees it, as far as it is known:
// without a body, and for looking at only.
func (s *sketch) request(remote string, server *caddyhttp.Server) (*http.Request, error) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(s.wire)))
	if err != nil {
		return nil, err
	}
	r.RemoteAddr = remote
	if t, ok := s.conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := t.ConnectionState()
		r.TLS = &state
	}
	ctx := context.WithValue(context.Background(), http.LocalAddrContextKey, s.conn.LocalAddr())
	r = r.WithContext(withConn(ctx, s.conn))
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server)
	if s.rest != nil {
		if s.rest.url != "" {
			if r.URL, err = url.Parse(s.rest.url); err != nil {
				return nil, err
			}
		}
		for name, value := range s.rest.vars {
			caddyhttp.SetVar(r.Context(), name, value)
		}
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		for name, value := range s.rest.placeholders {
			repl.Set(name, value)
		}
	}
	return r, nil
}
