package main_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// startPublishing starts an application that does what its paths say, and
// comet before it with lines in the comet block and in the site.
func startPublishing(t *testing.T, comet, site string, opts ...comettest.Option) *comettest.Server {
	t.Helper()
	app := newPublishingApplication(t)
	body := `
	comet {
		publish /config
		hold /push {
			field id **
		}
		` + comet + `
	}
	` + site + `
	reverse_proxy {$APP}
`
	return comettest.Start(t, comettest.Global("")+"http://127.0.0.1:{$HTTP} {\n"+body+"}\nhttps://localhost:{$HTTPS} {\n\ttls internal\n"+body+"}\n",
		append(opts, comettest.Env("APP", app))...)
}

// publishingApplication says what the query has as "say", by Comet-Publish.
type publishingApplication struct {
	end chan struct{} // of what streams
}

// newPublishingApplication returns where it listens.
func newPublishingApplication(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(publishingApplication{make(chan struct{})})
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func (a publishingApplication) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const header = "Comet-Publish"
	flush := http.NewResponseController(w).Flush
	if said := r.URL.Query()["say"]; said != nil {
		w.Header()[header] = said
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch kind {
	case "status":
		status, _ := strconv.Atoi(rest)
		w.WriteHeader(status)
	case "save.php":
		http.Redirect(w, r, "/", http.StatusFound)
	case "early":
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
	case "trailer":
		w.Header()["Trailer"] = []string{"Checksum, " + header}
		fmt.Fprintln(w, "begun")
		_ = flush()
		w.Header().Set("Checksum", "1")
		w.Header().Set(header, "id=trailer")
	case "unannounced":
		fmt.Fprintln(w, "begun")
		_ = flush()
		w.Header().Set(http.TrailerPrefix+header, "id=trailer")
		w.Header().Set(http.TrailerPrefix+"Checksum", "1")
	case "stream":
		fmt.Fprintln(w, "begun")
		_ = flush()
		select {
		case <-a.end:
		case <-r.Context().Done():
		}
	case "end":
		a.end <- struct{}{}
	case "large": // more than the client reads
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	case "cut":
		fmt.Fprintln(w, "begun")
		_ = flush()
		panic(http.ErrAbortHandler)
	case "echo":
		fmt.Fprintf(w, "%q", r.Header[header])
		w.Header()[header] = r.Header[header]
	case "socket":
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
}

// unredirected returns a client that does not go where an answer sends it.
func unredirected(s *comettest.Server) *http.Client {
	return &http.Client{
		Transport:     s.Client().Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// wantSince checks what was published after cursor on fields, as "field=data".
func wantSince(t *testing.T, s *comettest.Server, cursor string, fields []string, want ...string) {
	t.Helper()
	if got := since(t, s, cursor, fields...).Texts(); !slices.Equal(got, want) {
		t.Errorf("published was %.600q; want %.600q", got, want)
	}
}

// wantNoHeader checks that an answer says nothing of what it published.
func wantNoHeader(t *testing.T, a comettest.Answer) {
	t.Helper()
	if said, ok := a.Header["Comet-Publish"]; ok {
		t.Errorf("the client is told Comet-Publish: %q", said)
	}
}

func TestResponsesPublish(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "from_responses", "encode\nlog")
	fields := []string{"id", "news"}
	for name, c := range map[string]struct {
		method, path string
		want         []string
		status       int
	}{
		"in order":               {"POST", "/status/200?say=" + escape("id=1&news=hi&id=2"), []string{"id=1", "news=hi", "id=2"}, 200},
		"repeated":               {"POST", "/status/201?say=" + escape("news=a%26b+c%3D") + "&say=" + escape("id={http.request.host}"), []string{"news=a&b c=", "id={http.request.host}"}, 201},
		"GET":                    {"GET", "/status/200?say=id%3D3", []string{"id=3"}, 200},
		"HEAD":                   {"HEAD", "/status/200?say=id%3D4", []string{"id=4"}, 200},
		"without a body":         {"DELETE", "/status/204?say=id%3D5", []string{"id=5"}, 204},
		"a redirection":          {"POST", "/save.php?say=id%3D6", []string{"id=6"}, 302},
		"not found":              {"GET", "/status/404?say=id%3D7", nil, 404},
		"failed":                 {"POST", "/status/500?say=id%3D8", nil, 500},
		"by trailers":            {"GET", "/trailer?say=id%3D9", []string{"id=9"}, 200},
		"by unannounced ones":    {"GET", "/unannounced", nil, 200},
		"invalid":                {"GET", "/status/200?say=id%3D11&say=id", nil, 200},
		"not decodable":          {"GET", "/status/200?say=" + escape("id=%zz"), nil, 200},
		"empty":                  {"GET", "/status/200?say=", nil, 200},
		"a name that is none":    {"GET", "/status/200?say=id%3D12&say=" + escape("a%00=1"), nil, 200},
		"too long":               {"GET", "/status/200?say=id%3D13&say=" + escape("news="+strings.Repeat("x", 8<<10)), nil, 200},
		"too many":               {"GET", "/status/200?say=" + escape(strings.Repeat("id=1&", 65)), nil, 200},
		"invalid, and not found": {"GET", "/status/404?say=id", nil, 404},
	} {
		cursor := now(t, s)
		a := s.Do(t, request{Method: c.method, URL: c.path, Client: unredirected(s)})
		t.Run(name, func(t *testing.T) {
			wantStatus(t, a, c.status)
			wantNoHeader(t, a)
			wantSince(t, s, cursor, fields, c.want...)
			if strings.Contains(strings.Join(a.Header["Trailer"], ","), "Comet") {
				t.Errorf("it announces %q", a.Header["Trailer"])
			}
		})
	}
	cursor := now(t, s)
	full := strings.Repeat("x", 8<<10-len("news=")-3)
	s.Do(t, request{URL: "/status/200?say=" + escape("news="+full) + "&say=a%3D1"})
	wantSince(t, s, cursor, fields, "news="+full)
	wantMetrics(t, s, map[string]float64{
		`comet_publish_refused_total{reason="invalid"}`:   4,
		`comet_publish_refused_total{reason="too_large"}`: 2,
	})
	for _, reason := range []string{
		`Comet-Publish has 8202 bytes, and at most 8192 are allowed`,
		`Comet-Publish has 65 fields, and at most 64 are allowed`,
		`Comet-Publish has \"id\" without a \"=\"; send NAME=VALUE`,
		`Comet-Publish names no field; send NAME=VALUE`,
	} {
		line := s.WaitLog(t, reason)
		if !strings.Contains(line, `"level":"warn"`) || !strings.Contains(line, `"refused to publish"`) || !strings.Contains(line, `"uri":"/status/200?`) {
			t.Errorf("the line is %s", line)
		}
	}
}

func TestEarlyHintsDoNotPublish(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "from_responses", "")
	cursor := now(t, s)
	var early []textproto.MIMEHeader
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
		early = append(early, header)
		return nil
	}})
	a := s.Try(ctx, request{URL: "/early?say=id%3D1"})
	wantStatus(t, a, 200)
	wantNoHeader(t, a)
	if len(early) != 1 || early[0].Get("Link") == "" || early[0].Get("Comet-Publish") != "" {
		t.Errorf("the hints are %q; want a Link and no Comet-Publish", early)
	}
	wantSince(t, s, cursor, []string{"id"}, "id=1") // once, by the response
}

