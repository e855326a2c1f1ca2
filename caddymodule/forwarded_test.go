package caddymodule

import (
	"net/http"
	"testing"
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
