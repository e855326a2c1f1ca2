package main_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// Whatever compresses answers, what a stream tells does not wait for more of it.
func TestStreamsAreNotKeptBackByEncode(t *testing.T) {
	t.Parallel()
	sites := map[string]string{
		"encode beside comet": "\tencode gzip zstd\n" + streamed(""),
		"encode around comet": "\troute {\n\tencode {\n\t\tgzip\n\t\tzstd\n\t\tminimum_length 1\n\t\tmatch {\n\t\t\tstatus 200\n\t\t}\n\t}\n" +
			streamed("") + "\t}\n",
	}
	for name, body := range sites {
		for _, p := range parkings(t) {
			t.Run(name+", "+p.name, func(t *testing.T) {
				t.Parallel()
				s := comettest.Start(t, both("", body), p.opts...)
				for _, w := range ways(t, s) {
					for _, format := range streamFormats {
						field := freshField(t, s)
						start := time.Now()
						// openStream has read the head: nothing was published yet.
						stream := openStream(t, w, "/push?"+format+"&after=now&field="+field, "Accept-Encoding: gzip")
						for i := range 5 {
							comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, i))
							stream.want(t, fmt.Sprint(i))
						}
						elapsed(t, w.name+", "+format, start, 0, 15*time.Second)
						stream.close()
						comettest.WaitSubscribers(t, s, field, 0)
					}
				}
			})
		}
	}
}

func TestStreamsBehindProxies(t *testing.T) {
	t.Parallel()
	for _, kind := range proxyKinds {
		if kind.name != "nginx" && kind.name != "caddy" {
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			if missing := kind.missing(); missing != "" {
				t.Skip(missing)
			}
			b := startBehind(t, kind)
			fronts := map[string]string{"as docs/behind.md has it": "FRONT"}
			if kind.plain > 0 {
				fronts["with its buffers on, in HTTP/1.0"] = "PLAIN"
			}
			for name, front := range fronts {
				for _, format := range []string{"format=sse", "format=ndjson"} {
					t.Run(name+", "+format, func(t *testing.T) {
						w := way{proto: "HTTP/1.1", addr: fmt.Sprintf("127.0.0.1:%d", b.ports[front])}
						// The port PLAIN leads to another site, of the same store.
						stream := openStream(t, w, "/push?after=now&field=id&"+format)
						comettest.WaitSubscribers(t, b.Server, "id", 1)
						var delays []time.Duration
						for i := range 20 {
							published := time.Now()
							comettest.Publish(t, b.Server, fmt.Sprintf("id=%d", i))
							stream.want(t, fmt.Sprint(i))
							delays = append(delays, time.Since(published))
						}
						slices.Sort(delays)
						t.Logf("20 messages: median %s, most %s", delays[10].Round(10*time.Microsecond), delays[19].Round(10*time.Microsecond))
						if delays[10] > time.Second {
							t.Errorf("the median delay is %s; want 100 ms or less, on a machine with nothing else to do", delays[10])
						}
						stream.close()
						left := time.Now()
						comettest.WaitSubscribers(t, b.Server, "id", 0)
						elapsed(t, "forgetting a client that left", left, 0, 15*time.Second)
					})
				}
			}
			t.Run("it resumes after a restart of Comet", func(t *testing.T) {
				w := way{proto: "HTTP/1.1", addr: fmt.Sprintf("127.0.0.1:%d", b.ports["FRONT"])}
				stream := openStream(t, w, "/push?after=now&field=id&format=sse")
				comettest.Publish(t, b.Server, "id=before")
				cursor := stream.want(t, "before").cursor
				b.Stop(t)
				stream.wantCleanEnd(t)
				b.Restart(t)
				comettest.Publish(t, b.Server, "id=after")
				comettest.Eventually(t, comettest.Deadline, func() bool {
					next, err := w.open("/push?field=id&format=sse", noCut, "Last-Event-ID: "+cursor)
					if err != nil {
						return false // 502, until the proxy looks again
					}
					t.Cleanup(next.close)
					next.begin(t)
					next.want(t, "after")
					return true
				}, kind.name, " does not find Comet again")
			})
		})
	}
}

func TestWebSocketsBehindProxies(t *testing.T) {
	t.Parallel()
	for _, kind := range proxyKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			if missing := kind.missing(); missing != "" {
				t.Skip(missing)
			}
			b := startBehind(t, kind)
			front := fmt.Sprintf("127.0.0.1:%d", b.ports["FRONT"])
			conn, err := net.Dial("tcp", front)
			if err != nil {
				t.Fatal(err)
			}
			// The page is one of the site, under whatever name the proxy has it.
			ws := openSocket(t, newLink(t, conn, front), "/push?after=now&field=id", "Origin: http://"+front)
			comettest.WaitSubscribers(t, b.Server, "id", 1)
			for i := range 20 {
				comettest.Publish(t, b.Server, fmt.Sprintf("id=%d", i))
				ws.want(fmt.Sprint(i))
			}
			ws.send(final|textFrame, `{"watch":["secret"]}`)
			if text := string(ws.wantFrame(textFrame)); !strings.Contains(text, `"status":403`) {
				t.Errorf("told %s", text)
			}
			b.Stop(t)
			ws.wantClosed(1001)
		})
	}
}