func TestTrailersDoNotPublish(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "from_responses", "")
	for _, path := range []string{"/trailer", "/unannounced"} {
		res, err := s.Client().Get(s.URL(path))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
		if _, said := res.Trailer["Comet-Publish"]; err != nil || said || res.Trailer.Get("Checksum") != "1" {
			t.Errorf("%s: the trailer is %q, %v; want the Checksum alone", path, res.Trailer, err)
		}
	}
	wantUnset(t, s, "id")
}

func TestRequestsDoNotPublish(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "from_responses", "")
	a := s.Do(t, request{URL: "/echo", Header: map[string]string{"Comet-Publish": "id=1"}})
	wantText(t, a, "[]")
	wantUnset(t, s, "id")

	off := startPublishing(t, "", "")
	a = off.Do(t, request{URL: "/status/200?say=id%3D1"})
	wantUnset(t, off, "id")
	if a.Header.Get("Comet-Publish") != "id=1" {
		t.Errorf("without from_responses the header is not passed on: %s", a)
	}
}

func TestResponsesPublishOverAllProtocols(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "from_responses\ntouch /status/* touched", "encode")
	for name, client := range map[string]*http.Client{
		"HTTP/1.1": s.TLSClient(t, false), "HTTP/2.0": s.TLSClient(t, true), "HTTP/3.0": s.HTTP3Client(t),
	} {
		t.Run(name, func(t *testing.T) {
			cursor, before := now(t, s), now(t, s)
			a := s.Do(t, request{URL: s.TLSURL("/status/200?say=id%3D1"), Client: client})
			wantStatus(t, a, 200)
			wantNoHeader(t, a)
			if a.Proto != name {
				t.Errorf("it spoke %s", a.Proto)
			}
			wantSince(t, s, cursor, []string{"id"}, "id=1")
			if got := since(t, s, before, "touched").Texts(); len(got) != 1 {
				t.Errorf("touched was %q; want once", got)
			}

			// When it is over, and not before.
			cursor = now(t, s)
			end := beginStream(t, s, client, s.TLSURL("/stream?say=id%3D2"))
			wantSince(t, s, cursor, []string{"id"})
			end()
			wantSince(t, s, cursor, []string{"id"}, "id=2")

			// Whose client leaves in the middle did what it did.
			cursor = now(t, s)
			ctx, leave := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.TLSURL("/large?say=id%3D3"), nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadFull(res.Body, make([]byte, 100))
			wantSince(t, s, cursor, []string{"id"})
			leave()
			res.Body.Close()
			comettest.Eventually(t, comettest.Deadline, func() bool {
				return slices.Equal(since(t, s, cursor, "id").Texts(), []string{"id=3"})
			}, "what was done for a client that left is not published")
		})
	}
}

