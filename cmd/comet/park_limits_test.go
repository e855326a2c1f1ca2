package main_test

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestLimitsCountParkedRequestsAndNotParkedConnections(t *testing.T) {
	t.Parallel()
	t.Run("max_held", func(t *testing.T) {
		s := comettest.Start(t, both("comet {\n\t\tmax_held 2\n\t}", open))
		overBoth(t, s, "of all", func(t *testing.T, dial func() *link, field string) {
			testLimit(t, s, dial, field, http.StatusServiceUnavailable)
		})
	})
	t.Run("max_held_per_client", func(t *testing.T) {
		address := otherAddress(t)
		s := comettest.Start(t, comettest.Global("comet {\n\t\tmax_held_per_client 2\n\t}")+":{$HTTP} {\n"+open+"\n}\n")
		testLimit(t, s, func() *link {
			conn, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(s.Port("HTTP"))))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			if err := conn.SetDeadline(time.Now().Add(comettest.Deadline)); err != nil {
				t.Fatal(err)
			}
			return newLink(t, conn, "127.0.0.1")
		}, freshField(t, s), http.StatusTooManyRequests)
	})
}

// testLimit wants two requests to be held at once, on however many connections.
func testLimit(t *testing.T, s *comettest.Server, dial func() *link, field string, status int) {
	t.Helper()
	var all []*link
	for range 6 {
		all = append(all, dial())
	}
	for round := range 3 {
		for pair := range 3 { // the others are parked between two requests
			one, two, third := all[2*pair], all[2*pair+1], all[(2*pair+2)%6]
			one.get(holdOn(field))
			two.get(holdOn(field))
			comettest.WaitSubscribers(t, s, field, 2)
			third.get(holdOn(field))
			if a := third.answer(); a.Status != status || a.Header.Get("Retry-After") == "" {
				t.Fatalf("round %d: a third got %s; want %d with Retry-After", round, a, status)
			}
			comettest.Publish(t, s, fmt.Sprintf("%s=%d.%d", field, round, pair))
			for _, l := range []*link{one, two} {
				wantTexts(t, l.answer(), fmt.Sprintf("%s=%d.%d", field, round, pair))
			}
		}
	}
	// Who leaves makes room.
	one, two := dial(), dial()
	one.get(holdOn(field))
	two.get(holdOn(field))
	comettest.WaitSubscribers(t, s, field, 2)
	one.Close()
	comettest.WaitSubscribers(t, s, field, 1)
	all[0].get(holdOn(field))
	comettest.WaitSubscribers(t, s, field, 2)
	two.reset()
	comettest.WaitSubscribers(t, s, field, 1)
	all[1].get(holdOn(field))
	comettest.WaitSubscribers(t, s, field, 2)
	comettest.Publish(t, s, field+"=end")
	for _, l := range all[:2] {
		wantTexts(t, l.answer(), field+"=end")
	}
}

// The counts of the admin API and of the metrics are those of requests, not of
// connections.
func TestParkedRequestsAreCountedOnce(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, both("", open))
	overBoth(t, s, "by outcome", func(t *testing.T, dial func() *link, field string) {
		before := metrics(t, s)
		l := dial()
		for n := range 5 {
			l.hold(s, field)
			if got := metrics(t, s)["comet_held_requests"]; got != 1 {
				t.Errorf("comet_held_requests is %v; want 1", got)
			}
			l.wake(s, field, fmt.Sprint(n))
		}
		for range 3 {
			l.get("/push?after=now&wait=0.02&field=" + field)
			l.wantBody("NO\n")
		}
		for range 2 {
			gone := dial()
			gone.hold(s, field)
			gone.Close()
			comettest.WaitSubscribers(t, s, field, 0)
		}
		want := map[string]float64{"comet_held_requests": 0}
		for outcome, n := range map[string]float64{"wake": 5, "timeout": 3, "left": 2, "now": 0, "refused": 0, "missed": 0} {
			name := `comet_hold_requests_total{outcome="` + outcome + `"}`
			want[name] = before[name] + n
		}
		want["comet_wake_seconds_count"] = before["comet_wake_seconds_count"] + 5
		wantMetrics(t, s, want)
		if n := heldNow(t, s); n != 0 {
			t.Errorf("%d are held", n)
		}
	})
}
