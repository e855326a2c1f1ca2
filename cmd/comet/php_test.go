package main_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// The guestbook of testdata/php is held against itself: the same page and the
// same PHP, once as it was, once as many try to do better, once with Comet, and once
// as it was with Comet in front.
const (
	guestbookClients = 100

	// guestbookPatience is how long a reader waits for a page before it counts as
	// not answered.
	guestbookPatience = 3 * time.Second
)

func TestPHPGuestbookWithAHundredReadersAndTwoWorkers(t *testing.T) {
	fpm := findPHP(t, "pdo_sqlite", "curl")
	measured := map[string]*guestbookFigures{}
	for _, version := range []string{"polling", "holding", "comet"} {
		t.Run(version, func(t *testing.T) {
			measured[version] = startGuestbook(t, fpm, version).measure(t)
		})
	}
	t.Run("unchanged", func(t *testing.T) {
		measured["unchanged"] = startUnchangedGuestbook(t, fpm).measure(t)
	})
	polling, holding, comet, unchanged := measured["polling"], measured["holding"], measured["comet"], measured["unchanged"]
	if polling == nil || holding == nil || comet == nil || unchanged == nil {
		return // one has failed already, or was not asked for
	}

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tPHP answers/min\twhile nobody writes\tmessages taken\tdelay median\tp95\tpage median\tp95\t")
	for _, f := range []*guestbookFigures{polling, holding, comet, unchanged} {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%d of %d\t%s\t%s\t%s\t%s\t\n", f.version,
			perMinute(f.busyRequests, f.busy), perMinute(f.idleRequests, f.idle), f.stored, f.sent,
			quantile(f.delays, 0.5), quantile(f.delays, 0.95), quantile(f.pages, 0.5), quantile(f.pages, 0.95))
	}
	w.Flush()
	t.Logf("%d readers, %d PHP workers, a message every %s\n%s",
		guestbookClients, phpWorkers, guestbookPace().between, table.String())

	for _, f := range []*guestbookFigures{polling, comet, unchanged} {
		if f.stored != f.sent {
			t.Errorf("%s: %d of %d messages were taken; want all", f.version, f.stored, f.sent)
		}
		if want := f.sent * guestbookClients; len(f.delays) != want {
			t.Errorf("%s: the readers have %d messages altogether; want %d", f.version, len(f.delays), want)
		}
	}
	if comet.idleRequests > 0 || unchanged.idleRequests > 0 || polling.idleRequests == 0 {
		t.Errorf("while nobody wrote PHP had %d requests with comet, %d unchanged, %d with polling; want some only there",
			comet.idleRequests, unchanged.idleRequests, polling.idleRequests)
	}
	// Each message is written once and fetched once by each reader, however slow the machine.
	if most := comet.sent * (guestbookClients + 1); comet.busyRequests > most {
		t.Errorf("comet: PHP had %d requests for %d messages; want at most %d", comet.busyRequests, comet.sent, most)
	}
	// Shared: written once, and fetched once or twice by all together, and by those who ask again meanwhile.
	if most := unchanged.sent * guestbookClients / 4; unchanged.busyRequests > most {
		t.Errorf("unchanged: PHP had %d requests for %d messages; want at most %d", unchanged.busyRequests, unchanged.sent, most)
	}
	for _, f := range []*guestbookFigures{comet, unchanged} {
		if answered := f.answeredPages(); answered*2 <= len(f.pages) {
			t.Errorf("%s: %d of %d ordinary pages were answered; want nearly all", f.version, answered, len(f.pages))
		}
	}
	if answered := holding.answeredPages(); answered*2 >= len(holding.pages) {
		t.Errorf("holding: %d of %d ordinary pages were answered; want hardly any, the workers being held",
			answered, len(holding.pages))
	}
}