// beginStream returns when an answer that streams has begun, and how to end it.
func beginStream(t *testing.T, s *comettest.Server, client *http.Client, url string) (end func()) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	body := bufio.NewReader(res.Body)
	if line, err := body.ReadString('\n'); line != "begun\n" {
		t.Fatalf("%d %q, %v; want what streams", res.StatusCode, line, err)
	}
	return func() {
		t.Helper()
		s.Do(t, request{URL: "/end"})
		if _, err := io.ReadAll(body); err != nil {
			t.Errorf("what streams is cut off: %v", err)
		}
	}
}

func TestResponsesThatAreCutOffDoNotPublish(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "from_responses\ntouch * touched", "handle_errors {\n\trespond \"sorry\" 200\n}\n@error path /error\nheader @error Comet-Publish id=2\nerror @error 500")
	cursor := now(t, s)
	if a := s.Try(t.Context(), request{URL: "/cut?say=id%3D1"}); a.Err == nil {
		t.Errorf("it is not cut off: %s", a)
	}
	a := s.Do(t, request{URL: "/error"})
	wantText(t, a, "sorry")
	wantNoHeader(t, a)
	wantSince(t, s, cursor, []string{"id", "touched"})
}

func TestWebSocketsOfTheApplicationDoNotPublish(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "from_responses\ntouch * touched", "log", comettest.Env("GODEBUG", "http2xconnect=1"))
	conn := s.RawConn(t)
	fmt.Fprintf(conn, "GET /socket?say=id%%3D1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, said := res.Header["Comet-Publish"]; res.StatusCode != 101 || said {
		t.Errorf("got %v", res)
	}
	s.WaitLog(t, `"status":101`)
	for i, w := range ways(t, s)[3:] {
		ws, res := connectSocket(t, w, "/socket?say=id%3D1")
		if _, said := res.Header["Comet-Publish"]; res.StatusCode != 200 || said {
			t.Errorf("%s: got %v", w.name, res)
		}
		ws.Close()
		comettest.Eventually(t, comettest.Deadline, func() bool { return strings.Count(s.Logs(), `"handled request"`) > i+1 }, w.name, " is not over")
	}
	wantUnset(t, s, "id", "touched")
}

