package caddymodule

import (
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// outcome is how a request to a hold route ended.
type outcome uint8

const (
	outcomeNow     outcome = iota // there was something to tell, or the client did not want to wait
	outcomeMissed                 // there is a gap to tell
	outcomeWake                   // there was nothing to tell at first
	outcomeTimeout                // nor later
	outcomeGone                   // its route is not there any more
	outcomeEnded                  // the admin API ended it
	outcomeExit                   // the process ends
	outcomeLeft                   // the client closed its connection
	outcomeRefused                // it asked for what it cannot be given
	outcomeDropped                // the client did not read

	outcomes // so many there are
)

// String returns what logs and metrics call it.
func (o outcome) String() string {
	return [outcomes]string{"now", "missed", "wake", "timeout", "gone", "ended", "exit", "left", "refused", "dropped"}[o]
}

// held is a request that is held, with what is needed to answer it. There may be
// a million, so it has no more. Whoever keeps it waiting is its holder.
type held struct {
	pool    *pool
	waiter  waiter
	address *netip.Addr // of the client, when that is not its peer's
	style   unique.Handle[wire.Style]
	since   moment // when it came
	id      uint64 // set by pool.enter

	// looking is held while another goroutine looks at the request, to find its
	// route after a reload: nothing of a request may be used by two at once.
	looking sync.Mutex
	over    bool // guarded by looking: the wait is over, nobody else may look

	counted bool // as one of max_held_per_client

	// Guarded by pool.mu.
	route      *Hold // that holds it now: the one that it reached, or that of a later configuration
	next, prev *held // in the pool
}

// waiter is what a held request waits with, on a goroutine or without one.
type waiter interface {
	// end is called when the request is to be answered though there is nothing to
	// tell. It must not block. It may be called at any time and more than once: the
	// first call counts, unless the store woke the request before.
	end(outcome)

	// look returns the request for looking at it, as server would see it. Only one
	// may look at a time: held.looking is locked.
	look(server *caddyhttp.Server) (*http.Request, error)

	fields() []string          // that it watches
	server() *caddyhttp.Server // that it came to
	remote() string            // its peer
	protocol() string          // HTTP/1.1, say
}

// asked is what a request to be held asks for.
type asked struct {
	route    *Hold
	query    store.Query
	style    unique.Handle[wire.Style]
	since    moment
	timeout  time.Duration
	bodySize int
	first    store.Result // what there was when it came: a stream begins with it
	accept   string       // of a WebSocket: what answers its key; empty: there was none
	granted  []string     // all that the application lets it watch, where that has said so

	// Of one that the application answers.
	key   *shareKey // nil: it is not shared, by the route that it came to
	waits *passage  // it waits for its turn already; nil: it watches first
	head  []byte    // as it came, where that is known
}

// held fills in h, of the request r.
func (a *asked) held(h *held, r *http.Request, w waiter) {
	h.pool, h.route, h.waiter = a.route.pool, a.route, w
	h.style, h.since = a.style, a.since
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	client := clientAddr(r)
	if err != nil || peer.Addr().Unmap() != client {
		h.address = &client
	}
	h.counted = client.IsValid() && (err != nil || !peer.Addr().Unmap().IsLoopback())
}

// client returns the address of the client. It is not valid when it has none.
func (h *held) client() netip.Addr {
	if h.address != nil {
		return *h.address
	}
	peer, _ := netip.ParseAddrPort(h.waiter.remote()) // it was one
	return peer.Addr().Unmap()
}

// moment is a time, as nanoseconds since this program started.
type moment int64

var programStart = time.Now()

func now() moment { return moment(time.Since(programStart)) }

func (m moment) time() time.Time { return programStart.Add(time.Duration(m)) }

func (m moment) elapsed() time.Duration { return time.Duration(now() - m) }

// heldList is a list of held requests in the order of their coming.
type heldList struct {
	first, last *held
	len         int
}

func (l *heldList) push(h *held) {
	h.prev = l.last
	if l.last != nil {
		l.last.next = h
	} else {
		l.first = h
	}
	l.last = h
	l.len++
}

func (l *heldList) remove(h *held) {
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		l.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		l.last = h.prev
	}
	h.next, h.prev = nil, nil
	l.len--
}

// all returns those of which only says so.
func (l *heldList) all(only func(*held) bool) []*held {
	var all []*held
	for h := l.first; h != nil; h = h.next {
		if only(h) {
			all = append(all, h)
		}
	}
	return all
}

// stopLooking has nobody look at the request any more.
func (h *held) stopLooking() {
	h.looking.Lock()
	h.over = true
	h.looking.Unlock()
}

