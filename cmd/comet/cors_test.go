package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// crossOrigin is a site with a route for pages of some origins, one for those of
// all, and one for none.
const crossOrigin = `
	comet {
		publish /config
		hold /push {
			field fresh/* id
			formats json
			cors {
				origins https://app.example.com https://*.example.org
				credentials
				max_age 10m
				private_network
			}
		}
		hold /any {
			field fresh/* id
			cors {
				origins *
			}
		}
		hold /none {
			field fresh/* id
		}
	}
`

const exposed = "Access-Control-Expose-Headers: Comet-Cursor, Comet-Field, Comet-Missed, Retry-After"

// corsOf returns what an answer says of other origins, a line for each header.
func corsOf(a comettest.Answer) string {
	var lines []string
	for name, values := range a.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			lines = append(lines, name+": "+strings.Join(values, " and "))
		}
	}
	for line := range strings.SplitSeq(strings.Join(a.Header.Values("Vary"), ","), ",") {
		if strings.TrimSpace(line) == "Origin" {
			lines = append(lines, "Vary: Origin")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func wantCORS(t *testing.T, a comettest.Answer, want ...string) {
	t.Helper()
	if got := corsOf(a); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nof %.600s; want\n%s", got, a, strings.Join(want, "\n"))
	}
}

// readableBy is what an answer says that pages of an origin may read, and no others.
func readableBy(origin string) []string {
	return []string{
		"Access-Control-Allow-Credentials: true",
		"Access-Control-Allow-Origin: " + origin,
		exposed,
		"Vary: Origin",
	}
}

var (
	readableByAll = []string{"Access-Control-Allow-Origin: *", exposed}
	readableByNo  = []string{"Vary: Origin"}
)

func TestPagesOfListedOriginsMayReadAnswers(t *testing.T) {
	t.Parallel()
	servers := startPair(t, comettest.Global("")+
		"http://127.0.0.1:{$HTTP} {\n"+crossOrigin+"}\n"+
		"https://localhost:{$HTTPS} {\n\ttls internal\n"+crossOrigin+"}\n")
	for i, s := range servers {
		for _, p := range []struct {
			name   string
			url    func(string) string
			client *http.Client
		}{
			{"HTTP/1.1", s.URL, s.Client()},
			{"HTTP/1.1 over TLS", s.TLSURL, s.TLSClient(t, false)},
			{"HTTP/2", s.TLSURL, s.TLSClient(t, true)},
		} {
			t.Run(pairNames[i]+" by "+p.name, func(t *testing.T) {
				testCORS(t, s, func(method, target string, header ...string) request {
					r := request{Method: method, URL: p.url(target), Client: p.client, Header: map[string]string{}}
					for _, line := range header {
						name, value, _ := strings.Cut(line, ": ")
						r.Header[name] = value
					}
					return r
				})
			})
		}
	}
}

// testCORS tests crossOrigin by requests that ask makes.
func testCORS(t *testing.T, s *comettest.Server, ask func(method, target string, header ...string) request) {
	const app, below = "https://app.example.com", "https://a.b.example.org"
	for _, test := range []struct {
		name, path, origin string
		want               []string
	}{
		{"a listed origin", "/push", app, readableBy(app)},
		{"one below a listed name", "/push", below, readableBy(below)},
		{"another origin", "/push", "https://other.example", readableByNo},
		{"the origin null", "/push", "null", readableByNo},
		{"no origin", "/push", "", readableByNo},
		{"any origin where all are listed", "/any", app, readableByAll},
		{"the origin null where all are listed", "/any", "null", readableByAll},
		{"no origin where all are listed", "/any", "", readableByAll},
		{"an origin where there is no cors", "/none", app, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			field := freshField(t, s)
			get := func(query string) request {
				return ask("GET", test.path+"?format=json&field="+field+"&"+query, "Origin: "+test.origin)
			}
			held := comettest.HoldOn(t, s, get("after=now"), field)
			comettest.Publish(t, s, field+"=1")
			woken := comettest.Await(t, held)
			wantTexts(t, woken, field+"=1")
			wantCORS(t, woken, test.want...)
			for _, query := range []string{"after=first", "after=now&wait=0", "after=now&wait=0.05"} {
				a := s.Do(t, get(query))
				wantStatus(t, a, http.StatusOK)
				wantCORS(t, a, test.want...)
			}
		})
	}

	t.Run("errors can be read too", func(t *testing.T) {
		for _, test := range []struct {
			method, query, accept string
			status                int
		}{
			{"GET", "format=other", "", http.StatusBadRequest},
			{"GET", "after=no-cursor", "", http.StatusBadRequest},
			{"GET", "field=secret", "", http.StatusForbidden},
			{"GET", "", "image/png", http.StatusNotAcceptable},
			{"GET", "format=text", "", http.StatusNotAcceptable},
			{"PUT", "", "", http.StatusMethodNotAllowed},
			{"OPTIONS", "", "", http.StatusMethodNotAllowed},
		} {
			a := s.Do(t, ask(test.method, "/push?"+test.query, "Origin: "+app, "Accept: "+test.accept))
			wantStatus(t, a, test.status)
			wantCORS(t, a, readableBy(app)...)
		}
	})

	preflight := func(path, origin string, header ...string) comettest.Answer {
		t.Helper()
		return s.Do(t, ask("OPTIONS", path, append(header, "Origin: "+origin, "Access-Control-Request-Method: GET")...))
	}
	const allowed = "Access-Control-Allow-Headers: Accept, Authorization, Cache-Control, Content-Type, Last-Event-ID"

	t.Run("a preflight is answered", func(t *testing.T) {
		for _, origin := range []string{app, below} {
			a := preflight("/push?field=id&after=now", origin, "Access-Control-Request-Headers: last-event-id")
			if wantStatus(t, a, http.StatusNoContent); a.Body != "" || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("got %s", a)
			}
			wantCORS(t, a,
				"Access-Control-Allow-Credentials: true",
				allowed,
				"Access-Control-Allow-Methods: "+a.Header.Get("Access-Control-Allow-Methods"),
				"Access-Control-Allow-Origin: "+origin,
				"Access-Control-Max-Age: 600",
				"Vary: Origin")
			// It names the methods that the route itself does, and that of sessions.
			if methods := s.Do(t, ask("PUT", "/push")).Header.Get("Allow"); methods == "" || methods+", POST" != a.Header.Get("Access-Control-Allow-Methods") {
				t.Errorf("got %s; Allow is %q", a, methods)
			}
		}
		a := preflight("/any", "null")
		wantStatus(t, a, http.StatusNoContent)
		if got := corsOf(a); !strings.Contains(got, "Access-Control-Allow-Origin: *\n") || strings.Contains(got, "Vary") || strings.Contains(got, "Credentials") {
			t.Errorf("got %s", a)
		}
	})

	t.Run("a preflight from outside asks for the private network", func(t *testing.T) {
		for path, want := range map[string]string{"/push": "true", "/any": ""} {
			a := preflight(path, app, "Access-Control-Request-Private-Network: true")
			wantStatus(t, a, http.StatusNoContent)
			if got := a.Header.Get("Access-Control-Allow-Private-Network"); got != want {
				t.Errorf("%s: got %q; want %q", path, got, want)
			}
		}
	})

	t.Run("a preflight of another origin is told what to add", func(t *testing.T) {
		a := preflight("/push", "https://other.example", "Access-Control-Request-Private-Network: true")
		wantStatus(t, a, http.StatusForbidden)
		wantCORS(t, a, readableByNo...)
		if !strings.Contains(a.Body, "add `origins https://other.example` to the cors block") {
			t.Errorf("the line is %q", a.Body)
		}
		a = preflight("/push", "null")
		wantStatus(t, a, http.StatusForbidden)
		wantCORS(t, a, readableByNo...)
		if strings.Contains(a.Body, "add") {
			t.Errorf("the line is %q, and null cannot be listed", a.Body)
		}
	})

	t.Run("without cors a preflight is another method", func(t *testing.T) {
		a := preflight("/none", app)
		wantStatus(t, a, http.StatusMethodNotAllowed)
		wantCORS(t, a)
	})
}

