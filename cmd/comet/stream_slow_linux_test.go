package main_test

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// slowStream opens a stream on a connection through which little goes while nothing is
// read. It reads no more than its beginning.
func slowStream(t *testing.T, s *comettest.Server, w way, target string) *stream {
	t.Helper()
	kind := map[bool]string{false: "plain", true: "TLS"}[w.config != nil]
	stream, err := w.ask(narrowLinks[kind](t, s), target)
	if err != nil {
		t.Fatal(err)
	}
	stream.begin(t)
	return stream
}

func TestClientsThatDoNotReadTheirStreamAreDroppedAndLoseNothing(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "comet {\n\t\thistory 10k 1h\n\t}", "buffer 16 64KiB", p.opts...)
			for _, w := range ways(t, s)[1:3] {
				t.Run(w.name, func(t *testing.T) {
					const n = 4
					field := freshField(t, s)
					first := now(t, s)
					target := "/push?format=ndjson&after=" + escape(first) + "&field=" + field
					var slow, quick []*stream
					for range n {
						slow = append(slow, slowStream(t, s, w, target))
						quick = append(quick, openStream(t, w, target))
					}
					comettest.WaitSubscribers(t, s, field, 2*n)
					const dropped = "comet_dropped_clients_total"
					before := metrics(t, s)[dropped]

					filler := strings.Repeat("x", 8<<10)
					total := 0
					var longest time.Duration
					start := time.Now()
					for total%20 != 0 || total == 0 || metrics(t, s)[dropped] < before+n {
						began := time.Now()
						comettest.Publish(t, s, fmt.Sprintf("%s=%d %s", field, total, filler))
						for _, stream := range quick {
							stream.want(t, fmt.Sprintf("%d %s", total, filler))
						}
						longest = max(longest, time.Since(began))
						if total++; total > 9_000 {
							t.Fatal("who does not read is not dropped")
						}
					}
					// Not only when they have read nothing for half a minute.
					elapsed(t, "the drop", start, 0, 20*time.Second)
					t.Logf("%d messages; the slowest took %s to the quick clients", total, longest.Round(time.Millisecond))
					if longest > 5*time.Second {
						t.Errorf("a message took %s to those who read", longest)
					}
					comettest.WaitSubscribers(t, s, field, n)
					if got := metrics(t, s)[dropped] - before; got != n {
						t.Errorf("%s grew by %v; want %d", dropped, got, n)
					}

					// What they were sent they read now, and go on from there.
					var group sync.WaitGroup
					for i, stream := range slow {
						group.Go(func() {
							cursor, next := first, 0
							for next < total {
								p, err := stream.next()
								if err != nil {
									if stream, err = w.open("/push?format=ndjson&field="+field, noCut, "Last-Event-ID: "+cursor); err != nil {
										t.Errorf("slow client %d: %v", i, err)
										return
									}
									defer stream.close()
									continue
								}
								switch p.kind { //nolint:exhaustive // the others tell nothing that can be missed
								case missedPiece:
									t.Errorf("slow client %d is told a gap", i)
									return
								case messagePiece:
									if number, _, _ := strings.Cut(p.data, " "); number != fmt.Sprint(next) {
										t.Errorf("slow client %d got %s; want %d", i, number, next)
										return
									}
									cursor = p.cursor
									next++
								}
							}
						})
					}
					group.Wait()
				})
			}
		})
	}
}

// What is kept for a client bounds how far it may be behind, not what it may be sent.
func TestClientsThatReadAreSentMoreThanTheirBuffer(t *testing.T) {
	t.Parallel()
	overWays(t, "comet {\n\t\thistory 10k 1h\n\t}", "buffer 4 16KiB", func(t *testing.T, s *comettest.Server, w way, field string) {
		large := large(500_000)
		for _, format := range []string{"format=sse", "format=ndjson"} {
			start := now(t, s)
			stream := openStream(t, w, "/push?"+format+"&after=now&field="+field)
			for range 3 {
				comettest.Publish(t, s, field+"="+large)
				stream.want(t, large)
			}
			var want []string
			for i := range 300 {
				want = append(want, fmt.Sprintf("%d %s", i, large[:4000]))
			}
			for _, data := range want {
				comettest.Publish(t, s, field+"="+data)
				stream.want(t, data)
			}
			stream.close() // what is not read keeps back what else is on its connection
			// All of it at once, to one who comes back.
			stream = openStream(t, w, "/push?"+format+"&field="+field, "Last-Event-ID: "+start)
			stream.want(t, large, large, large)
			stream.want(t, want...)
			comettest.Publish(t, s, field+"=and on")
			stream.want(t, "and on")
			stream.close()
		}
	})
}

// One who reads a little at a time is not dropped for it.
func TestAClientThatReadsItsStreamSlowlyGetsEveryByte(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "comet {\n\t\thistory 10k 1h\n\t}", "", p.opts...)
			for _, w := range ways(t, s)[1:3] {
				t.Run(w.name, func(t *testing.T) {
					field := freshField(t, s)
					body := large(300_000)
					stream := slowStream(t, s, w, "/push?format=sse&after=now&field="+field)
					stream.r = bufio.NewReaderSize(&pausingReader{stream.r}, 4096)
					comettest.Publish(t, s, field+"="+body)
					comettest.Publish(t, s, field+"=next")
					stream.want(t, body, "next")
				})
			}
		})
	}
}

// pausingReader pauses before each of its reads.
type pausingReader struct{ r io.Reader }

func (p *pausingReader) Read(b []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return p.r.Read(b[:min(len(b), 4096)])
}

// A client that does not read has an end, also when nothing more is published.
func TestAClientThatNeverReadsItsStreamIsDropped(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "", "buffer 1000 64MiB\n\t\t\theartbeat 2s", p.opts...)
			field := freshField(t, s)
			var all []*stream
			for _, w := range ways(t, s)[1:3] {
				all = append(all, slowStream(t, s, w, "/push?format=sse&after=now&field="+field))
			}
			comettest.WaitSubscribers(t, s, field, len(all))
			for range 8 {
				comettest.PublishAs(t, s, "field="+field, "text/plain", large(1<<20))
			}
			start := time.Now()
			comettest.Eventually(t, 3*comettest.Deadline, func() bool {
				n, _ := comettest.Subscribers(t, s, field)
				return n == 0
			}, "who does not read is not dropped")
			t.Logf("dropped after %s", time.Since(start).Round(100*time.Millisecond))
			for _, stream := range all {
				if _, err := io.Copy(io.Discard, stream.r); err == nil {
					t.Error("a stream that was dropped ends as if it were whole")
				}
			}
		})
	}
}