// holder keeps requests waiting. It is all that the handler knows of how that is
// done: on the goroutine that serves the request, or without one. When it returns a
// goroutineHold, the goroutine of the request is to serve that. An error means that
// the request was not held, and nothing was written.
type holder interface {
	// hold keeps the request r until the store wakes it, it is ended, its time is
	// over or the client leaves, and sees to it that the route answers it.
	hold(w http.ResponseWriter, r *http.Request, a asked) (goroutineHold, error)

	// stream answers the request r in parts.
	stream(w http.ResponseWriter, r *http.Request, a asked) (goroutineHold, error)

	// forward keeps the request r waiting as hold does, until it may go on to its
	// application. Without a goroutineForwarded it comes again, when it may.
	forward(w http.ResponseWriter, r *http.Request, a asked) (*goroutineForwarded, error)
}

// goroutineHold is a held request that the goroutine of the request serves.
type goroutineHold interface {
	// wait waits until there is something to do.
	wait()

	// proceed does it. It reports whether there will be more.
	proceed(w http.ResponseWriter) (more bool)
}

// holding returns the route that holds h now.
func (h *held) holding() *Hold {
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	return h.route
}

// onGoroutine holds a request on the goroutine that serves it.
type onGoroutine struct{}

func (onGoroutine) hold(w http.ResponseWriter, r *http.Request, a asked) (goroutineHold, error) {
	g := &goroutineWait{onRequest: onRequest{r}, asked: a, ready: make(chan struct{}, 1)}
	g.ended.Store(notEnded)
	a.held(&g.held, r, g)
	if err := g.pool.enter(&g.held); err != nil {
		return nil, err
	}
	watch, result, err := g.pool.store.Watch(a.query, g)
	if watch == nil {
		route := g.pool.exit(&g.held)
		g.stopLooking()
		if err == nil {
			route.answer(w, r, a, result, outcomeNow)
		}
		return nil, err
	}
	g.watch = watch
	g.timer = time.AfterFunc(a.timeout, func() { g.end(outcomeTimeout) })
	return g, nil
}

// goroutineWait is a held request for which its goroutine waits.
type goroutineWait struct {
	held
	onRequest
	asked  asked
	watch  *store.Watch
	timer  *time.Timer
	ready  chan struct{} // there is a result, or the wait is ended
	result atomic.Pointer[store.Result]
	ended  atomic.Int32 // an outcome, or notEnded
}

const notEnded = -1

// Wake implements store.Watcher.
func (g *goroutineWait) Wake(result store.Result) {
	g.result.Store(&result)
	g.signal()
}

func (g *goroutineWait) end(why outcome) {
	if g.ended.CompareAndSwap(notEnded, int32(why)) {
		g.signal()
	}
}

func (g *goroutineWait) signal() {
	select {
	case g.ready <- struct{}{}:
	default: // it is told already
	}
}

func (g *goroutineWait) wait() {
	select {
	case <-g.ready:
	case <-g.request.Context().Done():
		g.ended.CompareAndSwap(notEnded, int32(outcomeLeft))
	}
}

// proceed answers the request.
func (g *goroutineWait) proceed(w http.ResponseWriter) (more bool) {
	g.timer.Stop()
	result, why := g.over()
	route := g.pool.exit(&g.held)
	g.stopLooking()
	route.answer(w, g.request, g.asked, result, why)
	return false
}

func (g *goroutineWait) over() (store.Result, outcome) {
	if g.result.Load() == nil {
		if result, ended := g.watch.End(); ended {
			return result, endedAs(outcome(g.ended.Load()), result)
		}
		for g.result.Load() == nil { // the store is about to wake it
			<-g.ready
		}
	}
	return *g.result.Load(), outcomeWake
}

func (g *goroutineWait) fields() []string { return g.asked.query.Fields }

// onRequest is the part of a waiter that has its request.
type onRequest struct{ request *http.Request }

func (o onRequest) look(*caddyhttp.Server) (*http.Request, error) { return o.request, nil }
func (o onRequest) remote() string                                { return o.request.RemoteAddr }
func (o onRequest) protocol() string                              { return o.request.Proto }

func (o onRequest) server() *caddyhttp.Server {
	server, _ := o.request.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server
}

// endedAs returns how a request ended that was ended for a reason, and has a
// result all the same.
func endedAs(why outcome, result store.Result) outcome {
	if result.Ready() && why != outcomeLeft && why != outcomeExit {
		return outcomeWake
	}
	return why
}

var (
	_ holder        = onGoroutine{}
	_ goroutineHold = (*goroutineWait)(nil)
	_ store.Watcher = (*goroutineWait)(nil)
	_ waiter        = (*goroutineWait)(nil)
)