func TestTouchBumpsWhatAMatchingRequestChanged(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, `touch @save list
		touch @save page/{query.id} "of {method} {host}"
		touch /save.php list
		touch /status/* again {path.1} again
		touch /pretty/* page/{query.id} list{http.request.uri.path.dir}
		touch /inner/* page/{query.id}`, `@save {
		method POST
		path /save.php
	}
	rewrite /pretty/* /status/200?id=7
	handle /inner/* {
		rewrite * /status/200?id=8
		reverse_proxy {$APP}
	}
	handle_path /v1/* {
		comet {
			touch /v1/save.php v1
		}
		reverse_proxy {$APP}
	}`)
	fields := []string{"list", "page/7", "page/8", "200", "204", "again", "v1", "of POST 127.0.0.1"}
	for name, c := range map[string]struct {
		method, path string
		want         []string
	}{
		"a POST, by two":    {"POST", "/save.php?id=7", []string{"list", "list", "of POST 127.0.0.1", "page/7"}},
		"a GET, by one":     {"GET", "/save.php?id=7", []string{"list"}},
		"no id":             {"POST", "/save.php", []string{"list", "list", "of POST 127.0.0.1"}},
		"an id with /":      {"POST", "/save.php?id=7%2F8", []string{"list", "list", "of POST 127.0.0.1"}},
		"an id with a line": {"POST", "/save.php?id=7%0A", []string{"list", "list", "of POST 127.0.0.1"}},
		"one field twice":   {"HEAD", "/status/204", []string{"204", "again", "again"}},
		"not found":         {"POST", "/status/404", nil},
		"failed":            {"POST", "/status/500", nil},
		"by its prefix":     {"POST", "/v1/save.php", []string{"v1"}},
		"rewritten before":  {"POST", "/pretty/words", []string{"200", "again", "again", "page/7"}},
		"rewritten behind":  {"POST", "/inner/?id=7", []string{"page/7"}},
		"another path":      {"POST", "/other", nil},
	} {
		cursor := now(t, s)
		s.Do(t, request{Method: c.method, URL: c.path, Client: unredirected(s)})
		got := []string{}
		for _, text := range since(t, s, cursor, fields...).Texts() {
			field, _, _ := strings.Cut(text, "=")
			got = append(got, field)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) && len(got)+len(c.want) > 0 {
			t.Errorf("%s: bumped was %q; want %q", name, got, c.want)
		}
	}
	wantValue(t, s, "page/7", "3")
	wantMetrics(t, s, map[string]float64{`comet_publish_refused_total{reason="invalid"}`: 4})
}

func TestTouchWakesWhoHoldsByValueAndByCursor(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "touch /save.php list", "")
	save := func() {
		s.Do(t, request{Method: "POST", URL: "/save.php", Client: unredirected(s)})
	}
	// Who comes later with what was before, when nobody watched.
	cursor := now(t, s)
	save()
	wantSince(t, s, cursor, []string{"list"}, "list=1")
	wantText(t, comettest.Push(t, s, "field=list&list=0"), "YES\n")

	byValue := comettest.Hold(t, s, "field=list&list=1")
	save()
	wantText(t, comettest.Await(t, byValue), "YES\n")
	byCursor := comettest.Hold(t, s, "field=list&format=json&after="+now(t, s))
	save()
	wantTexts(t, comettest.Await(t, byCursor), "list=3")
}

