package main_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// The tests in this file hold only where requests are parked.

func needParking(t *testing.T) {
	t.Helper()
	if !comettest.Parks(t) {
		t.Skip("requests are not parked here")
	}
}

// crowd opens n connections and has a request held on each.
func crowd(t *testing.T, s *comettest.Server, dial func() *link, field string, n int) []*link {
	t.Helper()
	all := make([]*link, n)
	for i := range all {
		all[i] = dial()
		if err := all[i].SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		all[i].get(holdOn(field))
	}
	comettest.WaitSubscribers(t, s, field, n)
	return all
}

// wakeAll publishes and reads all answers.
func wakeAll(t *testing.T, s *comettest.Server, all []*link, field, value string) {
	t.Helper()
	comettest.Publish(t, s, field+"="+value)
	var group sync.WaitGroup
	for i, l := range all {
		group.Go(func() {
			a, err := l.tryAnswer("GET")
			if got := a.Texts(); err != nil || len(got) != 1 || got[0] != field+"="+value {
				t.Errorf("client %d: got %.300s, %v", i, a, err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func TestTheGaugeOfParkedConnections(t *testing.T) {
	t.Parallel()
	needParking(t)
	s := comettest.Start(t, both("", open))
	if _, there := metrics(t, s)["comet_parked"]; !there {
		t.Error("there is no gauge comet_parked for the store")
	}
	overBoth(t, s, "goes up and down", func(t *testing.T, dial func() *link, field string) {
		const n = 20
		all := crowd(t, s, dial, field, n)
		want := func(parked float64, when string) {
			t.Helper()
			var got float64
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if got = parkedNow(t, s); got == parked {
					return
				}
			}
			t.Errorf("%s comet_parked is %v; want %v", when, got, parked)
		}
		want(n, "when all are held")
		for _, l := range all[:n/2] {
			l.Close()
		}
		want(n/2, "when half of them left")
		wakeAll(t, s, all[n/2:], field, "1")
		for _, l := range all[n/2:] {
			l.Close()
		}
		want(0, "when all are gone")
	})
}

func TestAParkedRequestHasNoGoroutine(t *testing.T) {
	t.Parallel()
	needParking(t)
	s := comettest.Start(t, both("", open))
	overBoth(t, s, "neither held nor between two requests", func(t *testing.T, dial func() *link, field string) {
		dial().holdAndWake(s, field, "0")
		calm := countLeftovers(t, s).goroutines
		n := scale(300, 100, 100)
		few := func(when string) {
			t.Helper()
			comettest.Eventually(t, 10*time.Second, func() bool {
				return countLeftovers(t, s).goroutines <= calm+15
			}, fmt.Sprintf("%s there are many more than %d goroutines: %+v", when, calm, countLeftovers(t, s)))
		}
		all := crowd(t, s, dial, field, n)
		few("when all are held")
		for round := range 3 {
			wakeAll(t, s, all, field, fmt.Sprint(round, "x"))
			few("between two requests")
			for _, l := range all {
				l.get(holdOn(field))
			}
			comettest.WaitSubscribers(t, s, field, n)
			few("when all are held again")
		}
	})
}

// The benchmark measures memory; this fails when it is lost by a factor.
func TestAParkedRequestCostsLittleMemory(t *testing.T) {
	needParking(t)
	if comettest.Race {
		t.Skip("the race detector has memory of its own")
	}
	n := scale(4000, 1000, 0)
	needDescriptors(t, n)
	for _, c := range []struct {
		link            int
		first, afterAll float64 // KiB a connection
	}{{0, 8, 12}, {1, 24, 32}} {
		l := links[c.link]
		t.Run(l.name, func(t *testing.T) {
			s := comettest.Start(t, both("", open))
			field := freshField(t, s)
			dial := func() *link { return l.dial(t, s) }
			wakeAll(t, s, crowd(t, s, dial, field, 50), field, "warm")
			idle := resident(t, s.Pid)
			each := func() float64 { return float64(resident(t, s.Pid)-idle) / float64(n) }
			all := crowd(t, s, dial, field, n)
			first := each()
			for round := range 5 {
				wakeAll(t, s, all, field, fmt.Sprint(round))
				for _, l := range all {
					l.get(holdOn(field))
				}
				comettest.WaitSubscribers(t, s, field, n)
			}
			after := each()
			t.Logf("%.1f KiB a connection when first held, %.1f after five rounds", first, after)
			if first > c.first || after > c.afterAll {
				t.Errorf("want at most %v and %v", c.first, c.afterAll)
			}
		})
	}
}

// net/http reads one byte ahead and does not see what comes behind it; a parked
// connection is looked at as a whole.
func TestAParkedClientThatLeavesWithRequestsAheadIsForgottenAtOnce(t *testing.T) {
	t.Parallel()
	needParking(t)
	s := startStatic(t, "", "")
	calm := func(t *testing.T) int { plainLink(t, s).Close(); return openFiles(s) }
	for _, l := range links {
		for _, d := range departures {
			if l.name == "plain" && !d.plain || l.name == "TLS" && (!d.overTLS || d.name == "by close_notify alone") {
				continue
			}
			t.Run(l.name+", "+d.name, func(t *testing.T) {
				field := freshField(t, s)
				before := calm(t)
				conn := l.dial(t, s)
				conn.say(conn.ask(holdOn(field)) + conn.ask("/static.txt") + conn.ask(holdOn(field)))
				comettest.WaitSubscribers(t, s, field, 1)
				d.leave(conn)
				comettest.WaitSubscribers(t, s, field, 0)
				if d.stays {
					conn.Close()
				}
				comettest.Eventually(t, comettest.Deadline, func() bool { return openFiles(s) <= before+1 }, "its descriptor stays")

				// Ahead of the hold's answer, but after it was parked.
				conn = l.dial(t, s)
				conn.hold(s, field)
				conn.say(conn.ask("/static.txt") + conn.ask("/static.txt"))
				comettest.Subscribers(t, s, field)
				d.leave(conn)
				comettest.WaitSubscribers(t, s, field, 0)
			})
		}
	}
}

func TestParkingOffHoldsOnGoroutines(t *testing.T) {
	t.Parallel()
	if !comettest.KnowsParking(t) {
		t.Skip("this binary does not know the option parking")
	}
	s := comettest.Start(t, both("", open), comettest.WithParking("off"))
	overBoth(t, s, "and nothing is parked", func(t *testing.T, dial func() *link, field string) {
		calm := countLeftovers(t, s).goroutines
		const n = 50
		all := crowd(t, s, dial, field, n)
		if got := parkedNow(t, s); got != 0 {
			t.Errorf("comet_parked is %v", got)
		}
		if got := countLeftovers(t, s).goroutines; got < calm+n {
			t.Errorf("there are %d goroutines with %d requests held, %d without", got, n, calm)
		}
		wakeAll(t, s, all, field, "1")
	})
}

func TestParkingMayBeChangedByAReload(t *testing.T) {
	t.Parallel()
	if !comettest.KnowsParking(t) {
		t.Skip("this binary does not know the option parking")
	}
	config := func(parking string) string {
		if parking != "" {
			parking = "comet {\n\t\tparking " + parking + "\n\t}"
		}
		return both(parking, open)
	}
	s := comettest.Start(t, config("off"), comettest.WithParking(""))
	overBoth(t, s, "with requests held", func(t *testing.T, dial func() *link, field string) {
		for n, parking := range []string{"", "trim_tls", "off", "trim_tls", "", "off"} {
			l := dial()
			l.hold(s, field)
			s.Reload(t, config(parking))
			other := dial()
			other.get(holdOn(field))
			comettest.WaitSubscribers(t, s, field, 2)
			comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, n))
			wantTexts(t, l.answer(), fmt.Sprintf("%s=%d", field, n))
			wantTexts(t, other.answer(), fmt.Sprintf("%s=%d", field, n))
		}
	})
	for _, bad := range []string{"sometimes", "", "off on"} {
		if bad == "" {
			bad = "\n"
		}
		if err := s.TryReload(both("comet {\n\t\tparking "+bad+"\n\t}", open)); err == nil {
			t.Errorf("parking %q is taken", bad)
		}
	}
}

// What trim_tls gives up is not needed by what comes later on a connection.
func TestTrimmedTLSConnectionsGoOn(t *testing.T) {
	t.Parallel()
	if !comettest.Parks(t) {
		t.Skip("requests are not parked here")
	}
	s := startStatic(t, "", "\trespond /tls \"{http.request.tls.version} {http.request.tls.server_name} {http.request.tls.proto}\"\n",
		comettest.WithParking("trim_tls"))
	field := freshField(t, s)
	l := tlsLink(t, s)
	for n := range 5 {
		l.holdAndWake(s, field, fmt.Sprint(n))
		l.get("/tls")
		l.wantBody("tls1.3 localhost http/1.1")
		l.get("/static.txt")
		l.wantBody(staticText)
		l.say(l.ask(holdOn(field)) + l.ask("/static.txt"))
		comettest.WaitSubscribers(t, s, field, 1)
		l.wake(s, field, fmt.Sprint(n, "ahead"))
		l.wantBody(staticText)
	}
}