func TestPHPGuestbookShowsWhatWasWritten(t *testing.T) {
	fpm := findPHP(t, "pdo_sqlite", "curl")
	g := startGuestbook(t, fpm, "comet")
	const text = "<script>alert('1')</script> & \"ünï\" 雪"
	if err := g.post(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if got, err := g.list(t.Context(), 0); err != nil || len(got) != 1 || got[0].Text != text || got[0].ID != 1 {
		t.Errorf("list.php: %+v, %v; want one message, id 1, text %q", got, err, text)
	}
	if value, err := g.get(t.Context(), g.DoorURL("/config?field=id")); err != nil || string(value) != "1\n" {
		t.Errorf("the value of id is %q, %v; want the id of the message", value, err)
	}
	page, err := g.get(t.Context(), g.URL("/comet/"))
	if err != nil {
		t.Fatal(err)
	}
	const escaped = "&lt;script&gt;alert(&apos;1&apos;)&lt;/script&gt; &amp; &quot;ünï&quot; 雪"
	if !bytes.Contains(page, []byte(escaped)) || bytes.Contains(page, []byte("<script>alert")) {
		t.Errorf("the page does not have %q:\n%s", escaped, page)
	}

	for name, test := range map[string]struct {
		form   url.Values
		status int
	}{
		"no text":      {url.Values{"name": {"Ada"}}, http.StatusUnprocessableEntity},
		"a long text":  {url.Values{"name": {"Ada"}, "text": {strings.Repeat("雪", 501)}}, http.StatusUnprocessableEntity},
		"not UTF-8":    {url.Values{"name": {"Ada"}, "text": {"\xff"}}, http.StatusUnprocessableEntity},
		"a list":       {url.Values{"name[]": {"Ada"}, "text": {"hello"}}, http.StatusUnprocessableEntity},
		"longest text": {url.Values{"name": {"Ada"}, "text": {strings.Repeat("雪", 500)}}, http.StatusOK},
	} {
		res, err := g.Client().PostForm(g.URL("/comet/post.php"), test.form)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != test.status {
			t.Errorf("%s: status %d; want %d", name, res.StatusCode, test.status)
		}
	}
	for _, path := range []string{"/comet/post.php", "/shared/guestbook.php", "/shared/page.php", "/Caddyfile"} {
		if _, err := g.get(t.Context(), g.URL(path)); err == nil {
			t.Errorf("GET %s is answered; want an error", path)
		}
	}
}

// What an application has to change for Comet is the point of the whole: it stays
// within what fits on one screen.
func TestPHPGuestbookNeedsAFewLinesForComet(t *testing.T) {
	app := guestbookDir(t)
	files, err := filepath.Glob(filepath.Join(app, "polling", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in polling: %v", err)
	}
	read := func(file string) []string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(text), "\n")
	}
	var changes []string
	for _, file := range files {
		before, after := read(file), read(filepath.Join(app, "comet", filepath.Base(file)))
		for _, line := range after {
			if !slices.Contains(before, line) {
				changes = append(changes, "+"+line)
			}
		}
		for _, line := range before {
			if !slices.Contains(after, line) {
				changes = append(changes, "-"+line)
			}
		}
	}
	t.Logf("from polling to comet:\n%s", strings.Join(changes, "\n"))
	if len(changes) == 0 || len(changes) > 16 {
		t.Errorf("%d lines differ; want a few", len(changes))
	}
}

// guestbook is one version of the application, served by a PHP of its own.
type guestbook struct {
	*comettest.Server
	version   string // what its figures are called
	folder    string // of the application
	accessLog string // of PHP: a line for each request that it has answered
}

// guestbookFigures is what was measured.
type guestbookFigures struct {
	version                    string
	idle, busy                 time.Duration
	idleRequests, busyRequests int             // that PHP answered, ordinary pages not counted
	sent, stored               int             // messages
	delays                     []time.Duration // from the end of a POST until a reader has the text
	pages                      []time.Duration // until an ordinary page is there; unanswered when it is not
}

// unanswered stands for a time that was not waited for.
const unanswered = time.Duration(1<<63 - 1)

