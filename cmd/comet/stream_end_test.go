package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestTheFirstBytesOfAStreamGoOutAtOnce(t *testing.T) {
	t.Parallel()
	overWays(t, "", "", func(t *testing.T, s *comettest.Server, w way, field string) {
		for _, format := range streamFormats {
			start := time.Now()
			stream, err := w.open("/push?"+format+"&after=now&field="+field, noCut)
			if err != nil {
				t.Fatal(err)
			}
			if stream.format != "multipart" { // that has nothing to tell before its first message
				stream.begin(t)
			}
			elapsed(t, format+": the head", start, 0, 10*time.Second)
			comettest.WaitSubscribers(t, s, field, 1)
			stream.close()
			comettest.WaitSubscribers(t, s, field, 0)
		}
	})
}

// The heartbeat is what tells a client that it was not forgotten.
func TestAStreamWithNothingToTellHasHeartbeats(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "", "heartbeat 1s", p.opts...)
			field := freshField(t, s)
			var all, others []*stream
			start := time.Now()
			for _, w := range ways(t, s) {
				for _, format := range []string{"sse", "ndjson"} {
					all = append(all, openStream(t, w, "/push?after=now&field="+field+"&format="+format))
				}
				for _, format := range []string{"iframe", "multipart"} {
					others = append(others, openStream(t, w, "/push?after=now&field="+field+"&format="+format))
				}
			}
			opened := time.Since(start)
			for _, stream := range all {
				for range 3 {
					if p := stream.read(t); p.kind != heartbeatPiece {
						t.Fatalf("%s, %s: got %+v; want a heartbeat", stream.proto, stream.format, p)
					}
				}
				elapsed(t, "three heartbeats", start, 2900*time.Millisecond, opened+15*time.Second)
			}
			for _, stream := range others { // what they have is no piece
				for time.Since(start) < opened+4*time.Second {
					if _, err := stream.r.ReadByte(); err != nil {
						t.Fatalf("%s, %s: no heartbeat: %v", stream.proto, stream.format, err)
					}
				}
			}
			comettest.Publish(t, s, field+"=1")
			for _, stream := range all {
				stream.want(t, "1")
				if p := stream.read(t); p.kind != heartbeatPiece {
					t.Fatalf("%s, %s: got %+v; want a heartbeat", stream.proto, stream.format, p)
				}
			}
		})
	}
}

// One who is cut before the first message goes on from when the stream began.
func TestAStreamTellsItsCursorBeforeItsFirstMessage(t *testing.T) {
	t.Parallel()
	overWays(t, "", "heartbeat 1s", func(t *testing.T, s *comettest.Server, w way, field string) {
		for _, format := range []string{"format=sse", "format=ndjson"} {
			stream := openStream(t, w, "/push?"+format+"&after=now&field="+field)
			if p := stream.read(t); p.kind != heartbeatPiece || stream.cursor == "" {
				t.Fatalf("after %+v its cursor is %q", p, stream.cursor)
			}
			stream.close()
			comettest.WaitSubscribers(t, s, field, 0)
			comettest.Publish(t, s, field+"=meanwhile")
			next := openStream(t, w, "/push?"+format+"&after=now&field="+field, "Last-Event-ID: "+stream.cursor)
			next.want(t, "meanwhile")
			next.close()
			comettest.WaitSubscribers(t, s, field, 0)
		}
	})
}

