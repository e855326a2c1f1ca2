package caddymodule

import (
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// MatchPath matches a request by its path as the client sent it or as it now is,
// so that a route is found whatever `rewrite`, `try_files` or `handle_path` did
// before. The patterns are those of Caddy's `path` matcher. The comet directive
// uses it for the paths of its routes.
type MatchPath caddyhttp.MatchPath

// CaddyModule returns the Caddy module information.
func (MatchPath) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.comet_path",
		New: func() caddy.Module { return new(MatchPath) },
	}
}

// Provision prepares the patterns.
func (m MatchPath) Provision(ctx caddy.Context) error {
	return caddyhttp.MatchPath(m).Provision(ctx)
}

// MatchWithError reports whether the path matches.
func (m MatchPath) MatchWithError(r *http.Request) (bool, error) {
	paths := caddyhttp.MatchPath(m)
	if original := originalURL(r); original != nil && original.Path != r.URL.Path {
		sent := *r
		sent.URL = original
		if matched, err := paths.MatchWithError(&sent); matched || err != nil {
			caddyhttp.SetVar(r.Context(), queryVar, original.RawQuery)
			return matched, err
		}
	}
	caddyhttp.SetVar(r.Context(), queryVar, nil)
	return paths.MatchWithError(r)
}

// queryVar names the variable that has the query that goes with the path that
// matched, when that is not the present one.
const queryVar = "comet.query"

// originalURL returns the URL as the client sent it.
func originalURL(r *http.Request) *url.URL {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok {
		return nil
	}
	return original.URL
}

// queryOf returns the query that goes with the path that made a request reach a
// handler: as the client sent it, or as a rewrite made it.
func queryOf(r *http.Request) string {
	if query, ok := caddyhttp.GetVar(r.Context(), queryVar).(string); ok {
		return query
	}
	return r.URL.RawQuery
}

var (
	_ caddy.Provisioner                 = (*MatchPath)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchPath)(nil)
)
