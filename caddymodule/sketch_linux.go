package caddymodule

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sketch is what is kept of a request that is parked: as much as is needed to
// find its route after a reload, and to write its line of the access log. The
// request itself, with all that Caddy has made of it, takes ten times the memory.
type sketch struct {
	to     *caddyhttp.Server
	conn   net.Conn // that the server had
	line   string   // the first of the request, as the client sent it
	header *string  // likewise
	rest   *sketchRest
}

// sketchRest is what most requests do not have.
type sketchRest struct {
	url  string // what was made of its URL, empty if nothing
	vars map[string]any

	// Placeholders that are not there any more when the request was handled, and
	// their values.
	placeholders map[string]string
}

// drawSketch returns a sketch of r, which came on conn to the route h. It has the head
// of the request as it came, if that is given.
func drawSketch(r *http.Request, conn net.Conn, h *Hold, head []byte) sketch {
	ctx := r.Context()
	s := sketch{conn: conn}
	s.to, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)

	sent, _ := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	uri := sent.RequestURI
	if uri == "" {
		uri = r.RequestURI
	}
	var rest sketchRest
	if sent.URL == nil || *sent.URL != *r.URL {
		rest.url = r.URL.String()
	}
	if head != nil {
		line, header, _ := bytes.Cut(head, []byte("\n"))
		s.line = string(bytes.TrimSuffix(line, []byte("\r")))
		s.header = h.texts.intern(bytes.TrimSuffix(bytes.TrimSuffix(header, []byte("\n")), []byte("\r")))
	} else {
		s.line = cmp.Or(sent.Method, r.Method) + " " + uri + " " + r.Proto
		s.header = h.texts.intern(headerOf(r))
	}

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
	for _, p := range h.patterns {
		for _, part := range p {
			if part.kind == placeholder {
				keep(strings.Trim(part.text, "{}"))
			}
		}
	}
	if rest.url != "" || rest.vars != nil || rest.placeholders != nil {
		s.rest = &rest
	}
	return s
}

// headerOf returns the header of r, as it might have come.
func headerOf(r *http.Request) []byte {
	b := append(append(append(make([]byte, 0, 512), "Host: "...), r.Host...), "\r\n"...)
	for _, name := range sortedKeys(r.Header) { // in one order, or none is like another
		if !httpguts.ValidHeaderFieldName(name) {
			continue // a handler made it
		}
		for _, v := range r.Header[name] {
			b = appendHeader(b, name, v)
		}
	}
	return b
}

// look returns the request again as server sees it, as far as it is known:
// without a body, and for looking at only.
func (s *sketch) look(server *caddyhttp.Server) (*http.Request, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(s.head())))
	if err != nil {
		return nil, err
	}
	r.RemoteAddr = s.remote()
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

// head returns the head of the request.
func (s *sketch) head() []byte { return []byte(s.line + "\r\n" + *s.header + "\r\n") }

func (s *sketch) server() *caddyhttp.Server { return s.to }
func (s *sketch) remote() string            { return s.conn.RemoteAddr().String() }
func (s *sketch) protocol() string          { return s.line[strings.LastIndexByte(s.line, ' ')+1:] }