func TestAStreamEndsAfterItsLongestTimeAndItsConnectionGoesOn(t *testing.T) {
	t.Parallel()
	overWays(t, "", "stream_max 1s-2s\n\t\t\theartbeat 20s\n\t\t\tretry 1s-3s", func(t *testing.T, s *comettest.Server, w way, field string) {
		for _, format := range streamFormats {
			start := time.Now()
			stream := openStream(t, w, "/push?"+format+"&after=now&field="+field)
			comettest.WaitSubscribers(t, s, field, 1)
			comettest.Publish(t, s, field+"=1")
			cursor := stream.want(t, "1").cursor
			stream.wantCleanEnd(t)
			elapsed(t, format, start, 900*time.Millisecond, 2*time.Second+lateness)
			if format != "format=multipart" && format != "format=iframe" && (stream.retry < 0 || stream.retry > 3000) {
				t.Errorf("%s: retry is %d ms; the route's is 1s-3s", format, stream.retry)
			}
			comettest.WaitSubscribers(t, s, field, 0)
			comettest.Publish(t, s, field+"=2") // in between
			switch {
			case !w.onLink():
			case w.proto == "HTTP/1.0":
				stream.link.t = t
				stream.link.wantEnd()
			default:
				l := stream.link
				l.t = t
				l.get("/static.txt")
				l.wantBody(staticText)
				next, err := w.ask(l, "/push?"+format+"&field="+field, "Last-Event-ID: "+cursor)
				if err != nil {
					t.Fatalf("a second stream on the connection: %v", err)
				}
				next.begin(t)
				next.want(t, "2")
				next.wantCleanEnd(t)
				comettest.WaitSubscribers(t, s, field, 0)
				l.holdAndWake(s, field, "3")
			}
			stream.close()
		}
	})
}

// What a client sends while its stream goes on is its next request.
func TestARequestBehindAStreamIsAnsweredAfterIt(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "", "stream_max 2s", p.opts...)
			for _, w := range ways(t, s)[1:3] {
				field := freshField(t, s)
				stream := openStream(t, w, "/push?format=sse&after=now&field="+field)
				stream.link.t = t
				stream.link.get("/static.txt")
				comettest.Publish(t, s, field+"=1")
				stream.want(t, "1")
				stream.wantCleanEnd(t)
				stream.link.wantBody(staticText)
				stream.link.holdAndWake(s, field, "2")
			}
		})
	}
}

func TestAClientThatLeavesItsStreamIsForgottenAtOnce(t *testing.T) {
	t.Parallel()
	overWays(t, "", "", func(t *testing.T, s *comettest.Server, w way, field string) {
		open := func() *stream {
			return openStream(t, w, "/push?format=sse&after=now&field="+field+"&field=news")
		}
		comettest.Publish(t, s, "news=1")
		var streams []*stream
		for range 5 {
			streams = append(streams, open())
		}
		comettest.WaitSubscribers(t, s, field, 5)
		wantHeld(t, s, w, 5)
		for i, stream := range streams {
			stream.close()
			comettest.WaitSubscribers(t, s, field, 4-i)
		}
		comettest.WaitSubscribers(t, s, "news", 0)
		wantHeld(t, s, w, 0)
		if !w.onLink() {
			return
		}
		for _, d := range departures {
			if w.config == nil && !d.plain || w.config != nil && !d.overTLS {
				continue
			}
			for _, after := range []string{"at once", "after a message"} {
				calm := openFiles(s)
				stream := open()
				comettest.WaitSubscribers(t, s, field, 1)
				if after == "after a message" {
					comettest.Publish(t, s, field+"=1")
					stream.want(t, "1")
				}
				d.leave(stream.link)
				start := time.Now()
				comettest.WaitSubscribers(t, s, field, 0)
				comettest.Eventually(t, comettest.Deadline, func() bool { return openFiles(s) <= calm+2 },
					d.name, ", ", after, ": its descriptor stays")
				elapsed(t, d.name+", "+after, start, 0, 10*time.Second)
			}
		}
	})
}

// wantHeld checks how many streams the metrics and the admin API know of, all of them
// in one protocol.
func wantHeld(t *testing.T, s *comettest.Server, w way, n int) {
	t.Helper()
	wantMetrics(t, s, map[string]float64{"comet_held_requests": float64(n)})
	if got := heldNow(t, s); got != n {
		t.Errorf("the admin API tells of %d held requests; want %d", got, n)
	}
	// Others may have connections that are parked between two requests.
	if parked := parkedNow(t, s); w.parks && int(parked) < n {
		t.Errorf("%v connections are parked; want %d or more", parked, n)
	}
}

