package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/caddyserver/caddy/v2"
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
	home *park.Home
	from *wrappedListener
}

// wrap returns a home around a listener of a server.
func (r *homeRegistry) wrap(ln net.Listener, server *caddyhttp.Server) *park.Home {
	from := &wrappedListener{Listener: ln}
	var home *park.Home
	home = park.NewHome(from, nil, time.Duration(server.IdleTimeout), func(c net.Conn) {
		if next := r.successor(c); next == nil || !next.Put(c) {
			_ = c.Close() // nobody listens there any more
		}
	}, func() {
		r.mu.Lock()
		r.wrapped = slices.DeleteFunc(r.wrapped, func(w wrappedHome) bool { return w.home == home })
		r.mu.Unlock()
		r.closeHomeless()
	})
	r.mu.Lock()
	r.wrapped = append(r.wrapped, wrappedHome{home, from})
	r.mu.Unlock()
	return home
}

// successor returns the newest wrapped home where c could have been accepted. It
// is nil when there is none. One that stands below TLS is none for a connection
// with TLS.
func (r *homeRegistry) successor(c net.Conn) *park.Home {
	socket, ok := socketOf(bare(c)).(net.Conn)
	if !ok {
		return nil
	}
	local, withTLS := socket.LocalAddr(), isTLS(bare(c))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range slices.Backward(r.wrapped) {
		if !leadsTo(local, w.home.Addr()) {
			continue
		}
		if speaks := w.from.speaks.Load(); speaks == 0 || (speaks == speaksTLS) == withTLS {
			return w.home
		}
	}
	return nil
}

// leadsTo reports whether a connection to an address comes to who listens at
// another.
func leadsTo(to, listener net.Addr) bool {
	if to.Network() != listener.Network() {
		return false
	}
	at, ok := listener.(*net.TCPAddr)
	if !ok || !at.IP.IsUnspecified() {
		return to.String() == listener.String()
	}
	tcp, ok := to.(*net.TCPAddr)
	return ok && tcp.Port == at.Port
}

// closeHomeless closes the connections between requests that no server waits for
// any more.
func (r *homeRegistry) closeHomeless() {
	closeIdle(func(c *park.Conn, home *park.Home) bool {
		return home != nil && home.Closed() && r.successor(c) == nil
	})
}

// wrappedListener is a listener of a server, below a home.
type wrappedListener struct {
	net.Listener
	speaks atomic.Int32 // what its connections speak, when one has come
}

// What connections speak.
const (
	speaksPlain = 1 + iota
	speaksTLS
)

func isTLS(c net.Conn) bool {
	if c, ok := c.(*park.Conn); ok {
		return c.HasTLS()
	}
	_, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	return ok
}

// noDescriptors says that the process has run out of descriptors. It does so now
// and then: as long as it lasts, every attempt to accept fails.
var noDescriptors = rate.Sometimes{First: 1, Interval: time.Minute}

// Accept implements net.Listener.
func (l *wrappedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	switch {
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		noDescriptors.Do(func() {
			caddy.Log().Named("comet").Error("no connection can be accepted: raise the limit of file descriptors (docs/operations.md)", zap.Error(err))
		})
	case err == nil && isTLS(c):
		l.speaks.Store(speaksTLS)
	case err == nil:
		l.speaks.Store(speaksPlain)
	}
	return c, err
}

// onlyRequest is the context key of a request after which its connection is
// closed, because its server is shut down.
type onlyRequest struct{}

// of returns the home of a connection on which a request came. It is nil when there
// is no server any more for a further one.
func (r *homeRegistry) of(request *http.Request, c net.Conn) *park.Home {
	if home := r.successor(c); home != nil {
		return home
	}
	ctx := request.Context()
	std, _ := ctx.Value(http.ServerContextKey).(*http.Server)
	if std == nil || ctx.Value(onlyRequest{}) != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if home := r.second[std]; home != nil {
		return home
	}
	home := park.NewHome(nil, c.LocalAddr(), idleTimeout(std), func(c net.Conn) {
		if next := r.successor(c); next == nil || !next.Put(c) {
			serveLast(std, c)
		}
	}, func() {
		r.mu.Lock()
		delete(r.second, std)
		r.mu.Unlock()
		r.closeHomeless()
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

// lastServed is how many connections serveLast serves.
var lastServed atomic.Int64

// serveLast serves the request that was sent on a connection whose server was
// shut down meanwhile, and closes the connection then.
func serveLast(was *http.Server, c net.Conn) {
	lastServed.Add(1)
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
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				lastServed.Add(-1)
			}
		},
	}
	server.SetKeepAlivesEnabled(false)
	_ = server.Serve(&oneConn{conn: c}) // its end is no news
}

// once returns a home from where a connection is given to a server, of which it is
// known only what it was configured with, for one request.
func (r *homeRegistry) once(server *caddyhttp.Server, c net.Conn) *park.Home {
	std := &http.Server{
		Handler:           server,
		ReadTimeout:       time.Duration(server.ReadTimeout),
		ReadHeaderTimeout: time.Duration(server.ReadHeaderTimeout),
		WriteTimeout:      time.Duration(server.WriteTimeout),
		IdleTimeout:       time.Duration(server.IdleTimeout),
		MaxHeaderBytes:    server.MaxHeaderBytes,
		ConnContext:       withConn,
	}
	home := park.NewHome(nil, c.LocalAddr(), 0, func(c net.Conn) { serveLast(std, c) }, func() {})
	_ = home.Close() // what comes to it is an orphan
	return home
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