func (f *guestbookFigures) answeredPages() (n int) {
	for _, d := range f.pages {
		if d != unanswered {
			n++
		}
	}
	return n
}

// pace is how the test writes into the guestbook.
type pace struct {
	idle     time.Duration // nobody writes
	messages int
	between  time.Duration
}

func guestbookPace() pace {
	if testing.Short() {
		return pace{idle: 2 * time.Second, messages: 2, between: 2 * time.Second}
	}
	return pace{idle: 4 * time.Second, messages: 3, between: 3 * time.Second}
}

// measure lets a hundred readers at the guestbook, writes into it, and asks for
// an ordinary page all the while.
func (g *guestbook) measure(t *testing.T) *guestbookFigures {
	t.Helper()
	pace := guestbookPace()
	figures := &guestbookFigures{version: g.version, sent: pace.messages}
	// The first page makes the database.
	if _, err := g.get(t.Context(), g.URL("/"+g.folder+"/")); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers, visitor sync.WaitGroup
	var seen sightings
	for range guestbookClients {
		readers.Go(func() {
			pause(ctx, rand.N(time.Second)) // they did not all come at once
			g.read(ctx, &seen)
		})
	}
	pause(ctx, 1500*time.Millisecond) // all are there
	switch g.version {
	case "polling":
		comettest.Eventually(t, comettest.Deadline, func() bool { return g.requests(t) >= guestbookClients },
			"the readers are not served")
	case "unchanged":
		comettest.WaitSubscribers(t, g.Server, "messages", guestbookClients)
	}

	visiting, leave := context.WithCancel(ctx)
	visitor.Go(func() { figures.pages = g.visit(visiting) })
	start, before := time.Now(), g.requests(t)
	pause(ctx, pace.idle)
	figures.idle, figures.idleRequests = time.Since(start), g.requests(t)-before

	start, before = time.Now(), g.requests(t)
	written := map[string]time.Time{}
	for i := range pace.messages {
		next := time.Now().Add(pace.between)
		text := "message " + strconv.Itoa(i+1)
		posting, stop := context.WithTimeout(ctx, guestbookPatience)
		if err := g.post(posting, text); err == nil {
			written[text] = time.Now()
		}
		stop()
		pause(ctx, time.Until(next))
	}
	figures.busy, figures.busyRequests = time.Since(start), g.requests(t)-before
	figures.stored = len(written)

	want := len(written) * guestbookClients
	comettest.Eventually(t, comettest.Deadline, func() bool { return seen.count() >= want },
		g.version, ": not every reader has every message")
	leave()
	visitor.Wait()
	cancel()
	readers.Wait()
	for _, s := range seen.all {
		if at, ok := written[s.text]; ok {
			// Comet tells of a message before its POST is answered.
			figures.delays = append(figures.delays, max(0, s.at.Sub(at)))
		}
	}
	return figures
}

// read does what the page's script does, follow in guestbook.js, until the
// context ends.
func (g *guestbook) read(ctx context.Context, seen *sightings) {
	last := 0
	for ctx.Err() == nil {
		err := g.wait(ctx, last)
		if err == nil {
			var messages []guestbookMessage
			messages, err = g.list(ctx, last)
			for _, m := range messages {
				last = m.ID
				seen.add(m.Text)
			}
		}
		if err != nil {
			pause(ctx, 2*time.Second+rand.N(2*time.Second))
		}
	}
}

// wait is the part of follow that differs: follow.js of each version.
func (g *guestbook) wait(ctx context.Context, last int) error {
	switch g.folder {
	case "polling":
		pause(ctx, time.Second)
	case "comet":
		_, err := g.get(ctx, g.URL("/push?id="+strconv.Itoa(last)))
		return err
	}
	return nil
}

