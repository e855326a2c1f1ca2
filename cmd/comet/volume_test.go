package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// scale returns how many of something a test makes: full, or less when the tests
// are to be short or look for data races.
func scale(full, short, race int) int {
	switch {
	case testing.Short():
		return short
	case comettest.Race:
		return race
	}
	return full
}

// publisher publishes numbered messages, each exactly once: where a connection was
// cut it asks whether the message arrived.
type publisher struct {
	s    *comettest.Server
	name string
}

func (p publisher) publish(ctx context.Context, field string, n int) error {
	data := fmt.Sprintf("%s:%d", p.name, n)
	for {
		a := p.s.Try(ctx, request{URL: "/config", Type: comettest.FormType, Body: escape(field) + "=" + escape(data)})
		if a.Err == nil {
			if a.Status != 200 || a.Body != "OK\n" {
				return fmt.Errorf("publishing %s: got %s", data, a)
			}
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// A reload closes idle connections, and one may be in use again by then.
		all := p.s.Try(ctx, request{URL: "/push?format=json&after=first&wait=0&field=" + escape(field)})
		if all.Err == nil && strings.Contains(all.Body, `"`+data+`"`) {
			return nil
		}
	}
}

// follow reads messages by cursor and calls got for each until got says that it
// has seen all.
func follow(ctx context.Context, s *comettest.Server, cursor string, fields []string, got func(field, data string) (bool, error)) error {
	query := "/push?format=json&field=" + strings.Join(fields, "&field=")
	for {
		a := s.Try(ctx, request{URL: query + "&after=" + escape(cursor)})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case a.Err != nil:
			continue // cut by a reload between two answers: the cursor is unchanged
		case a.Status != 200 || a.JSON == nil:
			return fmt.Errorf("got %.300s", a)
		case a.Missed() || a.JSON.Missed:
			return fmt.Errorf("a gap of %q after %s", a.JSON.MissedFields, cursor)
		}
		for _, m := range a.JSON.Messages {
			done, err := got(m.Field, m.Text())
			if err != nil || done {
				return err
			}
		}
		cursor = a.JSON.Cursor
	}
}

// TestNumberedMessagesComeOnceInOrder publishes as fast as it goes while one client
// goes on by cursor.
func TestNumberedMessagesComeOnceInOrder(t *testing.T) {
	t.Parallel()
	total := scale(20_000, 3000, 3000)
	config := func(round int) string {
		return comettest.Global("comet {\n\t\thistory 200k 1h\n\t}") +
			fmt.Sprintf("http://127.0.0.1:{$HTTP} {\n\theader X-Round %d\n%s\n}\n", round, open)
	}
	for _, c := range []struct {
		name               string
		publishers, fields int
		reloads            int
	}{
		{"from one publisher on one field", 1, 1, 0},
		{"from eight publishers on 64 fields", 8, 64, 0},
		{"from one publisher while the configuration is reloaded each second", 1, 1, 3},
		{"from eight publishers on 64 fields while the configuration is reloaded each second", 8, 64, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := comettest.Start(t, config(0))
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var fields []string
			for i := range c.fields {
				fields = append(fields, fmt.Sprintf("field/%d", i))
			}
			cursor := now(t, s)

			// The publishers go on until all is sent and the reloads are done.
			var reloaded atomic.Int64
			var reloading sync.WaitGroup
			if c.reloads > 0 {
				reloading.Go(func() {
					tick := time.NewTicker(time.Second)
					defer tick.Stop()
					for i := range c.reloads {
						select {
						case <-tick.C:
						case <-ctx.Done():
							return
						}
						if err := s.TryReload(config(i + 1)); err != nil {
							t.Errorf("reload: %v", err)
						}
						reloaded.Add(1)
					}
				})
			}
			each := total / c.publishers
			sent := make([]int, c.publishers)
			var publishing sync.WaitGroup
			for p := range c.publishers {
				publishing.Go(func() {
					pub := publisher{s, strconv.Itoa(p)}
					for n := 1; n <= each || reloaded.Load() < int64(c.reloads); n++ {
						if err := pub.publish(ctx, fields[(n*7+p)%len(fields)], n); err != nil {
							t.Errorf("publisher %d: %v", p, err)
							cancel()
							return
						}
						sent[p] = n
					}
					// What the client knows the end by.
					if err := pub.publish(ctx, fields[p%len(fields)], 0); err != nil {
						t.Errorf("publisher %d: %v", p, err)
						cancel()
					}
				})
			}
			start := time.Now()
			seen := make([]int, c.publishers)
			ended := 0
			err := follow(ctx, s, cursor, fields, func(field, data string) (bool, error) {
				name, number, _ := strings.Cut(data, ":")
				p, n := num(name), num(number)
				if p < 0 || p >= len(seen) || n < 0 {
					return true, fmt.Errorf("nobody published %q on %s", data, field)
				}
				if n == 0 {
					ended++
					return ended == c.publishers, nil
				}
				if n != seen[p]+1 {
					return true, fmt.Errorf("after %d of publisher %d came %d", seen[p], p, n)
				}
				seen[p] = n
				return false, nil
			})
			if err != nil {
				t.Errorf("following: %v", err)
				cancel()
			}
			publishing.Wait()
			reloading.Wait()
			sum := 0
			for p := range sent {
				if seen[p] != sent[p] {
					t.Errorf("of publisher %d %d messages came; %d were sent", p, seen[p], sent[p])
				}
				sum += seen[p]
			}
			t.Logf("%d messages in %s, %d reloads", sum, time.Since(start).Round(time.Millisecond), reloaded.Load())
		})
	}
}