func TestPagesMayReadThatThereIsNoPlace(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	for name, more := range map[string]string{"plain": "", "by handle_errors": "\thandle_errors {\n\t\trespond later\n\t}\n"} {
		t.Run("max_held "+name, func(t *testing.T) {
			s := comettest.Start(t, comettest.Global("comet {\n\t\tmax_held 1\n\t}")+
				"http://127.0.0.1:{$HTTP} {\n"+crossOrigin+more+"}\n")
			comettest.Publish(t, s, "id=1")
			comettest.Hold(t, s, "after=now")
			a := s.Do(t, request{URL: "/push?after=now", Header: map[string]string{"Origin": app}})
			if wantStatus(t, a, http.StatusServiceUnavailable); a.Header.Get("Retry-After") == "" {
				t.Errorf("got %s; want Retry-After", a)
			}
			wantCORS(t, a, readableBy(app)...)
		})
	}
	t.Run("max_held_per_client", func(t *testing.T) {
		address := otherAddress(t)
		s := comettest.Start(t, comettest.Global("comet {\n\t\tmax_held_per_client 1\n\t}")+":{$HTTP} {\n"+crossOrigin+"}\n")
		comettest.Publish(t, s, "id=1")
		far := request{
			URL:    fmt.Sprintf("http://%s:%d/push?after=now", address, s.Port("HTTP")),
			Header: map[string]string{"Origin": app},
		}
		comettest.HoldRequest(t, s, far)
		a := s.Do(t, far)
		if wantStatus(t, a, http.StatusTooManyRequests); a.Header.Get("Retry-After") == "" {
			t.Errorf("got %s; want Retry-After", a)
		}
		wantCORS(t, a, readableBy(app)...)
	})
}

