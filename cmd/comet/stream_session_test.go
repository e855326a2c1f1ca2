package main_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// change is what is asked for with a session: watch, unwatch and after.
type change map[string]any

// control asks for a change of what the stream of a session watches.
func control(t *testing.T, s *comettest.Server, session string, c change) comettest.Answer {
	t.Helper()
	body, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return s.Do(t, request{URL: "/push?session=" + escape(session), Type: "application/json", Body: string(body)})
}

// mustControl is control for what is allowed.
func mustControl(t *testing.T, s *comettest.Server, session string, c change) {
	t.Helper()
	if a := control(t, s, session, c); a.Status != 200 || a.JSON == nil {
		t.Fatalf("%v: got %s; want 200 and JSON", c, a)
	}
}

func TestASessionChangesWhatAStreamWatches(t *testing.T) {
	t.Parallel()
	overWays(t, "", "", func(t *testing.T, s *comettest.Server, w way, field string) {
		for _, format := range []string{"format=sse&wrap=json", "format=ndjson", "format=iframe"} {
			one, two := freshField(t, s), freshField(t, s)
			stream := openStream(t, w, "/push?"+format+"&after=now&field="+one)
			comettest.Publish(t, s, two+"=not watched")
			comettest.Publish(t, s, one+"=1")
			last := stream.want(t, "1")

			mustControl(t, s, stream.session, change{"watch": []string{two}, "after": last.cursor})
			comettest.WaitSubscribers(t, s, two, 1)
			comettest.Publish(t, s, two+"=2")
			comettest.Publish(t, s, one+"=3")
			if p := stream.want(t, "2", "3"); p.field != one {
				t.Errorf("got %+v; want the field %s", p, one)
			}

			mustControl(t, s, stream.session, change{"unwatch": []string{one}})
			comettest.WaitSubscribers(t, s, one, 0)
			comettest.Publish(t, s, one+"=not watched")
			comettest.Publish(t, s, two+"=4")
			stream.want(t, "4")

			mustControl(t, s, stream.session, change{"watch": []string{one, field}, "unwatch": []string{two}})
			comettest.WaitSubscribers(t, s, two, 0)
			comettest.Publish(t, s, one+"=5&"+two+"=not watched&"+field+"=6")
			stream.want(t, "5", "6")

			stream.close()
			comettest.WaitSubscribers(t, s, field, 0)
			comettest.WaitSubscribers(t, s, one, 0)
			comettest.Eventually(t, comettest.Deadline, func() bool {
				return control(t, s, stream.session, change{"watch": []string{two}}).Status == 404
			}, "the session outlives its stream")
		}
	})
}

// Between what a client has seen of a field and its watching it nothing is lost.
func TestAStreamMayWatchNothingForAWhile(t *testing.T) {
	t.Parallel()
	overWays(t, "", "heartbeat 1s", func(t *testing.T, s *comettest.Server, w way, field string) {
		for _, format := range []string{"format=sse&wrap=json", "format=ndjson"} {
			stream := openStream(t, w, "/push?after=now&"+format+"&field="+field)
			mustControl(t, s, stream.session, change{"unwatch": []string{field}})
			comettest.WaitSubscribers(t, s, field, 0)
			comettest.Publish(t, s, field+"=meanwhile")
			mustControl(t, s, stream.session, change{"watch": []string{field}}) // from where it is
			comettest.Publish(t, s, field+"=on")
			stream.want(t, "meanwhile", "on")
			stream.close()
			comettest.WaitSubscribers(t, s, field, 0)
		}
	})
}

