package main_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// leftovers counts what a server still has of its clients.
type leftovers struct{ held, goroutines, descriptors int }

func countLeftovers(t *testing.T, s *comettest.Server) leftovers {
	t.Helper()
	var l leftovers
	l.held = int(admin(t, s, "GET", "/comet/default", 200)["held"].(float64))
	a := s.Do(t, request{URL: fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/goroutine?debug=1", s.Port("ADMIN"))})
	if total := regexp.MustCompile(`total (\d+)`).FindStringSubmatch(a.Body); total != nil {
		l.goroutines, _ = strconv.Atoi(total[1])
	}
	if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid)); err == nil {
		l.descriptors = len(open)
	}
	return l
}

// misbehave does one of the things that clients do, and servers suffer from.
func misbehave(s *comettest.Server) {
	wait := time.Duration(rand.IntN(60)) * time.Millisecond
	say := func(text string) *net.TCPConn {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port("HTTP")), time.Second)
		if err != nil {
			return nil
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(c, text)
		return c.(*net.TCPConn)
	}
	const hold = "GET /push?field=id&field=nobody&after=now HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	switch rand.IntN(7) {
	case 0: // gives up
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		s.Try(ctx, request{URL: "/push?field=quiet&after=now"})
	case 1: // polls
		s.Try(context.Background(), request{URL: fmt.Sprintf("/push?field=quiet&quiet=1&wait=%.3f", wait.Seconds())})
	case 2: // closes its half, and is taken for one that left
		if c := say(hold); c != nil {
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	case 3: // resets the connection while it is held
		if c := say(hold); c != nil {
			time.Sleep(wait)
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	case 4: // sends its next requests already
		if c := say(hold + hold + "GET /push?after=first&format=json HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"); c != nil {
			time.Sleep(wait)
			_ = c.Close()
		}
	case 5: // sends half a request
		if c := say(hold[:rand.IntN(len(hold))]); c != nil {
			time.Sleep(wait)
			_ = c.Close()
		}
	case 6: // asks for much and does not read it
		if c := say("GET /push?after=first&field=big&format=json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); c != nil {
			time.Sleep(wait)
			_ = c.Close()
		}
	}
}

// TestAStormLosesNothingForThoseWhoStayAndLeavesNothingBehind has clients come,
// go and misbehave in every way while others follow by cursor, messages are
// published and the configuration is reloaded.
func TestAStormLosesNothingForThoseWhoStayAndLeavesNothingBehind(t *testing.T) {
	config := comettest.Global(`comet {
		history 100k
	}`) + "http://127.0.0.1:{$HTTP} {" + open + "}"
	s := comettest.Start(t, config)
	for range 20 {
		comettest.PublishAs(t, s, "field=big", "text/plain", string(make([]byte, 100_000)))
	}
	comettest.Publish(t, s, "quiet=1&id=0")
	calm := countLeftovers(t, s)

	const followers = 10
	rude := scale(60, 20, 20)
	length := time.Duration(scale(10, 2, 5)) * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), length+comettest.Deadline)
	defer cancel()
	stormy, stop := context.WithTimeout(ctx, length)
	defer stop()
	start := comettest.Push(t, s, "after=now&wait=0").Cursor()

	var rest, following sync.WaitGroup
	published := make(chan int, 1)
	rest.Go(func() {
		n := 0
		p := publisher{s, "storm"}
		for ; stormy.Err() == nil; n++ {
			if err := p.publish(ctx, fmt.Sprintf("storm/%d", n%3), n); err != nil {
				t.Error(err)
				break
			}
			s.Try(ctx, request{URL: "/config", Type: comettest.FormType, Body: "id=" + strconv.Itoa(n)})
		}
		published <- n
	})
	rest.Go(func() {
		for stormy.Err() == nil {
			if err := s.TryReload(config); err != nil {
				t.Error(err)
			}
			select {
			case <-stormy.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	for range rude {
		rest.Go(func() {
			for stormy.Err() == nil {
				misbehave(s)
			}
		})
	}
	last := make(chan struct{})
	total := 0
	for range followers {
		following.Go(func() {
			next := 0
			err := follow(ctx, s, start, []string{"storm/0", "storm/1", "storm/2", "storm/end"}, func(field, data string) (bool, error) {
				if field == "storm/end" {
					<-last
					if next != total {
						return true, fmt.Errorf("%d of %d messages came", next, total)
					}
					return true, nil
				}
				if want := fmt.Sprintf("storm:%d", next); data != want {
					return true, fmt.Errorf("got %s; want %s", data, want)
				}
				next++
				return false, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	rest.Wait()
	total = <-published
	close(last)
	comettest.Publish(t, s, "storm/end=1")
	following.Wait()
	t.Logf("%d messages to %d followers each, in a storm of %d", total, followers, rude)

	s.Client().CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	var after leftovers
	defer func() { t.Logf("before %+v, after %+v", calm, after) }()
	comettest.Eventually(t, comettest.Deadline, func() bool {
		after = countLeftovers(t, s)
		return after.held == 0 && after.goroutines <= calm.goroutines+10+2*runtime.NumCPU() && after.descriptors <= calm.descriptors+5
	}, "what is left of the storm does not go")
}
