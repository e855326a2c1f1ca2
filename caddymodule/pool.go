package caddymodule

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// pools are the stores of all configurations, by name.
var pools = caddy.NewUsagePool()

// pool is a store with the requests that are held against it. It outlives
// configurations: it is there as long as any of them uses it.
//
// One configuration owns it, whose limits are in force. The next one is offered
// at its Start and gets it at the owner's Stop, so that one that fails to start
// has changed nothing.
type pool struct {
	name     string
	store    *store.Store
	openOnce sync.Once
	openErr  error    // set by openOnce: another process has the store
	locked   *os.File // set by openOnce: see lock
	opened   atomic.Bool
	metrics  holdMetrics

	// gaps spreads the answers to cursors of another epoch: after a restart
	// every client has one, and what they are told makes them all ask the
	// application at once.
	gaps *rate.Limiter

	mu       sync.Mutex // guards what follows; the store's own lock is taken within it, never around it
	limits   limits
	owner    *App
	offered  *App
	held     heldList
	lastID   uint64 // given to one of them
	clients  map[netip.Prefix]int
	draining bool
	sessions map[string]*stream // the streams by their names
}

// promptGaps is how many cursors of another epoch are answered at once in a
// second. The rest are spread over `retry`.
const promptGaps = 100

func loadPool(name string, l limits) (*pool, error) {
	p, _, err := pools.LoadOrNew(name, func() (caddy.Destructor, error) {
		return &pool{
			name:     name,
			store:    store.New(l.Limits),
			metrics:  newHoldMetrics(name),
			gaps:     rate.NewLimiter(promptGaps, promptGaps),
			limits:   l,
			clients:  make(map[netip.Prefix]int),
			sessions: make(map[string]*stream),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return p.(*pool), nil
}

func (p *pool) logger() *zap.Logger {
	return caddy.Log().Named("comet").With(zap.String("store", p.name))
}

func (p *pool) path() string {
	return filepath.Join(caddy.AppDataDir(), "comet", p.name+".store")
}

// open locks the store's file and reads what the last exit wrote, the first
// time it is called. It is not done when the pool is made, because a configuration
// that is only validated makes one too; requests call it as well, since Caddy may
// start to serve before the app is started. It returns an error when another process
// has the store: then this one may neither publish to it nor hold against it.
func (p *pool) open() error {
	p.openOnce.Do(func() {
		locked, lockErr := p.lock()
		if inUse := (*inUseError)(nil); errors.As(lockErr, &inUse) {
			p.openErr = inUse
			return
		}
		p.locked = locked
		opened, err := p.store.Open(p.path())
		p.opened.Store(true)
		log := p.logger().With(zap.String("file", p.path()))
		switch {
		case err != nil:
			log.Error("the store's file cannot be used: values are not kept over a restart", zap.Error(err))
		case opened.SetAside != "":
			log.Error("the store's file cannot be read: it was set aside, and the store starts empty",
				zap.String("set_aside", opened.SetAside), zap.Error(opened.Cause))
		case opened.Crashed:
			log.Warn("the last exit was not orderly: values are those of the exit before it, and older cursors have a gap",
				zap.Int("fields", opened.Fields), zap.Time("written", opened.Written))
		case !opened.Written.IsZero():
			log.Info("read the store", zap.Int("fields", opened.Fields), zap.Time("written", opened.Written))
		}
		if err == nil && lockErr != nil {
			log.Error("the store's file cannot be locked: a second process that uses it would not be noticed", zap.Error(lockErr))
		}
	})
	return p.openErr
}

// Destruct writes the store, when the last configuration that used it is gone.
func (p *pool) Destruct() error {
	p.store.Close()
	forgetMetrics(p.name)
	if !p.opened.Load() {
		return nil
	}
	err := p.store.Save(p.path())
	if err != nil {
		p.logger().Error("writing the store", zap.String("file", p.path()), zap.Error(err))
	}
	unlock(p.locked)
	return err
}

// offer gives the pool to a, at once or when its owner stops.
func (p *pool) offer(a *App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owner == nil {
		p.setOwner(a)
	} else {
		p.offered = a
	}
}

func (p *pool) setOwner(a *App) {
	p.owner = a
	if a != nil {
		p.limits = a.limits(p.name)
		p.store.SetLimits(p.limits.Limits)
	}
}

// leave takes the pool from a, gives it to who was offered it, and moves the
// requests that a held there. It may be called more than once.
func (p *pool) leave(a *App) {
	p.mu.Lock()
	switch a {
	case p.owner:
		p.setOwner(p.offered)
		p.offered = nil
	case p.offered:
		p.offered = nil
	}
	moved := p.held.all(func(h *held) bool { return h.route.app == a })
	p.mu.Unlock()
	for _, h := range moved {
		p.move(h)
	}
}

// move gives h to the route of the present configuration that it would reach
// now, or ends it when there is none or it may not watch there what it does.
func (p *pool) move(h *held) {
	for {
		p.mu.Lock()
		from, to := h.route.app, p.owner
		p.mu.Unlock()
		if from == to { // leave has not come yet, and will see h
			return
		}
		var route *Hold
		h.looking.Lock()
		over := h.over
		if !over && to != nil {
			route = p.routeIn(to, h)
		}
		h.looking.Unlock()
		if over {
			return
		}
		if route == nil {
			h.waiter.end(outcomeGone)
			return
		}
		p.mu.Lock()
		h.route = route
		p.mu.Unlock()
		if !to.stopped.Load() {
			return
		}
		// It left meanwhile, perhaps before it could see h.
	}
}

// routeIn returns the route of a that is to hold h, nil if there is none. Matchers
// of others are asked, on a goroutine where nobody recovers what they panic with.
func (p *pool) routeIn(a *App, h *held) (route *Hold) {
	defer func() {
		if failure := recover(); failure != nil {
			p.logger().Error("looking for the route of a held request", zap.Any("panic", failure))
			route = nil
		}
	}()
	return a.holding(h)
}

// What keeps a request from being held, or from going on.
var (
	errExiting   = errors.New("the server is shutting down")
	errMaxHeld   = errors.New("as many requests are held as max_held allows")
	errMaxClient = errors.New("as many requests of this client are held as max_held_per_client allows")
	errTurn      = errors.New("the turn of a request did not come in time: its application is too slow for them all, or its pace")
)

// enter counts h and lists it. It returns one of the errors above when no
// further one may be held.
func (p *pool) enter(h *held) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.draining:
		return errExiting
	case p.held.len >= p.limits.maxHeld:
		return errMaxHeld
	case h.counted && p.clients[clientOf(h.client())] >= p.limits.maxHeldPerClient:
		return errMaxClient
	}
	if h.counted {
		p.clients[clientOf(h.client())]++
	}
	p.lastID++
	h.id = p.lastID
	p.held.push(h)
	if h.route.app.stopped.Load() { // a reload came between, and leave did not see h
		go p.move(h)
	}
	return nil
}

// exit takes h off the list, and returns the route that is to answer it.
func (p *pool) exit(h *held) *Hold {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held.remove(h)
	if h.counted {
		client := clientOf(h.client())
		if p.clients[client]--; p.clients[client] == 0 {
			delete(p.clients, client)
		}
	}
	return h.route
}

// enterStream is enter for a stream, which can be found by its session.
func (p *pool) enterStream(s *stream) error {
	if err := p.enter(&s.held); err != nil {
		return err
	}
	p.mu.Lock()
	p.sessions[s.session] = s
	p.mu.Unlock()
	return nil
}

// exitStream is exit for a stream.
func (p *pool) exitStream(s *stream) *Hold {
	p.mu.Lock()
	delete(p.sessions, s.session)
	p.mu.Unlock()
	return p.exit(&s.held)
}

// heldNow returns how many requests are held.
func (p *pool) heldNow() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held.len
}

