package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// paged is a site with every format, with options in the block of its hold route, and
// with the pages of testdata/browser. Of another route less may be watched.
func paged(options string) string {
	return `
	comet {
		publish /config
		client /comet.js
		hold /push {
			field id news **
			formats text json raw sse ndjson multipart iframe jsonp ws
			retry 50ms-100ms
			` + options + `
		}
		hold /few {
			field news
		}
	}
	root {$PAGES}
	file_server
`
}

// startPages starts a server of such a site.
func startPages(t *testing.T, options string) *comettest.Server {
	t.Helper()
	config := comettest.Global("comet {\n\t\thistory 10k 1h\n\t}") + "http://127.0.0.1:{$HTTP} {\n" + paged(options) + "\n}\n"
	return comettest.Start(t, config, comettest.Env("PAGES", testdataDir(t, "browser", "pages")))
}

// cometPage returns the path of a page that watches fields by comet.js.
func cometPage(options map[string]any, fields ...string) string {
	text, err := json.Marshal(options)
	if err != nil {
		panic(err) // they are words and numbers
	}
	return "/comet.html?" + url.Values{"options": {string(text)}, "field": fields}.Encode()
}

// got returns what the callbacks of a page were given.
func (p *page) got(t *testing.T) (got []string) {
	t.Helper()
	p.eval(t, "got", &got)
	return got
}

// waitFor waits until an expression in JavaScript is true in the page.
func (p *page) waitFor(t *testing.T, expression string) {
	t.Helper()
	end := time.Now().Add(2 * comettest.Deadline)
	for !p.is(t, expression) {
		if time.Now().After(end) {
			var state json.RawMessage
			p.eval(t, "[got.length, got.slice(-3), window.states?.slice(-9), window.comet?.transport, window.comet?.state, window.comet?.cursor, missed]", &state)
			t.Fatalf("%s: never %s; %s", p.name, expression, state)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// wantNumbers waits until the page has a number, and checks that all since the first
// came once and in order, and that no gap was told. It returns the first.
func (p *page) wantNumbers(t *testing.T, last int) (first int) {
	t.Helper()
	p.waitFor(t, fmt.Sprintf("parseInt(got.at(-1)) >= %d || missed.length", last))
	got := p.got(t)
	for i, data := range got {
		number, _, _ := strings.Cut(data, " ")
		n, err := strconv.Atoi(number)
		if i == 0 {
			first = n
		}
		if err != nil || n != first+i {
			t.Errorf("%s got %q; want number %d", p.name, got[max(0, i-2):min(len(got), i+3)], first+i)
			return first
		}
	}
	if !p.is(t, "missed.length === 0") {
		t.Errorf("%s was told a gap", p.name)
	}
	return first
}

// Each page of a visitor of its own, whose connections are cut ten times, somewhere in
// the heads and the bodies of the answers.
func TestEachTransportOfABrowserGivesNumberedMessagesOnceInOrder(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	s := startPages(t, "stream_max 4s-5s\n\t\t\theartbeat 100ms")
	total, cuts := scale(1000, 200, 500), 10
	field := freshField(t, s)
	cursor := now(t, s)

	by := func(options map[string]any) string {
		options["after"] = cursor
		return cometPage(options, field)
	}
	raw := url.Values{"field": {field}, "after": {cursor}}.Encode()
	pages, cutters := []*page{}, []*cutter{}
	for name, path := range map[string]string{
		"comet.js":         by(map[string]any{}),
		"comet.js, sse":    by(map[string]any{"transport": "sse"}),
		"comet.js, stream": by(map[string]any{"transport": "stream"}),
		"comet.js, poll":   by(map[string]any{"transport": "poll"}),
		"comet.js, ws":     by(map[string]any{"transport": "ws"}),
		"iframe":           "/iframe.html?" + raw,
		"jsonp":            "/jsonp.html?" + raw,
		"XMLHttpRequest":   "/xhr.html?" + raw,
	} {
		c := startCutter(t, s)
		p := b.open(t, name, desktop, c.url(path))
		if strings.HasPrefix(name, "comet.js") {
			p.waitFor(t, "comet.state === 'open'")
		}
		pages, cutters = append(pages, p), append(cutters, c)
	}
	comettest.WaitSubscribers(t, s, field, len(pages))

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	start, n := time.Now(), 0
	for range cuts {
		for _, c := range cutters {
			c.cutAfter(rand.IntN(100 * total / cuts)) // a message takes more than that
		}
		for end := n + total/cuts; n < end; n++ {
			data := fmt.Sprint(n, " ", strings.Repeat("x", rand.IntN(100)))
			if a := s.Try(ctx, request{URL: "/config?field=" + field, Type: "text/plain", Body: data}); a.Err != nil || a.Status != 200 {
				t.Fatalf("publishing %d: %s", n, a)
			}
			if n%10 == 0 {
				pause(ctx, time.Duration(rand.IntN(40))*time.Millisecond)
			}
		}
		for i, p := range pages {
			p.waitFor(t, fmt.Sprintf("parseInt(got.at(-1)) >= %d || missed.length", n-1))
			if !cutters[i].hasCut() {
				t.Fatalf("%s was not cut", p.name)
			}
		}
	}
	for _, p := range pages {
		if first := p.wantNumbers(t, total-1); first != 0 {
			t.Errorf("%s began with %d", p.name, first)
		}
	}
	t.Logf("%d messages to each of %d pages, each cut %d times, in %s", total, len(pages), cuts, time.Since(start).Round(time.Millisecond))
}

// To Chromium the head of an answer that is cut in its first line is one with another
// status.
func TestAPollWhoseStatusIsCutIsAskedAgain(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	s := startPages(t, "")
	field := freshField(t, s)
	c := startCutter(t, s)
	p := b.open(t, "page", desktop, c.url(cometPage(map[string]any{"transport": "poll", "after": now(t, s)}, field)))
	for n, status := range []string{"HTTP/1.1 2", "HTTP/1.1 20"} {
		comettest.WaitSubscribers(t, s, field, 1)
		c.cutAfter(len(status))
		comettest.Publish(t, s, fmt.Sprint(field, "=", n))
		p.waitFor(t, fmt.Sprintf("got.at(-1) === '%d'", n))
		if !c.hasCut() {
			t.Fatal("nothing was cut")
		}
	}
}