// waiter is a client with one connection, which it never opens again: what is cut
// is seen.
type waiter struct {
	conn   net.Conn
	r      *bufio.Reader
	cursor string
}

// ask sends a request with more header lines.
func (w *waiter) ask(target string, header ...string) error {
	_, err := fmt.Fprintf(w.conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n", target, strings.Join(append(header, ""), "\r\n"))
	return err
}

// askRound asks for the next message of a round.
func (w *waiter) askRound() error {
	return w.ask("/push?field=round&format=json&after=" + escape(w.cursor))
}

// read reads one answer, with 200.
func (w *waiter) read() (res *http.Response, body []byte, err error) {
	res, err = http.ReadResponse(w.r, nil)
	if err != nil {
		return nil, nil, err
	}
	body, err = io.ReadAll(res.Body)
	res.Body.Close()
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return res, body, err
}

// answer reads one answer to a plain hold; again says that the connection stays open.
func (w *waiter) answer() (body comettest.Body, again bool, err error) {
	res, data, err := w.read()
	if err != nil {
		return body, false, err
	}
	if res.Header.Get("Comet-Missed") != "" {
		return body, false, errors.New("a gap")
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return body, false, err
	}
	w.cursor = body.Cursor
	return body, !res.Close, nil
}

// waiters are clients that do the same at once.
type waiters []*waiter

// connect connects n waiters.
func connect(t *testing.T, s *comettest.Server, n int) waiters {
	t.Helper()
	all := make(waiters, n)
	dials := make(chan struct{}, 100) // or the kernel's queue for the listener overflows
	all.each(t, "connecting", func(i int, _ *waiter) error {
		dials <- struct{}{}
		defer func() { <-dials }()
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port("HTTP"))), comettest.Deadline)
		if err != nil {
			return err
		}
		all[i] = &waiter{conn: conn, r: bufio.NewReaderSize(conn, 1024)}
		return conn.SetDeadline(time.Now().Add(5 * time.Minute))
	})
	t.Cleanup(func() {
		for _, w := range all {
			w.conn.Close()
		}
	})
	return all
}

