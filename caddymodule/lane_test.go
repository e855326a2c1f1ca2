package caddymodule

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// granted is a passenger that notes when it was told.
type granted struct {
	mu    sync.Mutex
	times int
}

func (g *granted) grant() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times++
}

// enter has n passages enter a lane, all with one key or none.
func (l *lane) enterAll(n int, key *shareKey) (all []*passage) {
	for range n {
		p := &passage{lane: l, why: outcomeWake, key: key, at: store.Cursor{Position: 1}, passenger: new(granted)}
		l.enter(p)
		all = append(all, p)
	}
	return all
}

// count returns how many of all may go.
func (l *lane) count(all []*passage) int {
	return len(slices.DeleteFunc(slices.Clone(all), func(p *passage) bool { return !l.isGranted(p) }))
}

func TestALaneLetsInAsManyAsMayBeInside(t *testing.T) {
	l := &lane{atOnce: 3}
	all := l.enterAll(10, nil)
	for i, p := range all {
		if got, want := l.count(all), min(i+3, 10); got != want {
			t.Fatalf("after %d have left, %d may go; want %d", i, got, want)
		}
		if !l.isGranted(p) {
			t.Fatalf("number %d is overtaken", i)
		}
		l.leave(p)
		l.leave(p) // is nothing
	}
	if l.inside != 0 || l.queue.Len() != 0 {
		t.Errorf("%d are inside, %d wait", l.inside, l.queue.Len())
	}
}

func TestALaneLetsInAsFastAsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lane{rate: rate.NewLimiter(10, 1)}
		all := l.enterAll(20, nil)
		l.leave(all[5]) // who leaves takes no turn
		for i := range 19 {
			synctest.Wait()
			if got := l.count(all); got != i+1 {
				t.Fatalf("after %d ms %d may go", 100*i, got)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestOneOfALaneLeadsWhoAskTheSame(t *testing.T) {
	synctest.Test(t, testOneLeads)
}

func testOneLeads(t *testing.T) {
	l, key := &lane{}, &shareKey{1}
	all := l.enterAll(5, key)
	if l.count(all) != 1 {
		t.Fatalf("%d may go", l.count(all))
	}
	l.begin(all[0], store.Cursor{Position: 1})
	all = append(all, l.enterAll(2, key)...) // woken by the same
	late := &passage{lane: l, why: outcomeWake, key: key, at: store.Cursor{Position: 2}, passenger: new(granted)}
	l.enter(late)
	now := &passage{lane: l, why: outcomeNow, key: key, passenger: new(granted)}
	l.enter(now)
	if l.count(all) != 1 || l.isGranted(late) || l.isGranted(now) {
		t.Fatal("more than one may go")
	}
	answer := &sharedAnswer{}
	l.share(all[0], answer)
	l.leave(all[0])
	all = append(all, l.enterAll(1, key)...) // woken by the same, but late
	for i, p := range all[1:] {
		if !l.isGranted(p) || p.answer != answer {
			t.Errorf("number %d is not given the answer", i+1)
		}
	}
	if !l.isGranted(late) || late.answer != nil || l.isGranted(now) {
		t.Error("the next does not lead")
	}
	l.share(late, nil) // what is not to be shared each asks for
	if !l.isGranted(now) || now.answer != nil {
		t.Error("who followed does not go on")
	}
	l.leave(late)
	l.leave(now)
	time.Sleep(keepAnswer)
	synctest.Wait()
	if l.inside != 0 || len(l.shared) != 0 || l.kept != 0 {
		t.Errorf("%d are inside, %d flights are left, and %d bytes", l.inside, len(l.shared), l.kept)
	}
}

// Whatever leaves, in whatever order, the rest come to their turn, and nothing is left.
func TestALaneEndsEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 300 {
			testEndsEmpty(t, &lane{atOnce: rand.IntN(3)})
		}
	})
}

func testEndsEmpty(t *testing.T, l *lane) {
	keys := []*shareKey{nil, {1}, {2}}
	var open []*passage
	for range 60 {
		if rand.IntN(2) == 0 {
			open = append(open, l.enterAll(1, keys[rand.IntN(3)])...)
			continue
		}
		if len(open) == 0 {
			continue
		}
		i := rand.IntN(len(open))
		p := open[i]
		switch {
		case !l.isGranted(p) || rand.IntN(3) == 0:
		case p.answer == nil:
			l.begin(p, store.Cursor{Position: store.Position(rand.IntN(3))})
			if rand.IntN(2) == 0 {
				continue
			}
			l.share(p, []*sharedAnswer{nil, {}}[rand.IntN(2)])
		}
		l.leave(p)
		open = slices.Delete(open, i, i+1)
	}
	for len(open) > 0 {
		i := slices.IndexFunc(open, l.isGranted)
		if i < 0 {
			t.Fatalf("none of %d may go", len(open))
		}
		l.share(open[i], nil)
		l.leave(open[i])
		open = slices.Delete(open, i, i+1)
	}
	time.Sleep(keepAnswer)
	synctest.Wait()
	if l.inside != 0 || l.queue.Len() != 0 || len(l.shared) != 0 {
		t.Fatalf("%d are inside, %d wait, %d flights are left", l.inside, l.queue.Len(), len(l.shared))
	}
}

// Who asks for others has left, and its application takes too long: another one asks.
func TestWhoLeavesASlowApplicationLeavesItToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, key := &lane{}, &shareKey{1}
		all := l.enterAll(2, key)
		l.begin(all[0], store.Cursor{Position: 1})
		client, leave := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(client, http.MethodGet, "/", nil)
		leave()
		start := time.Now()
		fw := newForwardWriter(httptest.NewRecorder(), store.Cursor{})
		err := serveKept(fw, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			w.WriteHeader(statusLeft) // as reverse_proxy does
			return nil
		}), all[0], true)
		if took := time.Since(start); err == nil || took != leftTime {
			t.Errorf("after %s it ends with %v", took, err)
		}
		l.leave(all[0])
		if !l.isGranted(all[1]) || all[1].answer != nil {
			t.Error("the other one does not ask")
		}
		l.leave(all[1])
	})
}
