package caddymodule

import (
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// forwarded is a held request that the application answers: it watches, and then waits
// for its turn.
//
// Whoever keeps it waiting is its carrier. It asks next what is to be done.
type forwarded struct {
	held // of which the waiter is its carrier

	poke func()    // has next called soon; does not block
	key  *shareKey // nil: it is not shared
	as   *Share    // that the key is by

	mu      sync.Mutex // guards what follows
	stage   stage
	watched []string
	watch   *store.Watch  // nil: it waits for its turn
	result  *store.Result // what the store woke it with
	ended   bool
	why     outcome  // when it is ended
	passage *passage // set when it is to go on
	granted bool     // and may
	goesOn  bool     // and does
	until   moment   // for how long it waits for its turn, at most
}

// ending is what is to be done with a forwarded request, and the end of its waiting.
type ending struct {
	passage *passage     // it goes on; nil: it is answered without the application
	why     outcome      // for that reason
	status  int          // with this; zero: there is nobody to answer
	at      store.Cursor // where the store was, when the status is not 503
}

// unanswered is the ending of a request that cannot go on.
func unanswered(why outcome) ending {
	if why == outcomeLeft {
		return ending{why: why}
	}
	return ending{why: why, status: http.StatusServiceUnavailable}
}

// begin fills in f, counts and lists it, and has it watch, if it does not wait for its
// turn already. Then it may be that it has something to do at once.
func (f *forwarded) begin(a *asked, r *http.Request, w waiter, poke func()) error {
	a.held(&f.held, r, w)
	f.poke, f.key, f.as = poke, a.key, a.route.Forward.Share
	f.watched = a.query.Fields
	if err := f.pool.enter(&f.held); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.waits != nil {
		f.passage, f.until = a.waits, now()+moment(a.route.turnLimit())
		f.granted = f.passage.lane.await(f.passage, f)
		return nil
	}
	watch, result, err := f.pool.store.Watch(a.query, f)
	switch {
	case err != nil:
		f.pool.exit(&f.held)
		f.stopLooking()
		return err
	case watch == nil: // something has come since it was read
		f.result = &result
	}
	f.watch = watch
	return nil
}

// open has next called, if there is something to do, now that the carrier waits.
func (f *forwarded) open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stage = waiting
	if f.result != nil || f.ended || f.granted {
		f.poke()
	}
}

func (f *forwarded) pokeIfWaiting() {
	if f.stage == waiting {
		f.poke()
	}
}

// Wake implements store.Watcher.
func (f *forwarded) Wake(result store.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.result = &result
	f.pokeIfWaiting()
}

// grant implements passenger.
func (f *forwarded) grant() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.granted = true
	f.pokeIfWaiting()
}

func (f *forwarded) end(why outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stays() || f.ended && !isFinal(why) {
		return
	}
	if f.passage != nil { // it goes on, unless its turn does not come in time
		if why == outcomeGone || why == outcomeEnded || why == outcomeTimeout && now() < f.until {
			return
		}
	}
	f.ended, f.why = true, why
	f.pokeIfWaiting()
}

// isFinal reports whether a request that was ended so does not go on any more.
func isFinal(why outcome) bool { return why == outcomeLeft || why == outcomeExit }

func (f *forwarded) stays() bool { return f.ended && isFinal(f.why) }

func (f *forwarded) fields() []string { return f.watched }

// next returns what is to be done with the request. It is not ok when that is nothing
// yet. After waits is set, it waits for its turn, for so long at most.
func (f *forwarded) next() (s ending, waits time.Duration, ok bool) {
	route := f.holding()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stage != waiting {
		return s, 0, false
	}
	if f.passage == nil {
		if s, ok = f.woken(route); ok {
			f.stage = answered
			return s, 0, true
		}
		if f.passage == nil {
			return s, 0, false
		}
		waits = route.turnLimit()
		f.until = now() + moment(waits)
		if !f.enter() {
			return s, 0, false
		}
	}
	switch {
	case f.granted && !f.stays():
		s.passage, f.goesOn = f.passage, true
	case f.ended:
		s = unanswered(f.why)
		go f.passage.Lose() // others may be told
	default:
		return s, waits, false
	}
	f.stage = answered
	return s, 0, true
}