// each has all of them do something. The test ends when one cannot.
func (all waiters) each(t *testing.T, what string, do func(i int, w *waiter) error) {
	t.Helper()
	var group sync.WaitGroup
	var failed atomic.Int64
	for i, w := range all {
		group.Go(func() {
			if err := do(i, w); err != nil && failed.Add(1) <= 3 {
				t.Errorf("%s, client %d: %v", what, i, err)
			}
		})
	}
	group.Wait()
	if f := failed.Load(); f > 0 {
		t.Fatalf("%s: %d of %d clients failed", what, f, len(all))
	}
}

// wantHeld waits until all of them are held for a field, and says of those that are not
// what they got.
func (all waiters) wantHeld(t *testing.T, s *comettest.Server, field string) {
	t.Helper()
	held := 0
	end := time.Now().Add(comettest.Deadline)
	for held != len(all) && time.Now().Before(end) {
		time.Sleep(10 * time.Millisecond)
		held, _ = comettest.Subscribers(t, s, field)
	}
	if held == len(all) {
		return
	}
	t.Errorf("%d of %d requests are held", held, len(all))
	all.each(t, "reading what came instead", func(_ int, w *waiter) error {
		if err := w.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		_, body, err := w.read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return fmt.Errorf("%s, %v", body, err)
	})
	t.FailNow()
}

// needDescriptors skips a test of n connections where a process may not have them.
func needDescriptors(t *testing.T, n int) {
	t.Helper()
	if !descriptors(t, n+500) {
		t.Skipf("%d connections need more descriptors than a process may have here", n)
	}
}

// TestTenThousandHeldRequestsAreAllWoken holds them, wakes all ten times over, with
// three reloads in between, and ends with an exit.
func TestTenThousandHeldRequestsAreAllWoken(t *testing.T) {
	n := scale(10_000, 500, 500)
	needDescriptors(t, n)
	config := func(round int) string {
		return comettest.Global("") + fmt.Sprintf("http://127.0.0.1:{$HTTP} {\n\theader X-Round %d\n%s\n}\n", round, open)
	}
	s := comettest.Start(t, config(0))
	comettest.Publish(t, s, "round=0")
	cursor := now(t, s)
	all := connect(t, s, n)
	all.each(t, "asking", func(_ int, w *waiter) error {
		w.cursor = cursor
		return w.askRound()
	})
	for round := 1; round <= 10; round++ {
		all.wantHeld(t, s, "round")
		if round%3 == 0 {
			s.Reload(t, config(round))
			all.wantHeld(t, s, "round")
		}
		start := time.Now()
		comettest.Publish(t, s, fmt.Sprintf("round=%d", round))
		all.each(t, fmt.Sprintf("round %d", round), func(_ int, w *waiter) error {
			body, again, err := w.answer()
			if err != nil {
				return err
			}
			if len(body.Messages) != 1 || body.Messages[0].Text() != strconv.Itoa(round) {
				return fmt.Errorf("got %+v; want the message %d", body.Messages, round)
			}
			if !again {
				// A reload lets a connection end after its answer, which is no cut.
				w.conn.Close()
				conn, err := net.DialTimeout("tcp", w.conn.RemoteAddr().String(), comettest.Deadline)
				if err != nil {
					return err
				}
				w.conn, w.r = conn, bufio.NewReaderSize(conn, 1024)
				if err := conn.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
					return err
				}
			}
			return w.askRound()
		})
		t.Logf("round %d: %d answers in %s", round, n, time.Since(start).Round(time.Millisecond))
	}

	all.wantHeld(t, s, "round")
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	all.each(t, "exit", func(_ int, w *waiter) error {
		body, again, err := w.answer()
		if err != nil {
			return err
		}
		if len(body.Messages) > 0 || again {
			return fmt.Errorf("got %+v, connection kept: %t; want a timeout and Connection: close", body, again)
		}
		return nil
	})
	t.Logf("exit: %d answers in %s", n, time.Since(start).Round(time.Millisecond))
	s.WaitExit(t)
}
