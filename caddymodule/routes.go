package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// route is a handler of ours where it stands in the configuration.
type route struct {
	server  *caddyhttp.Server
	path    []step // from the server to the handler
	handler caddyhttp.MiddlewareHandler
}

// step is a route on the way to a handler.
type step struct {
	sets caddyhttp.MatcherSets

	// before are the routes that stand before it and keep a request that they
	// match from it: terminal ones, and those of its group.
	before []caddyhttp.MatcherSets
}

// routes returns the handlers of ours in this configuration, in the order in
// which requests come to them. It may be called once the HTTP app is
// provisioned: from Start on.
//
// Caddy does not tell a handler where it stands. It is needed to know whether a
// held request still has a route after a reload, which names a site has, and
// what to log at the start. A handler inside a module of somebody else's is not
// found; see App.holds for what follows.
func (a *App) routes() []route {
	a.findOnce.Do(func() {
		app, err := a.ctx.AppIfConfigured("http")
		if err != nil {
			return
		}
		servers := app.(*caddyhttp.App).Servers
		for _, name := range sortedKeys(servers) {
			finder := routeFinder{server: servers[name]}
			finder.walk(servers[name].Routes, nil, 0)
			a.found = append(a.found, finder.found...)
		}
	})
	return a.found
}

type routeFinder struct {
	server *caddyhttp.Server
	found  []route
}

// maxDepth bounds how deep routes are followed: named routes can invoke each
// other.
const maxDepth = 64

func (f *routeFinder) walk(routes caddyhttp.RouteList, path []step, depth int) {
	if depth > maxDepth {
		return
	}
	for i, r := range routes {
		here := step{sets: r.MatcherSets}
		for _, earlier := range routes[:i] {
			if earlier.Terminal || earlier.Group != "" && earlier.Group == r.Group {
				here.before = append(here.before, earlier.MatcherSets)
			}
		}
		path := append(slices.Clone(path), here)
		for _, handler := range r.Handlers {
			switch h := handler.(type) {
			case *Hold, *Publish, *Touch, *FromResponses:
				f.found = append(f.found, route{f.server, path, handler})
			case *caddyhttp.Subroute:
				f.walk(h.Routes, path, depth+1)
			case *caddyhttp.Invoke:
				if named := f.server.NamedRoutes[h.Name]; named != nil {
					f.walk(caddyhttp.RouteList{*named}, path, depth+1)
				}
			}
		}
	}
}

// leads reports whether r would reach the handler: whether all matchers on the
// way match it, as it reached its handler then or as the client sent it.
func (rt *route) leads(r *http.Request) bool {
	sent := r
	if original := originalURL(r); original != nil {
		clone := *r
		clone.URL = original
		sent = &clone
	}
	matches := func(sets caddyhttp.MatcherSets, r *http.Request) bool {
		matched, err := sets.AnyMatchWithError(r)
		return matched || err != nil
	}
	for _, step := range rt.path {
		as := r
		if !matches(step.sets, as) {
			if as = sent; !matches(step.sets, as) {
				return false
			}
		}
		if slices.ContainsFunc(step.before, func(sets caddyhttp.MatcherSets) bool { return matches(sets, as) }) {
			return false
		}
	}
	return true
}

// isNamed reports whether the Host of r is a name that a matcher on the way asks
// for.
func (rt *route) isNamed(r *http.Request) bool {
	return slices.ContainsFunc(rt.hostMatchers(), func(m caddyhttp.MatchHost) bool {
		matched, err := m.MatchWithError(r)
		return matched && err == nil
	})
}

func (rt *route) hostMatchers() []caddyhttp.MatchHost {
	var hosts []caddyhttp.MatchHost
	for _, step := range rt.path {
		for _, set := range step.sets {
			for _, matcher := range set {
				switch m := matcher.(type) {
				case *caddyhttp.MatchHost:
					hosts = append(hosts, *m)
				case caddyhttp.MatchHost:
					hosts = append(hosts, m)
				}
			}
		}
	}
	return hosts
}

// site returns what a log line calls the site of the route: its names, or where
// it listens.
func (rt *route) site() string {
	var names []string
	for _, hosts := range rt.hostMatchers() {
		names = append(names, hosts...)
	}
	listen := strings.Join(rt.server.Listen, " ")
	if len(names) == 0 {
		return listen
	}
	return strings.Join(names, " ") + " on " + listen
}