// visit asks for an ordinary page again and again, and returns how long each took.
func (g *guestbook) visit(ctx context.Context) (took []time.Duration) {
	for ctx.Err() == nil {
		start := time.Now()
		waiting, stop := context.WithTimeout(ctx, guestbookPatience)
		_, err := g.get(waiting, g.URL("/"+g.folder+"/"))
		stop()
		switch {
		case err == nil:
			took = append(took, time.Since(start))
		case ctx.Err() == nil:
			took = append(took, unanswered)
		}
		pause(ctx, 200*time.Millisecond)
	}
	return took
}

type guestbookMessage struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	Text string `json:"text"`
}

// list asks list.php for the messages after last.
func (g *guestbook) list(ctx context.Context, last int) (messages []guestbookMessage, err error) {
	body, err := g.get(ctx, g.URL("/"+g.folder+"/list.php?since="+strconv.Itoa(last)))
	if err != nil {
		return nil, err
	}
	return messages, json.Unmarshal(body, &messages)
}

// post signs the guestbook.
func (g *guestbook) post(ctx context.Context, text string) error {
	form := url.Values{"name": {"Ada"}, "text": {text}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL("/"+g.folder+"/post.php"), strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	_, err = g.do(req)
	return err
}

func (g *guestbook) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return g.do(req)
}

func (g *guestbook) do(req *http.Request) ([]byte, error) {
	res, err := g.Client().Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", req.Method, req.URL.Path, res.Status)
	}
	return body, err
}

// requests counts what PHP has answered, ordinary pages left out.
func (g *guestbook) requests(t *testing.T) (n int) {
	t.Helper()
	log, err := os.ReadFile(g.accessLog)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "/index.php") {
			n++
		}
	}
	return n
}

// sightings are the messages that the readers have, each by each.
type sightings struct {
	mu  sync.Mutex
	all []sighting
}

type sighting struct {
	text string
	at   time.Time
}

func (s *sightings) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, sighting{text, time.Now()})
}

func (s *sightings) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// startGuestbook serves one version: a PHP of two workers with a database of its
// own, and comet with the application's own Caddyfile in front.
func startGuestbook(t *testing.T, fpm, version string) *guestbook {
	t.Helper()
	caddyfile, err := os.ReadFile(filepath.Join(guestbookDir(t), "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	return startGuestbookBehind(t, fpm, version, string(caddyfile))
}

// startGuestbookBehind is startGuestbook with another Caddyfile.
func startGuestbookBehind(t *testing.T, fpm, folder, caddyfile string) *guestbook {
	t.Helper()
	// PHP does not run as the user who tests, so it gets a copy that everybody may
	// read. A socket's path must be short.
	dir, err := os.MkdirTemp("", "guestbook-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	app, data := filepath.Join(dir, "app"), filepath.Join(dir, "data")
	if err := os.CopyFS(app, os.DirFS(guestbookDir(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return cmp.Or(err, os.Chmod(path, 0o755))
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o777); err != nil {
		t.Fatal(err)
	}
	socket, stopPHP := startPHP(t, fpm, dir, "env[GUESTBOOK_DB] = "+filepath.Join(data, "guestbook.sqlite"))

	server := comettest.Start(t, comettest.Global("")+caddyfile,
		comettest.Env("GUESTBOOK", app), comettest.Env("PHP_SOCKET", socket))
	// PHP first: when it exits, Caddy waits for what PHP still has to answer.
	t.Cleanup(stopPHP)
	return &guestbook{
		Server:    server,
		version:   folder,
		folder:    folder,
		accessLog: filepath.Join(dir, "access.log"),
	}
}

func guestbookDir(t *testing.T) string {
	t.Helper()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "testdata", "php")
}

// pause waits, but not beyond the end of the context.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func perMinute(n int, d time.Duration) float64 { return float64(n) / d.Minutes() }

// quantile returns the time below which the share q of all is, for reading.
func quantile(all []time.Duration, q float64) string {
	if len(all) == 0 {
		return "-"
	}
	sorted := slices.Sorted(slices.Values(all))
	d := sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
	if d == unanswered {
		return "> " + guestbookPatience.String()
	}
	return d.Round(100 * time.Microsecond).String()
}
