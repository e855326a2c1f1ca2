package caddymodule

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/park"
)

// homes are where parked connections go when their next request comes.
var homes = homeRegistry{second: make(map[*http.Server]*park.Home)}

// homeRegistry knows the homes of all servers.
type homeRegistry struct {
	mu sync.Mutex

	// wrapped are those around the listeners of servers, as the listener wrapper
	// makes them, in the order in which they were made.
	wrapped []wrappedHome

	// second are further listeners of servers that have no such wrapper.
	second map[*http.Server]*park.Home
}

type wrappedHome struct {
	home   *park.Home
	server *caddyhttp.Server
}

// wrap returns a home around a listener of a server.
func (r *homeRegistry) wrap(ln net.Listener, server *caddyhttp.Server) *park.Home {
	var home *park.Home
	home = park.NewHome(ln, nil, time.Duration(server.IdleTimeout), func(c net.Conn) {
		if next := r.successor(server); next == nil || !next.Put(c) {
			_ = c.Close() // nobody listens there any more
		}
	}, func() {
		r.mu.Lock()
		r.wrapped = slices.DeleteFunc(r.wrapped, func(w wrappedHome) bool { return w.home == home })
		r.mu.Unlock()
		if r.successor(server) == nil {
			closeIdle(home)
		}
	})
	r.mu.Lock()
	r.wrapped = append(r.wrapped, wrappedHome{home, server})
	r.mu.Unlock()
	return home
}

// successor returns the newest wrapped home that listens where server does. It is
// nil when there is none.
func (r *homeRegistry) successor(server *caddyhttp.Server) *park.Home {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range slices.Backward(r.wrapped) {
		if w.server == server || server != nil && sharesListener(w.server, server) {
			return w.home
		}
	}
	return nil
}

// onlyRequest is the context key of a request after which its connection is
// closed, because its server is shut down.
type onlyRequest struct{}

// of returns the home of the connection of a request. It is nil when there is no
// server any more for a further request on it.
func (r *homeRegistry) of(request *http.Request) *park.Home {
	ctx := request.Context()
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if home := r.successor(server); home != nil {
		return home
	}
	std, _ := ctx.Value(http.ServerContextKey).(*http.Server)
	if std == nil || ctx.Value(onlyRequest{}) != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if home := r.second[std]; home != nil {
		return home
	}
	address, _ := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	var home *park.Home
	home = park.NewHome(nil, address, idleTimeout(std), func(c net.Conn) {
		if next := r.successor(server); next == nil || !next.Put(c) {
			serveLast(std, c)
		}
	}, func() {
		r.mu.Lock()
		delete(r.second, std)
		r.mu.Unlock()
		if r.successor(server) == nil {
			closeIdle(home)
		}
	})
	r.second[std] = home
	go func() {
		_ = std.Serve(home) // until it shuts down
		_ = home.Close()    // when it did before
	}()
	return home
}

// idleTimeout returns for how long a server waits for a further request.
func idleTimeout(server *http.Server) time.Duration {
	return cmp.Or(server.IdleTimeout, server.ReadTimeout)
}

// serveLast serves the request that was sent on a connection whose server was
// shut down meanwhile, and closes the connection then.
func serveLast(was *http.Server, c net.Conn) {
	server := &http.Server{
		Handler:           was.Handler,
		ReadTimeout:       was.ReadTimeout,
		ReadHeaderTimeout: was.ReadHeaderTimeout,
		WriteTimeout:      was.WriteTimeout,
		IdleTimeout:       was.IdleTimeout,
		MaxHeaderBytes:    was.MaxHeaderBytes,
		ErrorLog:          was.ErrorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if was.ConnContext != nil {
				ctx = was.ConnContext(ctx, c)
			}
			return context.WithValue(ctx, onlyRequest{}, true)
		},
	}
	server.SetKeepAlivesEnabled(false)
	_ = server.Serve(&oneConn{conn: c}) // its end is no news
}

// oneConn is a listener that accepts one connection.
type oneConn struct{ conn net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, net.ErrClosed
	}
	c := l.conn
	l.conn = nil
	return c, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func wrapListener(ln net.Listener, server *caddyhttp.Server) net.Listener {
	return homes.wrap(ln, server)
}