// holding returns the route of this configuration that the held request would
// reach, if that lets it watch what it does; else nil.
//
// A handler that routes did not find may be reached by any request.
func (a *App) holding(h *held) *Hold {
	server := h.waiter.server()
	var (
		r     *http.Request // as seen by seen
		seen  *caddyhttp.Server
		known = make(map[*Hold]bool)
	)
	look := func(as *caddyhttp.Server) bool {
		var err error
		if r == nil || seen != as {
			r, err = h.waiter.look(as)
			seen = as
		}
		return err == nil
	}
	for _, rt := range a.routes() {
		hold, ok := rt.handler.(*Hold)
		if !ok {
			continue
		}
		known[hold] = true
		if server != nil && !sharesListener(server, rt.server) || !look(rt.server) || !rt.leads(r) {
			continue
		}
		if hold.allows(h, r) {
			return hold
		}
		return nil // a later route is not reached
	}
	for _, hold := range a.holders {
		if !known[hold] && look(hold.access.server) && hold.allows(h, r) {
			return hold
		}
	}
	return nil
}

// serverLike returns the server of the present configuration that listens where
// another did, nil if there is none.
func (p *pool) serverLike(server *caddyhttp.Server) *caddyhttp.Server {
	p.mu.Lock()
	owner := p.owner
	p.mu.Unlock()
	if owner == nil || server == nil || caddy.Exiting() {
		return nil
	}
	for _, rt := range owner.routes() {
		if sharesListener(rt.server, server) {
			return rt.server
		}
	}
	return nil
}

func sharesListener(a, b *caddyhttp.Server) bool {
	return slices.ContainsFunc(a.Listen, func(address string) bool {
		return slices.Contains(b.Listen, address)
	})
}

// logSites logs a line a site: who may publish there and what is held, what touches
// and which responses may publish, when there is such, and the stores that it uses,
// when there is another than the default one.
func (a *App) logSites() {
	type lines struct{ publish, hold, touch, responses, stores []string }
	sites := make(map[string]*lines)
	for _, rt := range a.routes() {
		site := rt.site()
		if sites[site] == nil {
			sites[site] = new(lines)
		}
		store := ""
		switch h := rt.handler.(type) {
		case *Publish:
			sites[site].publish = append(sites[site].publish, rt.paths()+" by "+h.who())
			store = h.pool.name
		case *Hold:
			sites[site].hold = append(sites[site].hold, rt.paths()+" on "+strings.Join(h.Fields, " ")+h.Forward.mark())
			store = h.pool.name
		case *Touch:
			sites[site].touch = append(sites[site].touch, rt.paths()+" on "+strings.Join(h.Fields, " "))
			store = h.publisher.pool.name
		case *FromResponses:
			sites[site].responses = append(sites[site].responses, rt.paths())
			store = h.publisher.pool.name
		}
		if !slices.Contains(sites[site].stores, store) {
			sites[site].stores = append(sites[site].stores, store)
		}
	}
	for _, site := range sortedKeys(sites) {
		fields := []zap.Field{
			zap.String("site", site),
			zap.Strings("publish", sites[site].publish),
			zap.Strings("hold", sites[site].hold),
		}
		if touch := sites[site].touch; len(touch) > 0 {
			fields = append(fields, zap.Strings("touch", touch))
		}
		if responses := sites[site].responses; len(responses) > 0 {
			fields = append(fields, zap.Strings("from_responses", responses))
		}
		if stores := sites[site].stores; len(stores) > 1 || stores[0] != DefaultStore {
			fields = append(fields, zap.Strings("stores", stores))
		}
		a.logger.Info("site", fields...)
	}
}

// paths returns what a log line calls the route in its site: its paths, and "*"
// for one that takes every request.
func (rt *route) paths() string {
	var paths []string
	all := true
	for _, step := range rt.path {
		for _, set := range step.sets {
			for _, matcher := range set {
				switch m := matcher.(type) {
				case *MatchPath:
					paths = append(paths, *m...)
				case *caddyhttp.MatchPath:
					paths = append(paths, *m...)
				case *caddyhttp.MatchHost, caddyhttp.MatchHost:
					// names the site
				default:
					all = false
				}
			}
		}
	}
	switch {
	case len(paths) > 0:
		return strings.Join(paths, " ")
	case all:
		return "*"
	}
	return "(matcher)"
}
