package caddymodule

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// lane is the way of the requests of a route to its application. It lets them through
// as fast, and as many at once, as `pace` has it, and one for all that ask the same,
// as `share` has it.
type lane struct {
	pool   *pool
	atOnce int           // 0: any number
	rate   *rate.Limiter // nil: any

	mu     sync.Mutex // guards what follows, and passages; nobody else is called with it held
	inside int        // so many have a turn
	queue  list.List  // of the passages that wait for one
	timer  bool       // is set: the rate keeps the first one waiting
	shared map[shareKey]*flights
	kept   int // bytes of the answers of last flights
}

// passage is the way of one request through a lane.
type passage struct {
	lane    *lane
	why     outcome
	message *store.Message // the latest one of what there is to tell; nil: there is none
	fields  []string
	at      store.Cursor // where the store was when it was woken
	since   moment
	share   *Share // nil: it is not shared
	public  bool   // who asks is nothing to the application

	// Guarded by lane.mu.
	key       *shareKey     // nil: it is not shared, or not any more
	passenger passenger     // nil: it does not wait yet
	granted   bool          // it may go
	place     *list.Element // in the queue
	turn      bool          // it has one
	flight    *flight       // that it leads or follows
	seat      int           // when it follows: its place in flight.with
	answer    *sharedAnswer // that of the flight which it followed
}

// passenger is a request that waits in a lane.
type passenger interface {
	// grant is called once, when the request may go on. It must not block.
	grant()
}

// flight is a request to the application whose answer others are given.
type flight struct {
	key  shareKey
	lead *passage
	with []*passage

	began bool
	at    store.Cursor // where the store was when it began
}

// flights are those of requests that ask the same: what comes when the first has
// begun, and is not told by it, is told by the next. The answer of the last one is
// kept for a moment, since many are not all woken at once.
type flights struct {
	now, next *flight
	last      *sharedAnswer
	at        store.Cursor // where the store was when the last began
}

// The answer of the last flight is kept for so long, when others followed it, and as
// long as there are not more bytes of such answers in the lane.
const (
	keepAnswer = 2 * time.Second
	maxKept    = 16 << 20
)

// enter has a request wait for its turn, or for the answer to another one.
func (l *lane) enter(p *passage) {
	l.mu.Lock()
	granted := append(l.join(p), l.dispatch()...)
	l.mu.Unlock()
	grantAll(granted)
}

func (l *lane) join(p *passage) (granted []*passage) {
	if p.key == nil {
		l.push(p)
		return nil
	}
	same := l.shared[*p.key]
	if same == nil {
		if l.shared == nil {
			l.shared = make(map[shareKey]*flights)
		}
		same = new(flights)
		l.shared[*p.key] = same
	}
	switch {
	case same.last != nil && p.isToldAt(same.at):
		p.answer = same.last
		return p.grantTo(nil)
	case same.now == nil:
		p.flight = &flight{key: *p.key, lead: p}
		same.now = p.flight
		l.push(p)
	case !same.now.began || p.isToldAt(same.now.at):
		same.now.add(p)
	case same.next == nil:
		p.flight = &flight{key: *p.key, lead: p}
		same.next = p.flight
	default:
		same.next.add(p)
	}
	return nil
}

// isToldAt reports whether what woke p is told by an answer of an application that was
// asked when the store was there. What it would tell one that was not woken, nobody
// knows.
func (p *passage) isToldAt(at store.Cursor) bool {
	return p.why == outcomeWake && p.at.Epoch == at.Epoch && p.at.Position <= at.Position
}

func (f *flight) add(p *passage) {
	p.flight, p.seat = f, len(f.with)
	f.with = append(f.with, p)
}

func (f *flight) remove(p *passage) {
	last := len(f.with) - 1
	f.with[last].seat = p.seat
	f.with[p.seat] = f.with[last]
	f.with[last] = nil
	f.with = f.with[:last]
}

func (l *lane) push(p *passage) { p.place = l.queue.PushBack(p) }

// dispatch lets in whoever may go in, and returns who is to be told.
func (l *lane) dispatch() (granted []*passage) {
	for l.queue.Len() > 0 && (l.atOnce == 0 || l.inside < l.atOnce) {
		if l.rate != nil {
			turn := l.rate.Reserve()
			if delay := turn.Delay(); delay > 0 {
				turn.Cancel()
				l.dispatchAfter(delay)
				break
			}
		}
		p := l.queue.Remove(l.queue.Front()).(*passage)
		p.place, p.turn = nil, true
		l.inside++
		granted = p.grantTo(granted)
	}
	return granted
}

func (l *lane) dispatchAfter(d time.Duration) {
	if l.timer {
		return
	}
	l.timer = true
	time.AfterFunc(d, func() {
		l.mu.Lock()
		l.timer = false
		granted := l.dispatch()
		l.mu.Unlock()
		grantAll(granted)
	})
}

