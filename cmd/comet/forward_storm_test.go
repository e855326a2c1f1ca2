package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// Whatever becomes of requests, no turn is lost and nobody is left.
func TestNoTurnIsLostInAStorm(t *testing.T) {
	for _, reloads := range []bool{false, true} {
		t.Run(fmt.Sprint("reloads ", reloads), func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
				switch rand.IntN(8) {
				case 0:
					time.Sleep(50 * time.Millisecond)
				case 1:
					panic(http.ErrAbortHandler)
				case 2:
					w.Header().Set("Set-Cookie", "a=b")
				case 3:
					w.Header().Set("Content-Length", "1000")
					fmt.Fprint(w, "half")
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				case 4:
					w.WriteHeader(500)
				}
				fmt.Fprint(w, "for "+r.Header.Get("Cookie")+".")
			})
			config := func(n int) string {
				options := []string{"share\n\t\t\tpace 3", "pace 500/s 3\n\t\t\tshare by X-A", "share\n\t\t\tpace 2\n\t\t\ton_timeout 204"}[n%3]
				return strings.ReplaceAll(forwardingSite(options+fmt.Sprintf("\n\t\t\tretry %ds\n\t\t\ttimeout 30ms-150ms", n+1)), "{$APP}", address)
			}
			s := comettest.Start(t, config(0))
			comettest.Publish(t, s, "list=0")
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
			defer cancel()
			var all sync.WaitGroup
			for i := range 24 {
				by := forwardedByAll[[]int{0, 0, 2, 3}[i%4]]
				client := by.client(t, s)
				all.Go(func() {
					cursor := ""
					cookie := fmt.Sprint("c", i%3)
					for ctx.Err() == nil {
						ask, leave := context.WithCancel(ctx)
						if rand.IntN(3) == 0 {
							time.AfterFunc(time.Duration(rand.IntN(40))*time.Millisecond, leave)
						}
						header := map[string]string{"Comet-Cursor": cursor, "Cookie": cookie}
						if rand.IntN(10) == 0 {
							header["Connection"] = "close"
						}
						a := s.Try(ask, request{URL: by.url(s, "/list"), Client: client, Header: header})
						leave()
						if a.Err == nil && a.Status == 200 && a.Body != "for "+cookie+"." {
							t.Errorf("%s got %s", cookie, a)
						}
						if c := a.Cursor(); a.Err == nil && c != "" {
							cursor = c
						}
					}
					client.CloseIdleConnections()
				})
			}
			all.Go(func() {
				for n := 1; ctx.Err() == nil; n++ {
					s.Try(context.Background(), request{Method: "POST", URL: s.URL("/config"), Type: comettest.FormType, Body: fmt.Sprint("list=", n)})
					time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
				}
			})
			if reloads {
				all.Go(func() {
					for n := 1; ctx.Err() == nil; n++ {
						s.Reload(t, config(n))
						time.Sleep(200 * time.Millisecond)
					}
				})
			}
			all.Wait()
			t.Logf("asked %d times, at most %d at once", app.count(), app.most)
			comettest.Eventually(t, comettest.Deadline, func() bool {
				after := countLeftovers(t, s)
				return after.held == 0
			}, "some are held")
			for range 10 {
				if a := s.Do(t, request{URL: "/list"}); a.Status < 200 {
					t.Error(a)
				}
			}
			// Of clients that have left the application may not be done yet.
			comettest.Eventually(t, comettest.Deadline, func() bool {
				all := metrics(t, s)
				return all["comet_forward_asking"] == 0 && all["comet_forward_waiting"] == 0
			}, "some ask, or wait for their turn")
			if strings.Contains(s.Logs(), "nil pointer") {
				t.Error("a handler panicked")
			}
		})
	}
}