func TestWatchingAFieldByItsSessionHasNoGap(t *testing.T) {
	t.Parallel()
	overWays(t, "", "", func(t *testing.T, s *comettest.Server, w way, field string) {
		t.Run("after a cursor", func(t *testing.T) {
			late := freshField(t, s)
			cursor := now(t, s)
			stream := openStream(t, w, "/push?format=ndjson&after=now&field="+field)
			comettest.Publish(t, s, late+"=1")
			comettest.Publish(t, s, field+"=a")
			comettest.Publish(t, s, late+"=2")
			stream.want(t, "a")
			mustControl(t, s, stream.session, change{"watch": []string{late}, "after": cursor})
			stream.want(t, "1", "2")
			comettest.Publish(t, s, late+"=3&"+field+"=b")
			stream.want(t, "3", "b")
		})
		t.Run("two fields, one right after the other", func(t *testing.T) {
			first, second := freshField(t, s), freshField(t, s)
			cursor := now(t, s)
			for n := range 300 { // more than is sent at once
				comettest.Publish(t, s, fmt.Sprintf("%s=%d %s", first, n, large(8<<10)))
			}
			comettest.Publish(t, s, second+"=1")
			stream := openStream(t, w, "/push?format=ndjson&after=now&field="+field)
			mustControl(t, s, stream.session, change{"watch": []string{first}, "after": cursor})
			mustControl(t, s, stream.session, change{"watch": []string{second}, "after": cursor})
			for n := range 300 {
				if p := stream.message(t); !strings.HasPrefix(p.data, fmt.Sprint(n, " ")) {
					t.Fatalf("got %.40s; want number %d", p.data, n)
				}
			}
			stream.want(t, "1")
		})
		t.Run("from the last cursor that was sent", func(t *testing.T) {
			late := freshField(t, s)
			stream := openStream(t, w, "/push?format=ndjson&after=now&field="+field)
			comettest.Publish(t, s, late+"=before")
			comettest.Publish(t, s, field+"=a")
			stream.want(t, "a")
			comettest.Publish(t, s, late+"=1")
			comettest.Publish(t, s, late+"=2")
			mustControl(t, s, stream.session, change{"watch": []string{late}})
			stream.want(t, "1", "2")
		})
		t.Run("again and again while it is published to", func(t *testing.T) {
			busy := freshField(t, s)
			total := scale(400, 100, 100)
			stream := openStream(t, w, "/push?format=ndjson&after=now&field="+field+"&field="+busy)
			var publishing sync.WaitGroup
			defer publishing.Wait()
			publishing.Go(func() {
				from := publisher{s, "m"}
				for n := range total {
					if err := from.publish(t.Context(), busy, n); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for n := 0; n < total; n++ {
				p := stream.message(t)
				if p.field != busy || p.data != fmt.Sprint("m:", n) {
					t.Fatalf("got %+v; want number %d", p, n)
				}
				if cursor := p.cursor; n%50 == 49 {
					mustControl(t, s, stream.session, change{"unwatch": []string{busy}})
					// What was on its way comes still. Nothing more does after this.
					comettest.Publish(t, s, field+"=mark")
					for p := stream.message(t); p.field == busy; p = stream.message(t) {
						if n++; p.data != fmt.Sprint("m:", n) {
							t.Fatalf("got %+v; want number %d", p, n)
						}
						cursor = p.cursor
					}
					mustControl(t, s, stream.session, change{"watch": []string{busy}, "after": cursor})
				}
			}
		})
		t.Run("a gap is told", func(t *testing.T) {
			stream := openStream(t, w, "/push?format=ndjson&after=now&field="+field)
			gone := freshField(t, s)
			cursor := now(t, s)
			comettest.Publish(t, s, gone+"=1")
			wantStatus(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=" + gone}), 200)
			comettest.Publish(t, s, gone+"=2")
			mustControl(t, s, stream.session, change{"watch": []string{gone}, "after": cursor})
			stream.wantMissed(t, gone)
			stream.want(t, "2")
		})
	})
}

func TestASessionIsRefusedWhatARequestIs(t *testing.T) {
	t.Parallel()
	const hold = `
	comet {
		publish /config
		hold /push {
			field id news room/*
		}
		hold /other {
			field secret
		}
	}
`
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := comettest.Start(t, both("", hold), p.opts...)
			comettest.Publish(t, s, "id=1&news=1&secret=1")
			stream := openStream(t, plainWay(s), "/push?format=ndjson&after=now&field=id")
			same := func(t *testing.T) { // it watches what it did
				t.Helper()
				comettest.Publish(t, s, "secret=2&news=2&id=same")
				stream.want(t, "same")
			}
			for name, c := range map[string]struct {
				body   string
				status []int
			}{
				"a field that the route does not allow":     {`{"watch":["secret"]}`, []int{403}},
				"one that it does not allow beside another": {`{"watch":["news","secret"]}`, []int{403}},
				"a glob":               {`{"watch":["room/*/x"]}`, []int{403}},
				"a bad name":           {`{"watch":["room/\u0001"]}`, []int{400, 403}},
				"an empty name":        {`{"watch":[""]}`, []int{400, 403}},
				"a bad cursor":         {`{"watch":["news"],"after":"nonsense"}`, []int{400}},
				"no JSON":              {`watch=news`, []int{400, 415}},
				"half of it":           {`{"watch":["news"]`, []int{400}},
				"something behind it":  {`{"watch":["news"]} {}`, []int{400}},
				"no object":            {`["news"]`, []int{400}},
				"no list":              {`{"watch":"news"}`, []int{400}},
				"nothing":              {``, []int{400, 415}},
				"much more than asked": {`{"watch":["news"],"x":"` + strings.Repeat("x", 2<<20) + `"}`, []int{400, 413}},
			} {
				t.Run(name, func(t *testing.T) {
					a := s.Do(t, request{Method: "POST", URL: "/push?session=" + escape(stream.session), Type: "application/json", Body: c.body})
					wantStatus(t, a, c.status...)
					if strings.TrimSpace(a.Body) == "" {
						t.Errorf("got %s; want a line that tells why", a)
					}
					same(t)
				})
			}

			t.Run("more fields than 64, those it has among them", func(t *testing.T) {
				rooms := func(from, to int) (names []string) {
					for i := from; i < to; i++ {
						names = append(names, fmt.Sprint("room/", i))
					}
					return names
				}
				wantStatus(t, control(t, s, stream.session, change{"watch": rooms(0, 65)}), 400)
				mustControl(t, s, stream.session, change{"watch": rooms(0, 63)}) // with id
				wantStatus(t, control(t, s, stream.session, change{"watch": rooms(63, 64)}), 400)
				mustControl(t, s, stream.session, change{"watch": rooms(0, 63)}) // it has them
				mustControl(t, s, stream.session, change{"watch": rooms(63, 64), "unwatch": rooms(0, 1)})
				same(t)
				comettest.Publish(t, s, "room/0=no&room/63=yes&room/1=yes")
				stream.want(t, "yes", "yes")
				mustControl(t, s, stream.session, change{"unwatch": rooms(0, 64)})
				same(t)
			})

			t.Run("a session that there is not", func(t *testing.T) {
				for _, session := range []string{"nonsense", stream.session + "x", "x" + stream.session, stream.session[1:], "0", "-1"} {
					wantStatus(t, control(t, s, session, change{"watch": []string{"news"}}), 404)
				}
				same(t)
			})

			t.Run("no session", func(t *testing.T) {
				a := s.Do(t, request{Method: "POST", URL: "/push", Type: "application/json", Body: `{"watch":["news"]}`})
				wantStatus(t, a, 405)
				wantStatus(t, s.Do(t, request{Method: "PUT", URL: "/push?session=" + escape(stream.session), Body: `{"watch":["news"]}`}), 405)
				same(t)
			})

			// What a stream may watch is what its own route allows.
			t.Run("by the rules of another route", func(t *testing.T) {
				a := s.Do(t, request{Method: "POST", URL: "/other?session=" + escape(stream.session), Type: "application/json", Body: `{"watch":["secret"]}`})
				wantStatus(t, a, 403, 404)
				same(t)
			})

			t.Run("sessions are not to be guessed", func(t *testing.T) {
				other := openStream(t, plainWay(s), "/push?format=ndjson&after=now&field=id")
				if other.session == stream.session || len(stream.session) < 16 {
					t.Errorf("the sessions are %q and %q; want long ones that differ", stream.session, other.session)
				}
				mustControl(t, s, other.session, change{"watch": []string{"news"}})
				comettest.Publish(t, s, "news=for the other")
				other.want(t, "for the other")
				same(t)
			})
		})
	}
}

func TestASessionGoesOnOverAReload(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			config := func(round int) string {
				return both("", fmt.Sprintf("\theader X-Round %d\n", round)+streamed(""))
			}
			s := comettest.Start(t, config(0), p.opts...)
			one, two := freshField(t, s), freshField(t, s)
			stream := openStream(t, plainWay(s), "/push?format=sse&after=now&field="+one)
			for round := range 3 {
				s.Reload(t, config(round+1))
				mustControl(t, s, stream.session, change{"watch": []string{two}})
				comettest.Publish(t, s, fmt.Sprintf("%s=%d", two, round))
				stream.want(t, fmt.Sprint(round))
				mustControl(t, s, stream.session, change{"unwatch": []string{two}})
				comettest.WaitSubscribers(t, s, two, 0)
			}
			// What the new configuration does not allow is not watched any more.
			s.Reload(t, strings.Replace(config(9), "field id news **", "field id "+one, 2))
			wantStatus(t, control(t, s, stream.session, change{"watch": []string{two}}), 403)
			comettest.Publish(t, s, one+"=still")
			stream.want(t, "still")
		})
	}
}
