package main_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// TestAnExitAmongBusyClientsIsOrderly ends the server while requests come and go:
// Caddy stops its apps in no order, so some come when Comet has been stopped and
// the HTTP server has not.
func TestAnExitAmongBusyClientsIsOrderly(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`shutdown_delay 150ms
	comet {
		drain 3s
	}`)+"http://127.0.0.1:{$HTTP} {"+open+"}")
	for round := range scale(4, 1, 2) {
		comettest.Publish(t, s, fmt.Sprint("id=", round))
		var held []<-chan comettest.Answer
		for range 20 {
			held = append(held, comettest.Hold(t, s, fmt.Sprint("id=", round)))
		}
		var busy sync.WaitGroup
		var stop atomic.Bool
		for range 2 {
			busy.Go(func() {
				for !stop.Load() && !s.Exited() {
					s.Try(context.Background(), request{URL: fmt.Sprintf("/push?id=%d&wait=0.1", round)})
				}
			})
		}
		s.Stop(t)
		stop.Store(true)
		busy.Wait()
		for _, h := range held {
			if a := comettest.Await(t, h); a.Status != 200 || a.Body != "NO\n" {
				t.Errorf("round %d: a held request got %s", round, a)
			}
		}
		if strings.Contains(s.Logs(), "goroutine stack exceeds") {
			t.Fatal("the server crashed")
		}
		s.Restart(t)
		wantValue(t, s, "id", fmt.Sprint(round))
	}
}

func TestAReloadThatPutsAnotherRouteInFrontEndsWhoIsHeld(t *testing.T) {
	t.Parallel()
	config := func(front string) string {
		return comettest.Global("") + `http://127.0.0.1:{$HTTP} {
	` + front + `
	handle {
		comet
	}
}`
	}
	s := comettest.Start(t, config(`handle /other {
		respond "other"
	}`))
	comettest.Publish(t, s, "id=1")
	held := comettest.Hold(t, s, "id=1")
	s.PublishURL = "" // not there any more
	s.Reload(t, config(`handle /push {
		respond "gone" 404
	}`))
	if a := comettest.Await(t, held); a.Status != 200 || a.Body != "NO\n" {
		t.Errorf("the held request got %s", a)
	}
}

func TestAClientThatClosesItsHalfIsStillAnswered(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=1")
	c := s.RawConn(t)
	if _, err := io.WriteString(c, "GET /push?id=1&format=json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	comettest.WaitSubscribers(t, s, "id", 1)
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(answer), "Comet-Cursor: ") || !strings.Contains(string(answer), `"messages":[]`) {
		t.Errorf("got %q, %v", answer, err)
	}
	comettest.WaitSubscribers(t, s, "id", 0)
}

func TestAFieldIsWatchedOnceHoweverOftenItIsNamed(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /config
		hold /push {
			field {query.a} {query.b}
		}
	}`))
	comettest.Publish(t, s, "same=1")
	if a := comettest.Push(t, s, "a=same&b=same&same=&format=json"); len(a.Texts()) != 1 {
		t.Errorf("got %s", a)
	}
	if a := comettest.Push(t, s, "b=x&a="+strings.Repeat("x", 256)); a.Status != 403 {
		t.Errorf("a name of 256 bytes by a placeholder got %s", a)
	}
	// More than a chunk of clients that wait for a value which does not come keep
	// nobody else from being woken.
	comettest.Publish(t, s, "id=1")
	var rest []<-chan comettest.Answer
	for range 150 {
		rest = append(rest, comettest.HoldOn(t, s, request{URL: "/push?a=id&b=x&field=id&id=99"}, "id"))
	}
	woken := comettest.HoldOn(t, s, request{URL: "/push?a=id&b=x&field=id&id=2"}, "id")
	comettest.Publish(t, s, "id=2")
	comettest.Publish(t, s, "id=3")
	if a := comettest.Await(t, woken); a.Body != "YES\n" {
		t.Errorf("got %s", a)
	}
	comettest.Publish(t, s, "id=100")
	for _, h := range rest {
		comettest.Await(t, h)
	}
}