// The page of one origin is listed by another, where it asks, and that of a third
// is not.
func TestABrowserReadsWhatItsOriginMay(t *testing.T) {
	t.Parallel()
	const page = "\theader Content-Type text/html\n\trespond \"<!doctype html><title>page</title>\"\n"
	s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold /push {
			cors {
				origins http://127.0.0.1:{$HTTP2ND}
				credentials
			}
		}
	}
}
http://127.0.0.1:{$HTTP2ND} {
`+page+`}
http://127.0.0.1:{$DOOR} {
`+page+`}
`)
	comettest.Publish(t, s, "id=1")
	cursor := now(t, s)
	b := startBrowser(t)
	listed := b.open(t, "listed", desktop, s.URL2("/"))
	other := b.open(t, "other", desktop, s.DoorURL("/"))

	// What a page can read of an answer; the header Last-Event-ID needs a preflight.
	read := func(query, header string) string {
		return fmt.Sprintf(`(async () => {
			try {
				const answer = await fetch(%q, { credentials: 'include', headers: %s });
				return { status: answer.status, cursor: answer.headers.get('Comet-Cursor'), field: answer.headers.get('Comet-Field'),
					missed: answer.headers.get('Comet-Missed'), body: await answer.text() };
			} catch (error) {
				return { body: error.name };
			}
		})()`, s.URL("/push?format=json&"+query), header)
	}
	type seen struct {
		Status                      int
		Cursor, Field, Missed, Body string
	}
	var got seen

	t.Run("a held answer, after a preflight", func(t *testing.T) {
		reply := listed.start(t, "evaluate", read("", fmt.Sprintf("{ 'Last-Event-ID': %q }", cursor)))
		comettest.WaitSubscribers(t, s, "id", 1)
		comettest.Publish(t, s, "id=2")
		if err := json.Unmarshal(listed.await(t, "the held answer", reply), &got); err != nil {
			t.Fatal(err)
		}
		if got.Status != 200 || got.Cursor == "" || got.Field != "id" || !strings.Contains(got.Body, `"data":"2"`) {
			t.Errorf("the page sees %+v", got)
		}
	})
	t.Run("a gap, after a preflight", func(t *testing.T) {
		if listed.eval(t, read("", "{ 'Last-Event-ID': 'unreadable' }"), &got); got.Status != 200 || got.Missed != "true" {
			t.Errorf("the page sees %+v", got)
		}
	})
	t.Run("a refusal", func(t *testing.T) {
		if listed.eval(t, read("field=secret", "{}"), &got); got.Status != 403 || !strings.Contains(got.Body, "field secret") {
			t.Errorf("the page sees %+v", got)
		}
	})
	t.Run("nothing, when it is not listed", func(t *testing.T) {
		for _, header := range []string{"{}", "{ 'Last-Event-ID': 'unreadable' }"} {
			var got seen
			if other.eval(t, read("wait=0", header), &got); got != (seen{Body: "TypeError"}) {
				t.Errorf("the page sees %+v", got)
			}
		}
	})
}