// drainAll answers all held requests, because the process is exiting. grace is
// for how long Caddy waits for them, zero when that is as long as it takes.
func drainAll(grace time.Duration) {
	pools.Range(func(_, value any) bool {
		value.(*pool).drain(grace)
		return true
	})
}

// drain ends all held requests, evenly over the time that is configured, and
// lets no further one in.
func (p *pool) drain(grace time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		return
	}
	p.draining = true
	over := p.limits.drain
	if grace > 0 {
		over = min(over, grace/5*4)
	}
	all := p.held.all(func(*held) bool { return true })
	go func() {
		start := time.Now()
		for i, h := range all {
			at := start.Add(over * time.Duration(i) / time.Duration(len(all)))
			if wait := time.Until(at); wait > time.Millisecond {
				time.Sleep(wait)
			}
			h.waiter.end(outcomeExit)
		}
	}()
}

// drainSlack is for how long an exit waits for answers to be written when all the
// time for draining is over.
const drainSlack = 5 * time.Second

// awaitDrained waits until all held requests are answered. Caddy itself does not
// know of those that are parked.
func awaitDrained(ctx context.Context) {
	var over time.Duration
	pools.Range(func(_, value any) bool {
		p := value.(*pool)
		p.mu.Lock()
		over = max(over, p.limits.drain)
		p.mu.Unlock()
		return true
	})
	ctx, cancel := context.WithTimeout(ctx, over+drainSlack)
	defer cancel()
	for ctx.Err() == nil && !isDrained() {
		closeAllIdle()
		time.Sleep(20 * time.Millisecond)
	}
}

func isDrained() bool {
	held := 0
	pools.Range(func(_, value any) bool {
		held += value.(*pool).heldNow()
		return held == 0
	})
	return held == 0 && !parkingBusy()
}
