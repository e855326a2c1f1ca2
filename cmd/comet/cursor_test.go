package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// startTold starts an application that tells what it is told, and comet before it
// with more in the site. `?type=` is the Content-Type that it answers with.
func startTold(t *testing.T, site string) *comettest.Server {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := maps.Clone(r.Header)
		maps.DeleteFunc(header, func(name string, _ []string) bool { return !strings.HasPrefix(name, "Comet") })
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		w.Header().Set("Server-Timing", "db;dur=5")
		if r.URL.Path == "/unchanged" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"header": header, "body": string(body)}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(app.Close)
	site += "\n\treverse_proxy {$APP}\n"
	return comettest.Start(t, comettest.Global("")+
		"http://127.0.0.1:{$HTTP} {\n"+site+"}\nhttps://localhost:{$HTTPS} {\n\ttls internal\n"+site+"}\n",
		comettest.Env("APP", app.Listener.Addr().String()))
}

// toldHeader returns the headers of Comet's that startTold's application was sent.
func toldHeader(t *testing.T, a comettest.Answer) http.Header {
	t.Helper()
	var told struct{ Header http.Header }
	if err := json.Unmarshal([]byte(a.Body), &told); err != nil {
		t.Fatalf("%v: %s", err, a)
	}
	return told.Header
}

// wantTiming checks what a page is told beside what its application tells it.
func wantTiming(t *testing.T, a comettest.Answer, cursor string) {
	t.Helper()
	want := []string{"db;dur=5"}
	if cursor != "" {
		want = append(want, `comet;desc="`+cursor+`"`)
	}
	if got := a.Header.Values("Server-Timing"); !slices.Equal(got, want) {
		t.Errorf("Server-Timing is %q; want %q", got, want)
	}
}

func TestAnApplicationAndItsPagesAreToldTheCursor(t *testing.T) {
	t.Parallel()
	s := startTold(t, "encode\n"+open)
	for name, client := range map[string]*http.Client{
		"HTTP/1": s.Client(), "HTTPS": s.TLSClient(t, false), "HTTP/2": s.TLSClient(t, true), "HTTP/3": s.HTTP3Client(t),
	} {
		ask := func(method, path string, header map[string]string) comettest.Answer {
			address := s.TLSURL(path)
			if name == "HTTP/1" {
				address = s.URL(path)
			}
			return s.Do(t, request{Method: method, URL: address, Header: header, Client: client})
		}
		before := now(t, s)
		page := ask("GET", "/?type="+escape("text/html; charset=utf-8"), map[string]string{
			"Comet-Cursor": "theirs", "Comet_cursor": "theirs", "comet.cursor": "theirs", "Comet-Field": "x", "Comet-Outcome": "wake",
		})
		wantTiming(t, page, before)
		if got, want := toldHeader(t, page), (http.Header{"Comet-Cursor": {before}}); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the application is told %v; want %v", name, got, want)
		}

		comettest.Publish(t, s, "id=1")
		after := now(t, s)
		if before == after {
			t.Fatal("the cursor does not move")
		}
		wantTiming(t, ask("HEAD", "/?type=text%2Fhtml", nil), after)
		wantTiming(t, ask("POST", "/?type=application%2Fxhtml%2Bxml", nil), after)
		wantTiming(t, ask("GET", "/unchanged", map[string]string{"Accept": "text/html,*/*;q=0.8"}), after)
		wantTiming(t, ask("GET", "/unchanged", map[string]string{"Accept": "image/avif,*/*;q=0.8"}), "")
		data := ask("GET", "/?type=application%2Fjson", nil)
		wantTiming(t, data, "")
		if got := toldHeader(t, data).Get("Comet-Cursor"); got != after {
			t.Errorf("%s: the application is told %q; want %q", name, got, after)
		}
	}
	// What this header names a proxy drops.
	a := s.Do(t, request{URL: s.URL("/"), Header: map[string]string{"Connection": "comet-cursor, keep-alive"}})
	if got, want := toldHeader(t, a).Get("Comet-Cursor"), now(t, s); got != want {
		t.Errorf("a client that has it dropped has the application told %q; want %q", got, want)
	}
}

// A placeholder that reads the body puts it back into the request that it knows.
func TestABodyThatAMatcherReadsGoesOnToTheApplication(t *testing.T) {
	t.Parallel()
	s := startTold(t, open+`
	handle {
		@hello expression `+"`{http.request.body}.contains('hello')`"+`
		request_header @hello Comet-Test hello
		reverse_proxy {$APP}
	}`)
	a := s.Do(t, request{Method: "POST", URL: s.URL("/"), Type: "text/plain", Body: "hello there"})
	if got := toldHeader(t, a).Get("Comet-Test"); got != "hello" || !strings.Contains(a.Body, "hello there") {
		t.Errorf("got %s; want the body, and what the matcher adds", a)
	}
}

// What is in a handle comes after the routes of the site.
func TestAHoldBehindAnotherDirectiveIsParkedAndTellsNoPage(t *testing.T) {
	t.Parallel()
	s := startTold(t, `
	comet {
		store other
		hold /other
	}
	handle {
		comet {
			publish /config
			hold /push {
				field id **
				formats text json iframe
			}
		}
		reverse_proxy {$APP}
	}`)
	comettest.Publish(t, s, "id=1")
	held := comettest.Hold(t, s, "id=1")
	if comettest.Parks(t) {
		comettest.Eventually(t, comettest.Deadline, func() bool { return metrics(t, s)["comet_parked"] > 0 }, "it is not parked")
	}
	comettest.Publish(t, s, "id=2")
	answer := comettest.Await(t, held)
	wantText(t, answer, "YES\n")
	frame := s.Do(t, request{URL: "/push?format=iframe&wait=0.01"})
	if got := frame.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/html") {
		t.Fatalf("the frame is %q", got)
	}
	for _, a := range []comettest.Answer{answer, frame} {
		if timing, ok := a.Header["Server-Timing"]; ok {
			t.Errorf("Server-Timing is %q; want none", timing)
		}
	}

	// The application is told once, and its page the same.
	page := s.Do(t, request{URL: s.URL("/?type=text%2Fhtml")})
	wantTiming(t, page, toldHeader(t, page).Get("Comet-Cursor"))
}
