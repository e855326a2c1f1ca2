package main_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// stormSize returns how many clients a storm has and how long it is: what COMET_STORM
// says, such as 10000,60s, or less.
func stormSize(t *testing.T) (clients int, length time.Duration) {
	t.Helper()
	text := os.Getenv("COMET_STORM")
	if text == "" {
		return scale(500, 60, 100), time.Duration(scale(10, 3, 6)) * time.Second
	}
	number, duration, _ := strings.Cut(text, ",")
	length, err := time.ParseDuration(duration)
	if clients = num(number); err != nil || clients < 1 {
		t.Fatalf("COMET_STORM is %q; want a number of clients and a duration, such as 10000,60s", text)
	}
	return clients, length
}

// stormer is a client that does whatever clients do, one thing after the other, on one
// connection for as long as that lasts.
type stormer struct {
	s      *comettest.Server
	config *tls.Config // nil: plain
	dials  chan struct{}
	seen   *stormCounts
	link   *link
	cursor string
	parks  bool // whether the server parks
}

type stormCounts struct {
	connections, holds, wakes, pipelined, files, left, slow, cut atomic.Int64
}

func (w *stormer) dial() error {
	w.dials <- struct{}{} // or the kernel's queue for the listener overflows
	defer func() { <-w.dials }()
	port := "HTTP"
	if w.config != nil {
		port = "HTTPS"
	}
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", w.s.Port(port)), 10*time.Second)
	if err != nil {
		return err
	}
	w.link = newLink(nil, conn, "127.0.0.1")
	if w.config != nil {
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		client := tls.Client(conn, w.config)
		if err := client.Handshake(); err != nil {
			conn.Close()
			return err
		}
		w.link = newLink(nil, client, "localhost")
	}
	w.seen.connections.Add(1)
	return nil
}

// errWrong is what a client is told that it must not be told.
var errWrong = errors.New("wrong")

// read reads one answer to a hold and checks it.
func (w *stormer) read(want int) error {
	_ = w.link.SetDeadline(time.Now().Add(60 * time.Second))
	a, err := w.link.tryAnswer("GET")
	if isTimeout(err) {
		return fmt.Errorf("%w: no answer within a minute", errWrong)
	}
	if err != nil {
		return err
	}
	if a.Status != want {
		return fmt.Errorf("%w: got %.300s; want %d", errWrong, a, want)
	}
	if a.JSON != nil && a.JSON.Cursor != "" {
		if w.cursor = a.JSON.Cursor; len(a.JSON.Messages) > 0 {
			w.seen.wakes.Add(1)
		}
	}
	if a.Close {
		return io.EOF
	}
	return nil
}

// misbehave does one thing and says whether the connection goes on.
func (w *stormer) misbehave(ctx context.Context) error {
	l := w.link
	wait := time.Duration(rand.IntN(400)) * time.Millisecond
	say := func(text string) error {
		_ = l.SetDeadline(time.Now().Add(60 * time.Second))
		_, err := io.WriteString(l.Conn, text)
		return err
	}
	hold := l.ask(fmt.Sprintf("/push?format=json&field=storm&after=%s&wait=%.3f", escape(w.cursor), 2*wait.Seconds()))
	quiet := l.ask("/push?format=json&field=quiet&after=now")
	file := l.ask("/static.txt")
	switch kind := rand.IntN(20); kind {
	default: // is held, and woken or not
		w.seen.holds.Add(1)
		if err := say(hold); err != nil {
			return err
		}
		return w.read(200)
	case 0, 1, 2: // is idle, and comes back
		pause(ctx, wait)
	case 3, 4: // asks for something else
		w.seen.files.Add(1)
		if err := say(file); err != nil {
			return err
		}
		a, err := l.tryAnswer("GET")
		if err == nil && a.Body != staticText {
			err = fmt.Errorf("%w: a file is %.300s", errWrong, a)
		} else if err == nil && a.Close {
			err = io.EOF
		}
		return err
	case 5, 6, 7: // sends its next requests already
		w.seen.pipelined.Add(1)
		n := 1 + rand.IntN(5)
		if err := say(strings.Repeat(hold+file, n)); err != nil {
			return err
		}
		for range n {
			if err := w.read(200); err != nil {
				return err
			}
			a, err := l.tryAnswer("GET")
			if err != nil {
				return err
			}
			if a.Body != staticText {
				return fmt.Errorf("%w: a file is %.300s", errWrong, a)
			}
			if a.Close {
				return io.EOF
			}
		}
	case 8, 9: // leaves, in one of the ways there are
		w.seen.left.Add(1)
		if err := say(quiet); err != nil {
			return err
		}
		pause(ctx, wait)
		leave := departures[rand.IntN(3)].leave
		if w.config != nil {
			leave = departures[3+rand.IntN(len(departures)-3)].leave
		}
		leave(l)
		_ = l.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, l.r); isTimeout(err) {
			return fmt.Errorf("%w: the connection of one that left is not closed", errWrong)
		}
		return io.EOF
	case 10: // leaves in the middle of a request
		w.seen.left.Add(1)
		_ = say(hold[:rand.IntN(len(hold))])
		pause(ctx, wait)
		return io.EOF
	case 11: // leaves with its next requests sent
		w.seen.left.Add(1)
		if w.parks { // a goroutine that holds does not see what is behind these
			_ = say(quiet)
			pause(ctx, wait)
			_ = say(file + quiet)
		} else {
			_ = say(quiet + file + quiet)
		}
		pause(ctx, wait)
		l.reset()
		return io.EOF
	case 12: // asks for much, and reads it slowly or never
		w.seen.slow.Add(1)
		never := rand.IntN(2) == 0
		if never {
			_ = l.tcp().SetReadBuffer(4096)
		}
		if err := say(l.ask("/push?after=first&field=big&format=json")); err != nil {
			return err
		}
		pause(ctx, wait)
		if never {
			l.reset()
			return io.EOF
		}
		cursor := w.cursor
		defer func() { w.cursor = cursor }()
		return w.read(200)
	}
	return nil
}

