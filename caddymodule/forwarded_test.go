package caddymodule

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// Who was woken, and whose turn does not come in time, is not told that there is nothing.
func TestATurnThatDoesNotComeIsNoTimeout(t *testing.T) {
	l := &lane{atOnce: 1}
	l.enterAll(1, nil) // has the turn
	f := &forwarded{poke: func() {}, stage: waiting, passage: &passage{lane: l, why: outcomeWake}}
	f.pool = &pool{}
	f.route = &Hold{Forward: &Forward{OnTimeout: http.StatusNoContent}, lane: l}
	l.enter(f.passage)
	if _, _, ok := f.next(); ok {
		t.Fatal("it does not wait")
	}
	f.end(outcomeTimeout)
	if s, _, ok := f.next(); !ok || s.passage != nil || s.status != http.StatusServiceUnavailable {
		t.Errorf("it is ended by %+v, %v", s, ok)
	}
}

// wokenForwarded returns a request that was woken, and at which nobody has looked yet.
func wokenForwarded(l *lane) *forwarded {
	f := &forwarded{poke: func() {}, stage: waiting, result: &store.Result{}}
	f.pool = &pool{}
	f.route = &Hold{Forward: &Forward{}, lane: l}
	return f
}

func TestWhoEndsBeforeTheWakeIsLookedAtDoesNotGoOn(t *testing.T) {
	for _, why := range []outcome{outcomeExit, outcomeLeft} {
		l := &lane{atOnce: 1}
		l.enterAll(1, nil) // has the turn
		f := wokenForwarded(l)
		f.end(why) // as drain and park.Conn call it: once
		s, _, ok := f.next()
		if !ok || s.passage != nil {
			_, waiting := l.counts()
			t.Errorf("%v: it is not ended: ok is %v, ended %v, and %d wait in the lane", why, ok, f.ended, waiting)
		}
	}
}

func TestATurnThatIsUsedIsNotGivenBack(t *testing.T) {
	for attempt := range 5000 {
		l := &lane{atOnce: 1}
		first := l.enterAll(1, nil)[0]
		f := wokenForwarded(l)
		l.mu.Lock()
		done := make(chan bool)
		go func() { // a worker of the lot
			_, _, ok := f.next()
			done <- ok
		}()
		for {
			f.mu.Lock()
			set := f.passage != nil
			if set {
				break // with f.mu held
			}
			f.mu.Unlock()
		}
		p := f.passage
		l.mu.Unlock()
		for { // until it has entered, and waits
			l.mu.Lock()
			waits := p.passenger != nil
			l.mu.Unlock()
			if waits {
				break
			}
		}
		f.mu.Unlock()
		l.leave(first)       // its turn comes
		s, _, ok := f.next() // another worker of the lot, as grant has it
		<-done
		if !ok || s.passage == nil {
			continue // the first was faster
		}
		time.Sleep(20 * time.Millisecond)
		if inside, _ := l.counts(); inside != 1 {
			t.Fatalf("attempt %d: the request goes on, and %d have a turn; want 1", attempt, inside)
		}
		return
	}
	t.Skip("no interleaving hit")
}