// grantTo lets p go, and adds it to those that are to be told, if it waits.
func (p *passage) grantTo(granted []*passage) []*passage {
	p.granted = true
	if p.passenger != nil {
		granted = append(granted, p)
	}
	return granted
}

func grantAll(granted []*passage) {
	for _, p := range granted {
		p.passenger.grant()
	}
}

// await has a passenger told when p may go. It reports whether it may go already, and
// nobody is told.
func (l *lane) await(p *passage, waits passenger) (granted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.passenger = waits
	return p.granted
}

// isGranted reports whether p may go.
func (l *lane) isGranted(p *passage) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.granted
}

// begin notes that the application is asked now. It reports whether its answer is for
// others too.
func (l *lane) begin(p *passage, at store.Cursor) (leads bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.flight == nil {
		return false
	}
	p.flight.began, p.flight.at = true, at
	return true
}

// share ends the flight that p leads: all that follow are given the answer or, when
// there is none to be shared, go on each by itself.
func (l *lane) share(p *passage, answer *sharedAnswer) {
	l.mu.Lock()
	granted := l.land(p, answer)
	granted = append(granted, l.dispatch()...)
	l.mu.Unlock()
	grantAll(granted)
}

func (l *lane) land(p *passage, answer *sharedAnswer) (granted []*passage) {
	f := p.flight
	if f == nil {
		return nil
	}
	p.flight = nil
	if answer != nil && len(f.with) > 0 {
		l.keep(f, answer)
	}
	for _, q := range f.with {
		q.flight = nil
		if answer == nil {
			q.key = nil
			l.push(q)
			continue
		}
		q.answer = answer
		granted = q.grantTo(granted)
	}
	l.advance(f.key)
	return granted
}

// keep keeps the answer of a flight for a moment.
func (l *lane) keep(f *flight, answer *sharedAnswer) {
	same := l.shared[f.key]
	l.dropLast(same)
	if l.kept+len(answer.body) > maxKept {
		return
	}
	same.last, same.at = answer, f.at
	l.kept += len(answer.body)
	time.AfterFunc(keepAnswer, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if same.last == answer {
			l.dropLast(same)
			l.forgetIfIdle(f.key, same)
		}
	})
}

func (l *lane) dropLast(same *flights) {
	if same.last != nil {
		l.kept -= len(same.last.body)
		same.last = nil
	}
}

// advance has the next flight go when one is over.
func (l *lane) advance(key shareKey) {
	same := l.shared[key]
	same.now, same.next = same.next, nil
	if same.now != nil {
		l.push(same.now.lead)
	}
	l.forgetIfIdle(key, same)
}

func (l *lane) forgetIfIdle(key shareKey, same *flights) {
	if same.now == nil && same.last == nil {
		delete(l.shared, key)
	}
}

// leave is called when p is over, whatever became of it. When it led others and has
// no answer for them, one of them leads.
func (l *lane) leave(p *passage) {
	l.mu.Lock()
	if p.place != nil {
		l.queue.Remove(p.place)
		p.place = nil
	}
	if p.turn {
		p.turn = false
		l.inside--
	}
	if f := p.flight; f != nil {
		p.flight = nil
		if f.lead == p {
			l.leadOn(f)
		} else {
			f.remove(p)
		}
	}
	granted := l.dispatch()
	l.mu.Unlock()
	grantAll(granted)
}

// leadOn has another lead a flight, when there is one.
func (l *lane) leadOn(f *flight) {
	same := l.shared[f.key]
	switch {
	case len(f.with) > 0:
		f.lead, f.began = f.with[0], false
		f.remove(f.lead)
		if same.now == f {
			f.lead.place = l.queue.PushFront(f.lead)
		}
	case same.now == f:
		l.advance(f.key)
	default:
		same.next = nil
	}
}

// counts returns how many have a turn, and how many wait for one or for the answer to
// another.
func (l *lane) counts() (inside, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting = l.queue.Len()
	for _, same := range l.shared {
		if same.now != nil {
			waiting += len(same.now.with)
		}
		if same.next != nil {
			waiting += 1 + len(same.next.with)
		}
	}
	return l.inside, waiting
}

// forwarding returns the sums of counts, of the routes of the present configuration.
func (p *pool) forwarding() (inside, waiting int) {
	p.mu.Lock()
	owner := p.owner
	p.mu.Unlock()
	if owner == nil {
		return 0, 0
	}
	for _, h := range owner.holders {
		if h.pool == p {
			i, w := h.lane.counts()
			inside, waiting = inside+i, waiting+w
		}
	}
	return inside, waiting
}

// Lose implements park.Ticket.
func (p *passage) Lose() { p.lane.leave(p) }