// woken has the request go on if it was woken or ended. It is ok when it does not.
func (f *forwarded) woken(route *Hold) (s ending, ok bool) {
	var result store.Result
	why := outcomeWake
	switch {
	case f.result != nil && f.stays():
		return unanswered(f.why), true
	case f.result != nil:
		result = *f.result
	case f.ended:
		if result, ok = f.watch.End(); !ok {
			return s, false // the store is about to wake it
		}
		why = endedAs(f.why, result)
	default:
		return s, false
	}
	forward := route.Forward
	switch {
	case isFinal(why):
		return unanswered(why), true
	case why == outcomeWake:
		if result.Missed != nil {
			why = outcomeMissed
		}
	default:
		if forward != nil && forward.OnTimeout != 0 {
			return ending{why: why, status: forward.OnTimeout, at: result.Cursor}, true
		}
		why = outcomeTimeout
	}
	f.passage = newPassage(route, why, result, f.watched, f.since)
	f.passage.shareBy(f.as, f.key)
	f.watch, f.result, f.ended = nil, nil, false
	return s, false
}

// enter has the request wait for its turn. It reports whether it waits still.
func (f *forwarded) enter() bool {
	p := f.passage
	f.mu.Unlock()
	p.lane.enter(p)
	granted := p.lane.await(p, f)
	f.mu.Lock()
	if f.stage != waiting { // meanwhile
		if !f.goesOn {
			go p.Lose()
		}
		return false
	}
	f.granted = f.granted || granted
	return true
}

// goroutineForwarded is a forwarded request for which its goroutine waits.
type goroutineForwarded struct {
	forwarded
	onRequest
	timer *time.Timer
	ready chan struct{} // there may be something to do
}

func (onGoroutine) forward(_ http.ResponseWriter, r *http.Request, a asked) (*goroutineForwarded, error) {
	g := &goroutineForwarded{onRequest: onRequest{r}, ready: make(chan struct{}, 1)}
	if err := g.begin(&a, r, g, g.signal); err != nil {
		return nil, err
	}
	g.timer = time.AfterFunc(a.limit(), func() { g.end(outcomeTimeout) })
	g.open()
	return g, nil
}

func (g *goroutineForwarded) signal() {
	select {
	case g.ready <- struct{}{}:
	default: // it is told already
	}
}

func (g *goroutineForwarded) wait() {
	select {
	case <-g.ready:
	case <-g.request.Context().Done():
		g.end(outcomeLeft)
	}
}

// proceed does what is to be done. When there is no more, and no error, and a
// passage, the request goes on.
func (g *goroutineForwarded) proceed(w http.ResponseWriter) (p *passage, more bool, err error) {
	s, waits, ok := g.next()
	if !ok {
		if waits > 0 {
			g.timer.Reset(waits)
		}
		return nil, true, nil
	}
	g.timer.Stop()
	route := g.pool.exit(&g.held)
	g.stopLooking()
	if s.passage != nil {
		return s.passage, false, nil
	}
	return nil, false, s.send(w, g.request, route, g.watched, g.since)
}

// send answers a request without the application.
func (e ending) send(w http.ResponseWriter, r *http.Request, route *Hold, fields []string, since moment) error {
	setAnswered(w)
	route.note(r, e.why, outcomeFields(e.why, since.elapsed(), fields)...)
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set(headerField, wire.FieldList(fields))
	if e.why == outcomeExit && r.ProtoMajor == 1 {
		header.Set("Connection", "close")
	}
	switch e.status {
	case 0:
		panic(http.ErrAbortHandler)
	case http.StatusServiceUnavailable:
		route.setRetryAfter(w)
		return caddyhttp.Error(e.status, e.err())
	}
	header.Set(headerCursor, e.at.String())
	w.WriteHeader(e.status)
	return nil
}

// err returns why a request does not come to its application.
func (e ending) err() error {
	if e.why == outcomeExit {
		return errExiting
	}
	return errTurn
}

var (
	_ store.Watcher = (*goroutineForwarded)(nil)
	_ waiter        = (*goroutineForwarded)(nil)
	_ passenger     = (*goroutineForwarded)(nil)
)
