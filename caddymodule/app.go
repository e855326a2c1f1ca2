package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// App is the Comet app: the stores that the handlers publish to and hold
// requests against, and their limits. A store lives as long as any configuration
// uses it, so reloads leave it alone, and it is written at an orderly exit and
// read at the next start.
//
// It needs no configuration: a handler that names no store uses the one called
// "default", and a store that is not configured has the default limits.
type App struct {
	// Stores are the limits of stores by their name: up to 64 letters, digits,
	// hyphens and underscores.
	Stores map[string]*StoreConfig `json:"stores,omitempty"`

	// Parking is how held requests of HTTP/1 wait: "on", parked, without a
	// goroutine; "off", each on the goroutine that serves it, as those of HTTP/2
	// and HTTP/3 do; "trim_tls", parked, and what a TLS connection keeps from its
	// handshake is let go. Elsewhere than on Linux all is held on goroutines.
	// Default: on.
	Parking string `json:"parking,omitempty"`

	ctx       caddy.Context
	logger    *zap.Logger
	pools     map[string]*pool // those that this configuration uses
	stopped   atomic.Bool      // it left its stores, or is about to
	servers   map[*caddyhttp.Server]bool
	holder    holder
	holders   []*Hold
	publish   []*Publish
	touches   []*Touch
	responses []*FromResponses
	findOnce  sync.Once
	found     []route
}

// DefaultStore is the name of the store of handlers that name none.
const DefaultStore = "default"

var storeName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "comet",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision checks the limits and takes the configured stores into use.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.pools = make(map[string]*pool)
	a.servers = make(map[*caddyhttp.Server]bool)
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	if err := a.chooseHolder(); err != nil {
		return err
	}
	for name, config := range a.Stores {
		if config == nil {
			return fmt.Errorf("store %q has no configuration", name)
		}
		if err := config.validate(); err != nil {
			return fmt.Errorf("store %q: %w", name, err)
		}
		if _, err := a.use(name); err != nil {
			return err
		}
	}
	return nil
}

// The values of App.Parking.
const (
	parkingOn   = "on"
	parkingOff  = "off"
	parkingTrim = "trim_tls"
)

// chooseHolder sets how requests are held.
func (a *App) chooseHolder() error {
	a.holder = onGoroutine{}
	if a.Parking == "" {
		a.Parking = parkingOn
	}
	if _, err := parseParking(a.Parking); err != nil {
		return fmt.Errorf("parking: %w", err)
	}
	if a.Parking == parkingOff {
		return nil
	}
	parking, err := newParking(a.Parking == parkingTrim, a.logger)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil
	case err != nil:
		return fmt.Errorf("parking: %w", err)
	}
	a.holder = parking
	return nil
}

// use returns the store of that name and keeps it until Cleanup.
func (a *App) use(name string) (*pool, error) {
	if name == "" {
		name = DefaultStore
	}
	if !storeName.MatchString(name) {
		return nil, fmt.Errorf("the store name %q is not up to 64 letters, digits, hyphens and underscores", name)
	}
	if p, ok := a.pools[name]; ok {
		return p, nil
	}
	p, err := loadPool(name, a.limits(name))
	if err != nil {
		return nil, err
	}
	a.pools[name] = p
	return p, nil
}

func (a *App) limits(name string) limits {
	return a.Stores[name].limits()
}

// server returns the server that a handler is provisioned in, and has it tell
// what the handlers need to know: the connection of a request, and the exit.
func (a *App) server(ctx caddy.Context) *caddyhttp.Server {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	if !a.servers[server] {
		a.servers[server] = true
		server.RegisterConnContext(withConn)
		server.RegisterConnState(connState)
		server.RegisterOnShutdown(func() {
			if caddy.Exiting() {
				drainAll(a.gracePeriod())
			}
		})
		server.RegisterOnStop(func(ctx context.Context) error {
			if caddy.Exiting() {
				awaitDrained(ctx)
			}
			return nil
		})
	}
	return server
}

// gracePeriod returns how long Caddy waits for requests at an exit, zero when
// that is as long as they take.
func (a *App) gracePeriod() time.Duration {
	if app, err := a.ctx.AppIfConfigured("http"); err == nil {
		return time.Duration(app.(*caddyhttp.App).GracePeriod)
	}
	return 0
}

// Start takes over the stores, unless another configuration has them: then its
// Stop hands them over, since only then is it certain that this one stays. It
// returns an error when another process has one of them.
func (a *App) Start() error {
	for _, name := range sortedKeys(a.pools) {
		if err := a.pools[name].open(); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(a.pools) {
		p := a.pools[name]
		p.offer(a)
		a.logger.Info("store", append([]zap.Field{zap.String("store", name)}, a.limits(name).fields()...)...)
	}
	a.logSites()
	a.warnOfMistakes()
	return nil
}

// Stop hands the stores over to the configuration that follows, with the
// requests that are held. Those that it does not hold any more are answered.
func (a *App) Stop() error {
	a.leave()
	return nil
}

func (a *App) leave() {
	if caddy.Exiting() {
		return // who is held is drained
	}
	a.stopped.Store(true)
	for _, p := range a.pools {
		p.leave(a)
	}
}

// Cleanup lets go of the stores. The last configuration to do so has them
// written.
func (a *App) Cleanup() error {
	a.leave() // Caddy does not stop what did not start
	var first error
	for name := range a.pools {
		if _, err := pools.Delete(name); err != nil && first == nil {
			first = err
		}
	}
	a.pools = nil
	return first
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