func TestAReloadCutsNoStreamAndEndsThoseWithoutARoute(t *testing.T) {
	t.Parallel()
	config := func(round int, hold string) string {
		return both("", fmt.Sprintf("\theader X-Round %d\n\tcomet {\n\t\tpublish /config\n%s\n\t}\n\trespond app", round, hold))
	}
	const (
		push = "\t\thold /push {\n\t\t\tfield **\n\t\t}\n"
		less = "\t\thold /push {\n\t\t\tfield news\n\t\t}\n"
		side = "\t\thold /side {\n\t\t\tfield **\n\t\t}\n"
	)
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := comettest.Start(t, config(0, push), p.opts...)
			round := 0
			for _, w := range ways(t, s)[:4] {
				t.Run(w.name, func(t *testing.T) {
					field := freshField(t, s)
					comettest.Publish(t, s, "news=1")
					fresh := func() way { // the connections of HTTP/2 may have been told to go away
						if !w.onLink() {
							w.client = s.TLSClient(t, true)
						}
						return w
					}
					var streams []*stream
					for _, format := range []string{"sse", "ndjson"} {
						streams = append(streams, openStream(t, fresh(), "/push?after=now&format="+format+"&field="+field))
					}
					for range 3 {
						round++
						s.Reload(t, config(round, push+side))
						comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, round))
						for _, stream := range streams {
							stream.want(t, fmt.Sprint(round))
						}
					}
					news := openStream(t, fresh(), "/push?after=now&format=sse&field=news")
					round++
					s.Reload(t, config(round, less+side))
					for _, stream := range streams {
						stream.wantCleanEnd(t)
					}
					comettest.Publish(t, s, "news=2")
					news.want(t, "2")
					round++
					s.Reload(t, config(round, side))
					news.wantCleanEnd(t)
					stays := openStream(t, fresh(), "/side?after=now&format=sse&field="+field)
					s.Reload(t, both("", "respond \"app\""))
					stays.wantCleanEnd(t)
					s.Reload(t, config(round, push))
				})
			}
		})
	}
}

func TestAnExitEndsEveryStreamCleanly(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "comet {\n\t\tdrain 1s\n\t}", "", p.opts...)
			field := freshField(t, s)
			var streams []*stream
			for _, w := range ways(t, s) {
				for _, format := range []string{"format=sse", "format=ndjson"} {
					for range 5 {
						streams = append(streams, openStream(t, w, "/push?after=now&field="+field+"&"+format))
					}
				}
			}
			comettest.WaitSubscribers(t, s, field, len(streams))
			comettest.Publish(t, s, field+"=1")
			var cursor string
			for _, stream := range streams {
				cursor = stream.want(t, "1").cursor
			}
			start := time.Now()
			if err := s.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			var group sync.WaitGroup
			for _, stream := range streams {
				group.Go(func() {
					before := stream.retries
					for {
						p, err := stream.next()
						if errors.Is(err, io.EOF) {
							break
						}
						if err != nil || p.kind != heartbeatPiece {
							t.Errorf("%s, %s: at the exit comes %+v, %v", stream.proto, stream.format, p, err)
							return
						}
					}
					if stream.retries == before {
						t.Errorf("%s, %s: the end tells no retry", stream.proto, stream.format)
					}
				})
			}
			group.Wait()
			s.WaitExit(t)
			elapsed(t, "the exit with drain 1s", start, 0, 15*time.Second)

			s.Restart(t)
			comettest.Publish(t, s, field+"=2")
			stream := openStream(t, plainWay(s), "/push?format=sse&field="+field, "Last-Event-ID: "+cursor)
			stream.want(t, "2")
		})
	}
}

