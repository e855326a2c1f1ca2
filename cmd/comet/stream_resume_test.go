package main_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// follower reads numbered messages of some fields, each name:number, over streams that
// are cut. It checks that each comes once, in order.
type follower struct {
	way    way
	query  string // format, and fields
	header bool   // goes on by Last-Event-ID, else by after=
	cursor string
	next   int
	cuts   int
}

// follow reads until total messages have come. Each stream is cut after up to longest
// bytes, anywhere.
func (f *follower) follow(ctx context.Context, total, longest int) error {
	for f.next < total {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d of %d messages came: %w", f.next, total, err)
		}
		target, header := "/push?"+f.query, "X-Nothing: "
		if f.header {
			header = "Last-Event-ID: " + f.cursor
		} else {
			target += "&after=" + escape(f.cursor)
		}
		f.cuts++
		stream, err := f.way.open(target, 1+rand.IntN(longest), header)
		if errors.Is(err, errNoStream) {
			return err
		}
		if err != nil {
			continue // cut in its head, or in the moment of a reload
		}
		err = f.read(stream, total)
		stream.close()
		if err != nil && !errors.Is(err, errCut) {
			return err
		}
	}
	return nil
}

// read reads one stream until it is cut, or all have come.
func (f *follower) read(s *stream, total int) error {
	for f.next < total {
		p, err := s.next()
		if err != nil {
			return fmt.Errorf("after %d messages: %w", f.next, err)
		}
		switch p.kind {
		case sessionPiece, heartbeatPiece:
		case missedPiece:
			return fmt.Errorf("a gap of %q after %s", p.missed, f.cursor)
		case messagePiece:
			data, _, _ := strings.Cut(p.data, " ")
			if want := fmt.Sprintf("m:%d", f.next); data != want {
				return fmt.Errorf("got %q after %s, behind %d cuts; want %s", data, f.cursor, f.cuts, want)
			}
			f.cursor = p.cursor
			f.next++
		}
	}
	return nil
}

func TestNumberedMessagesComeOnceInOrderOverStreamsThatAreCut(t *testing.T) {
	t.Parallel()
	total := scale(1000, 200, 300)
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "comet {\n\t\thistory 100k 1h\n\t}", "", p.opts...)
			fields := []string{"cut/0", "cut/1", "cut/2"}
			comettest.Publish(t, s, "cut/0=0")
			cursor := now(t, s)
			watch := "&field=" + strings.Join(fields, "&field=")
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()

			var all []*follower
			for _, w := range ways(t, s) {
				formats := []string{"format=sse", "format=ndjson"}
				if w.name == "HTTP/1.1" {
					formats = streamFormats
				}
				for i, format := range formats {
					all = append(all, &follower{way: w, query: format + watch, header: i%2 == 0, cursor: cursor})
				}
			}
			var group sync.WaitGroup
			for _, f := range all {
				group.Go(func() {
					// What the head of an answer takes is among the bytes of HTTP/1.x.
					if err := f.follow(ctx, total, 6000); err != nil {
						t.Errorf("%s, %s: %v", f.way.name, f.query, err)
						return
					}
					t.Logf("%s, %s: %d streams", f.way.name, f.query, f.cuts)
				})
			}
			for n := range total {
				data := fmt.Sprintf("m:%d %s", n, strings.Repeat("x", rand.IntN(100)))
				comettest.Publish(t, s, fields[rand.IntN(len(fields))]+"="+escape(data))
				if n%20 == 0 {
					pause(ctx, time.Duration(rand.IntN(20))*time.Millisecond)
				}
			}
			group.Wait()
			comettest.WaitSubscribers(t, s, "cut/0", 0)
			comettest.Eventually(t, comettest.Deadline, func() bool { return heldNow(t, s) == 0 }, "some are counted as held")
		})
	}
}

// Eight publish at once to 64 fields, as fast as it goes: each stream has all of them,
// and those of each publisher in order.
func TestNumberedMessagesOfManyFieldsComeOnceInOrderOverOneStream(t *testing.T) {
	t.Parallel()
	total := scale(500, 100, 100) // of each
	const publishers, fields = 8, 64
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "comet {\n\t\thistory 100k 1h\n\t}", "buffer 10000 16MiB", p.opts...)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var watch strings.Builder
			for i := range fields {
				fmt.Fprintf(&watch, "&field=many/%d", i)
			}
			var streams []*stream
			for _, w := range ways(t, s) {
				for _, format := range []string{"format=sse", "format=ndjson"} {
					streams = append(streams, openStream(t, w, "/push?"+format+"&after=now"+watch.String()))
				}
			}
			var group sync.WaitGroup
			for _, stream := range streams {
				group.Go(func() {
					next := map[string]int{}
					for count := 0; count < publishers*total; {
						p, err := stream.next()
						if err != nil {
							t.Errorf("%s: after %d messages: %v", stream.proto, count, err)
							return
						}
						if p.kind == heartbeatPiece {
							continue
						}
						who, number, _ := strings.Cut(p.data, ":")
						if p.kind != messagePiece || number != fmt.Sprint(next[who]) {
							t.Errorf("%s: got %+v; want number %d", stream.proto, p, next[who])
							return
						}
						next[who]++
						count++
					}
				})
			}
			for i := range publishers {
				group.Go(func() {
					from := publisher{s, fmt.Sprint("p", i)}
					for n := range total {
						if err := from.publish(ctx, fmt.Sprintf("many/%d", rand.IntN(fields)), n); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
		})
	}
}

// The configuration is reloaded again and again while messages are published: who is
// cut goes on by cursor, and who has a stream is not cut.
func TestReloadsInTheMiddleOfStreamsLoseNothing(t *testing.T) {
	t.Parallel()
	total := scale(500, 100, 150)
	config := func(round int) string {
		return both("comet {\n\t\thistory 100k 1h\n\t}", fmt.Sprintf("\theader X-Round %d\n", round)+streamed(""))
	}
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := comettest.Start(t, config(0), p.opts...)
			comettest.Publish(t, s, "cut/0=0")
			cursor := now(t, s)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var group sync.WaitGroup
			var over atomic.Bool
			for i, w := range ways(t, s)[:3] {
				// One is never cut by the test: none of its streams may end.
				stays := openStream(t, w, "/push?format=ndjson&field=cut/0&field=cut/1&after="+escape(cursor))
				group.Go(func() {
					f := &follower{way: w, cursor: cursor}
					if err := f.read(stays, total); err != nil || f.next < total {
						t.Errorf("%s: a stream has %d of %d messages when it ends: %v", w.name, f.next, total, err)
					}
				})
				f := &follower{way: w, query: "format=sse&field=cut/0&field=cut/1", header: i%2 == 0, cursor: cursor}
				group.Go(func() {
					if err := f.follow(ctx, total, 6000); err != nil {
						t.Errorf("%s: %v", w.name, err)
					}
				})
			}
			var reloads sync.WaitGroup
			reloads.Go(func() {
				for round := 1; !over.Load(); round++ {
					if err := s.TryReload(config(round)); err != nil {
						t.Error(err)
						return
					}
					pause(ctx, 200*time.Millisecond)
				}
			})
			from := publisher{s, "m"}
			for n := range total {
				if err := from.publish(ctx, fmt.Sprintf("cut/%d", n%2), n); err != nil {
					t.Error(err)
					break
				}
				pause(ctx, 5*time.Millisecond)
			}
			group.Wait()
			over.Store(true)
			reloads.Wait()
		})
	}
}