func TestTouchLeavesAValueThatIsNoNumber(t *testing.T) {
	t.Parallel()
	s := startPublishing(t, "touch /save.php news list", "")
	comettest.Publish(t, s, "news=hello")
	for range 2 {
		wantStatus(t, s.Do(t, request{Method: "POST", URL: "/save.php", Client: unredirected(s)}), 302)
	}
	wantValue(t, s, "news", "hello")
	wantValue(t, s, "list", "2")
	wantMetrics(t, s, map[string]float64{`comet_publish_refused_total{reason="invalid"}`: 2})
	const reason = `field \"news\" cannot be bumped`
	s.WaitLog(t, reason)
	if n := strings.Count(s.Logs(), reason); n != 1 {
		t.Errorf("the log tells it %d times; want once", n)
	}
}

func TestTouchIsBoundedByTheStore(t *testing.T) {
	t.Parallel()
	app := newPublishingApplication(t)
	s := comettest.Start(t, comettest.Global("comet {\n\t\tmax_fields 3\n\t}")+`http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold /push {
			field id **
		}
		touch /save.php page/{query.id}
	}
	reverse_proxy `+app+`
}`)
	comettest.Publish(t, s, "id=1")
	held := comettest.Hold(t, s, "id=1")
	for i := range 10 {
		s.Do(t, request{Method: "POST", URL: fmt.Sprintf("/save.php?id=%d", i)})
	}
	wantMetrics(t, s, map[string]float64{"comet_fields": 3, "comet_evicted_fields_total": 8})
	wantValue(t, s, "id", "1") // it is watched
	comettest.Publish(t, s, "id=2")
	wantText(t, comettest.Await(t, held), "YES\n")
}

func TestRoutesOfCometDoNotPublishByTheirAnswers(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`https://localhost:{$HTTPS} {
	tls internal
	comet {
		store other
		from_responses
		touch * touched
	}
	handle {
		comet {
			hold /other {
				field touched
			}
			client /comet.js
		}
		comet {
			store other
			hold /push {
				field touched
			}
		}
		respond ok
	}
}
http://127.0.0.1:{$HTTP} {
	comet {
		store other
		publish /config
		touch /* touched
		hold * {
			field id **
		}
	}
}`)
	client := s.TLSClient(t, true)
	get := func(path string) comettest.Answer {
		return s.Do(t, request{URL: s.TLSURL(path), Client: client})
	}
	wantStatus(t, get("/push?wait=0"), 200)
	wantStatus(t, get("/comet.js"), 200)
	comettest.Publish(t, s, "id=1")
	wantUnset(t, s, "touched")

	// They are parked all the same.
	held := comettest.Hold(t, s, "id=1")
	if comettest.Parks(t) {
		comettest.Eventually(t, comettest.Deadline, func() bool { return metrics(t, s)["comet_parked"] > 0 }, "it is not parked")
	}
	comettest.Publish(t, s, "id=2")
	wantText(t, comettest.Await(t, held), "YES\n")
	wantUnset(t, s, "touched")

	wantText(t, get("/"), "ok")
	wantValue(t, s, "touched", "1")
}

func TestARequestPublishesOverAReload(t *testing.T) {
	t.Parallel()
	app := newPublishingApplication(t)
	config := func(more string) string {
		return comettest.Global("") + `http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold /push
		from_responses
		touch /stream id
	}
	` + more + `
	reverse_proxy ` + app + ` {
		stream_close_delay 1m
	}
}`
	}
	s := comettest.Start(t, config(""))
	end := beginStream(t, s, s.Client(), s.URL("/stream?say=id%3D7"))
	s.Reload(t, config("header X-Reloaded 1"))
	comettest.Eventually(t, comettest.Deadline, func() bool {
		lines := startLines(t, s, "site")
		return len(lines) == 2 && fmt.Sprint(lines[1]["touch"], lines[1]["from_responses"]) == "[/stream on id] [*]"
	}, "the start does not tell of touch and from_responses")
	comettest.Publish(t, s, "id=1")
	held := comettest.Hold(t, s, "id=1")
	end()
	wantText(t, comettest.Await(t, held), "YES\n")
	wantTexts(t, comettest.Push(t, s, "id=1&format=json"), "id=8") // the header first
	wantMetrics(t, s, map[string]float64{"comet_published_messages_total": 3})
}
