package caddymodule

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

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
)

// String returns what logs and metrics call it.
func (o outcome) String() string {
	return [...]string{"now", "missed", "wake", "timeout", "gone", "ended", "exit", "left", "refused"}[o]
}

// held is a request that is held, with what is needed to answer it. There may be
// a million, so it has no more. Whoever keeps it waiting is its holder.
type held struct {
	pool    *pool
	remote  string     // its peer
	address netip.Addr // of the client; not valid when it has none
	format  wire.Format
	fields  []string // that it watches
	since   moment   // when it came

	// Set by the holder before the request is in the pool. There is one of request
	// and sketch: the request as it reached the route, or what is kept of it.
	ender   ender
	request *http.Request
	sketch  *sketch

	// looking is held while another goroutine looks at the request, to find its
	// route after a reload: nothing of a request may be used by two at once.
	looking sync.Mutex
	over    bool // guarded by looking: the wait is over, nobody else may look

	counted bool // as one of max_held_per_client; here it takes no room

	id uint64 // set by pool.enter

	// Guarded by pool.mu.
	route      *Hold // that holds it now: the one that it reached, or that of a later configuration
	next, prev *held // in the pool
}

// asked is what a request to be held asks for.
type asked struct {
	query    store.Query
	timeout  time.Duration
	bodySize int
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

// look returns the request for looking at it, as a server of the configuration
// of a would see it. Only one may look at a time: looking is locked.
func (h *held) look(server *caddyhttp.Server) (*http.Request, error) {
	if h.sketch != nil {
		return h.sketch.request(h.remote, server)
	}
	return h.request, nil
}

// server returns the server that the request came to.
func (h *held) server() *caddyhttp.Server {
	if h.sketch != nil {
		return h.sketch.server
	}
	server, _ := h.request.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server
}

// protocol returns the protocol of the request: HTTP/1.1, say.
func (h *held) protocol() string {
	if h.sketch == nil {
		return h.request.Proto
	}
	line, _, _ := strings.Cut(h.sketch.wire, "\r\n")
	return line[strings.LastIndexByte(line, ' ')+1:]
}

// stopLooking has nobody look at the request any more.
func (h *held) stopLooking() {
	h.looking.Lock()
	h.over = true
	h.looking.Unlock()
}

// ender is told that a held request is to be answered though there is nothing to
// tell. It must not block. It may be called at any time and more than once: the
// first call counts, unless the store woke the request before.
type ender interface{ end(outcome) }

// holder keeps requests waiting. It is all that the handler knows of how that is
// done: on the goroutine that serves the request, or without one.
type holder interface {
	// hold keeps h, which is of the request r, until the store wakes it, it is
	// ended, its time is over or the client leaves, and sees to it that the route
	// answers it. An error means that it was not held, and nothing was written.
	hold(w http.ResponseWriter, r *http.Request, h *held, a asked) error
}

// onGoroutine holds a request on the goroutine that serves it.
type onGoroutine struct{}

func (onGoroutine) hold(w http.ResponseWriter, r *http.Request, h *held, a asked) error {
	wait := &goroutineWait{woken: make(chan store.Result, 1), ended: make(chan outcome, 1)}
	h.request, h.ender = r, wait
	if err := h.pool.enter(h); err != nil {
		return err
	}
	watch, result, err := h.pool.store.Watch(a.query, wait)
	why := outcomeNow
	if watch != nil {
		why, result = wait.wait(r, watch, a.timeout)
	}
	route := h.pool.exit(h)
	h.stopLooking()
	if err != nil {
		return err
	}
	route.answer(w, r, h, result, why)
	return nil
}

// goroutineWait is what a goroutine that holds a request waits for.
type goroutineWait struct {
	woken chan store.Result
	ended chan outcome
}

// Wake implements store.Watcher.
func (g *goroutineWait) Wake(result store.Result) { g.woken <- result }

func (g *goroutineWait) end(o outcome) {
	select {
	case g.ended <- o:
	default:
	}
}

func (g *goroutineWait) wait(r *http.Request, watch *store.Watch, timeout time.Duration) (outcome, store.Result) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var why outcome
	select {
	case result := <-g.woken:
		return outcomeWake, result
	case why = <-g.ended:
	case <-timer.C:
		why = outcomeTimeout
	case <-r.Context().Done():
		why = outcomeLeft
	}
	result, ended := watch.End()
	if !ended {
		result = <-g.woken
	}
	return endedAs(why, result), result
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
	_ store.Watcher = (*goroutineWait)(nil)
	_ ender         = (*goroutineWait)(nil)
)