// run goes on until the storm is over. What the server does to a connection that was
// idle, or in the middle of a request, when the configuration was exchanged is no fault.
func (w *stormer) run(ctx context.Context) error {
	defer func() {
		if w.link != nil {
			w.link.Close()
		}
	}()
	for ctx.Err() == nil {
		if w.link == nil {
			if err := w.dial(); err != nil {
				w.link = nil
				pause(ctx, 50*time.Millisecond)
				continue
			}
		}
		if err := w.misbehave(ctx); err != nil {
			if errors.Is(err, errWrong) {
				return err
			}
			if !errors.Is(err, io.EOF) {
				w.seen.cut.Add(1)
			}
			w.link.Close()
			w.link = nil
		}
	}
	return nil
}

// TestAStormOfParkedConnectionsLosesNothingForThoseWhoStayAndLeavesNothingBehind is the
// storm of storm_test.go with clients that keep their connections, over TLS too.
// COMET_STORM=10000,60s is the one for a quiet machine.
func TestAStormOfParkedConnectionsLosesNothingForThoseWhoStayAndLeavesNothingBehind(t *testing.T) {
	clients, length := stormSize(t)
	needDescriptors(t, clients+clients/5)
	global := "comet {\n\t\thistory 100k\n\t}\n"
	if comettest.Parks(t) && rand.IntN(2) == 0 && comettest.Knows(t, "servers {\n\tlistener_wrappers {\n\t\tcomet\n\t}\n}") {
		global += wrappers
		t.Log("with the listener wrapper")
	}
	config := func(n int) string {
		return both(global, staticSite+fmt.Sprintf("\theader X-Version %d\n", n))
	}
	s := comettest.Start(t, config(0), comettest.File("static.txt", staticText))
	for range 5 {
		comettest.PublishAs(t, s, "field=big", "text/plain", large(200_000))
	}
	comettest.Publish(t, s, "quiet=1&storm=0")
	secure := s.TLSConfig(t)
	start := now(t, s)
	s.Reload(t, config(0)) // what a reload makes is there before and after
	s.Client().CloseIdleConnections()
	var calm, calmAgain leftovers
	comettest.Eventually(t, comettest.Deadline, func() bool {
		calm, calmAgain = calmAgain, countLeftovers(t, s)
		return calm == calmAgain
	}, "the server is not calm")
	rss := resident(t, s.Pid)

	ctx, cancel := context.WithTimeout(t.Context(), length+3*time.Minute)
	defer cancel()
	stormy, stop := context.WithTimeout(ctx, length)
	defer stop()
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
			// One in ten wakes the rude ones too.
			if n%10 == 0 {
				s.Try(ctx, request{URL: "/config", Type: comettest.FormType, Body: fmt.Sprint("storm=", n)})
			}
			pause(stormy, 5*time.Millisecond)
		}
		published <- n
	})
	reloads := 0
	rest.Go(func() {
		every := min(2*time.Second, length/6)
		for stormy.Err() == nil {
			pause(stormy, every)
			reloads++
			if err := s.TryReload(config(reloads)); err != nil {
				t.Error(err)
			}
		}
	})
	var seen stormCounts
	parks := comettest.Parks(t)
	dials := make(chan struct{}, 50)
	for i := range clients {
		w := &stormer{s: s, dials: dials, seen: &seen, cursor: start, parks: parks}
		if i%2 == 1 {
			w.config = secure
		}
		rest.Go(func() {
			if err := w.run(stormy); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}

	// Those who stay: some as a browser does, some on a connection that they keep.
	last := make(chan struct{})
	total := 0
	const followers = 10
	for i := range followers {
		following.Go(func() {
			next := 0
			got := func(field, data string) (bool, error) {
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
			}
			var err error
			if i%2 == 0 {
				err = follow(ctx, s, start, stormFields, got)
			} else {
				w := &stormer{s: s, dials: dials, seen: &seen, cursor: start}
				if i%4 == 1 {
					w.config = secure
				}
				err = w.follow(ctx, got)
			}
			if err != nil {
				t.Errorf("follower %d: %v", i, err)
			}
		})
	}
	began := time.Now()
	rest.Wait()
	t.Logf("the clients were gone after %s", time.Since(began).Round(time.Millisecond))
	total = <-published
	close(last)
	end := publisher{s, "end"}
	if err := end.publish(ctx, "storm/end", 1); err != nil {
		t.Fatal(err)
	}
	following.Wait()
	t.Logf("%d clients for %s: %d connections, %d holds, %d wakes, %d pipelined, %d files, %d left, %d slow, %d cut between requests; %d reloads, %d messages to %d followers each",
		clients, length, seen.connections.Load(), seen.holds.Load(), seen.wakes.Load(), seen.pipelined.Load(),
		seen.files.Load(), seen.left.Load(), seen.slow.Load(), seen.cut.Load(), reloads, total, followers)

	s.Client().CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	var after leftovers
	var parked float64
	end2 := time.Now().Add(3 * comettest.Deadline)
	for {
		after = countLeftovers(t, s)
		parked = parkedNow(t, s)
		if after.held == 0 && parked == 0 && after.goroutines <= calm.goroutines+10+2*runtime.NumCPU() && after.descriptors <= calm.descriptors+5 {
			break
		}
		if time.Now().After(end2) {
			t.Fatalf("what is left of the storm does not go: before %+v, after %+v, parked %v", calm, after, parked)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("the server was calm after %s", time.Since(began).Round(time.Millisecond))
	t.Logf("before %+v, after %+v, parked %v", calm, after, parked)
	t.Logf("resident before %d KiB, after %d KiB", rss, resident(t, s.Pid))
}

var stormFields = []string{"storm/0", "storm/1", "storm/2", "storm/end"}

// follow is the function of that name on a connection of its own, that is opened again
// only when it is cut.
func (w *stormer) follow(ctx context.Context, got func(field, data string) (bool, error)) error {
	defer func() {
		if w.link != nil {
			w.link.Close()
		}
	}()
	for ctx.Err() == nil {
		if w.link == nil {
			if err := w.dial(); err != nil {
				w.link = nil
				continue
			}
		}
		_ = w.link.SetDeadline(time.Now().Add(3 * time.Minute))
		_, err := io.WriteString(w.link.Conn, w.link.ask("/push?format=json&field="+strings.Join(stormFields, "&field=")+"&after="+escape(w.cursor)))
		var a comettest.Answer
		if err == nil {
			a, err = w.link.tryAnswer("GET")
		}
		if err != nil || a.Close {
			w.link.Close()
			w.link = nil
		}
		if err != nil {
			continue
		}
		if a.Status != 200 || a.JSON == nil || a.Missed() {
			return fmt.Errorf("got %.300s", a)
		}
		for _, m := range a.JSON.Messages {
			if done, err := got(m.Field, m.Text()); err != nil || done {
				return err
			}
		}
		w.cursor = a.JSON.Cursor
	}
	return ctx.Err()
}

// parkedNow returns the gauge comet_parked, or 0 where there is none.
func parkedNow(t *testing.T, s *comettest.Server) float64 {
	t.Helper()
	sum := 0.0
	for name, n := range metrics(t, s) {
		if base, _, _ := strings.Cut(name, "{"); base == "comet_parked" {
			sum += n
		}
	}
	return sum
}