func TestTheAccessLogTellsOfAStreamWhenItIsOver(t *testing.T) {
	t.Parallel()
	config := func(hold string) string {
		return both("", "\tlog\n\tcomet {\n\t\tpublish /config\n"+hold+"\n\t}\n")
	}
	const hold = "\t\thold /push {\n\t\t\tfield **\n\t\t\tstream_max 2s\n\t\t}\n\t\thold /long {\n\t\t\tfield **\n\t\t}\n"
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := comettest.Start(t, config(hold), p.opts...)
			lines := func(mark string) (found []string) {
				for line := range strings.Lines(s.Logs()) {
					if strings.Contains(line, mark+".") && strings.Contains(line, "handled request") {
						found = append(found, line)
					}
				}
				return found
			}
			for i, w := range ways(t, s)[:4] {
				for _, c := range []struct {
					path, outcome string
					end           func(t *testing.T, stream *stream)
				}{
					{"/push", "timeout", func(t *testing.T, stream *stream) { stream.wantCleanEnd(t) }},
					{"/long", "left", func(_ *testing.T, stream *stream) { stream.close() }},
					{"/long", "gone", func(t *testing.T, stream *stream) {
						s.Reload(t, config(""))
						stream.wantCleanEnd(t)
						s.Reload(t, config(hold))
					}},
				} {
					t.Run(w.name+", "+c.outcome, func(t *testing.T) {
						if !w.onLink() {
							w.client = s.TLSClient(t, true)
						}
						field := freshField(t, s)
						mark := fmt.Sprintf("_mark=%d-%s", i, c.outcome)
						start := time.Now()
						stream := openStream(t, w, c.path+"?format=sse&after=now&field="+field+"&"+mark+".")
						comettest.Publish(t, s, field+"=1")
						stream.want(t, "1")
						if early := lines(mark); len(early) > 0 {
							t.Errorf("there is a line before the stream's end: %s", early)
						}
						c.end(t, stream)
						comettest.Eventually(t, comettest.Deadline, func() bool { return len(lines(mark)) > 0 }, "no line of the stream")
						var line struct {
							Duration, Status float64
							Size             int
							Outcome          string   `json:"comet_outcome"`
							Fields           []string `json:"comet_field"`
							Held             float64  `json:"comet_held"`
						}
						text := lines(mark)[0]
						if err := json.Unmarshal([]byte(text), &line); err != nil {
							t.Fatal(err)
						}
						if line.Outcome != c.outcome || line.Status != 200 || fmt.Sprint(line.Fields) != "["+field+"]" || line.Size == 0 {
							t.Errorf("the line is %s; want the outcome %s", text, c.outcome)
						}
						if took := time.Since(start).Seconds(); line.Duration > took || line.Held > took || line.Held <= 0 ||
							c.outcome == "timeout" && line.Duration < 1.9 {
							t.Errorf("within %.3f s the line tells %s", took, text)
						}
						if c.outcome == "timeout" && line.Size != stream.bytes.n {
							t.Errorf("the line tells of %d bytes; %d came", line.Size, stream.bytes.n)
						}
						if all := lines(mark); len(all) != 1 {
							t.Errorf("there are %d lines of one stream", len(all))
						}
					})
				}
			}
		})
	}
}

// A stream counts as one request, whatever it is told.
func TestStreamsAreCountedOnce(t *testing.T) {
	t.Parallel()
	overWays(t, "", "", func(t *testing.T, s *comettest.Server, w way, field string) {
		const left = `comet_hold_requests_total{outcome="left"}`
		before := metrics(t, s)[left]
		stream := openStream(t, w, "/push?format=ndjson&after=now&field="+field)
		for i := range 5 {
			comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, i))
			stream.want(t, fmt.Sprint(i))
		}
		wantMetrics(t, s, map[string]float64{"comet_held_requests": 1, left: before})
		stream.close()
		wantMetrics(t, s, map[string]float64{"comet_held_requests": 0, left: before + 1})
	})
}

// What holds are limited to, streams are too.
func TestStreamsCountAgainstTheLimitsOfHolds(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "comet {\n\t\tmax_held 3\n\t}", "", p.opts...)
			field := freshField(t, s)
			var streams []*stream
			for range 3 {
				streams = append(streams, openStream(t, plainWay(s), "/push?format=sse&after=now&field="+field))
			}
			comettest.WaitSubscribers(t, s, field, 3)
			a := s.Do(t, request{URL: "/push?format=sse&after=now&field=" + field})
			wantStatus(t, a, 503)
			if a.Header.Get("Retry-After") == "" {
				t.Errorf("got %s; want Retry-After", a)
			}
			streams[0].close()
			comettest.WaitSubscribers(t, s, field, 2)
			openStream(t, plainWay(s), "/push?format=sse&after=now&field="+field)
		})
	}
}
