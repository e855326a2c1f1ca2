package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// commandsSite publishes to anything, with a token and without, and holds briefly.
const commandsSite = `
	comet {
		publish /config
		publish /secret {
			token swordfish
		}
		hold /push {
			field id news board/*
			timeout 300ms
			retry 100ms
		}
		hold /text {
			formats text
		}
	}
	redir /moved https://example.com/config 308
	respond /nothing 404
`

// command is a run of the binary beside the server.
type command struct {
	*exec.Cmd
	stdout, stderr output
	done           chan struct{}
}

// output is what a process has written so far.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// lines returns the whole lines.
func (o *output) lines() []string {
	lines := strings.Split(o.String(), "\n")
	return lines[:len(lines)-1]
}

// startCommand starts the binary with what change makes of its command.
func startCommand(t *testing.T, change func(*exec.Cmd), args ...string) *command {
	t.Helper()
	dir := t.TempDir()
	c := &command{Cmd: exec.CommandContext(t.Context(), comettest.Binary(t), args...), done: make(chan struct{})}
	c.Dir = dir
	c.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "COMET_") || strings.HasPrefix(kv, "CADDY_")
	}), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir,
		"GORACE=atexit_sleep_ms=0") // with -race each would take a second to exit
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	if change != nil {
		change(c.Cmd)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = c.Wait() // the exit code is read from ProcessState
		close(c.done)
	}()
	t.Cleanup(func() { <-c.done }) // after the context of the test
	return c
}

// result waits for the end of the command.
func (c *command) result(t *testing.T) comettest.Result {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(comettest.Deadline):
		t.Fatalf("%q does not end; it wrote %q and %q", c.Args[1:], c.stdout.String(), c.stderr.String())
	}
	return comettest.Result{Stdout: c.stdout.String(), Stderr: c.stderr.String(), Code: c.ProcessState.ExitCode()}
}

// waitLines waits until the command has printed these lines and no others.
func (c *command) waitLines(t *testing.T, want ...string) {
	t.Helper()
	end := time.Now().Add(comettest.Deadline)
	for len(c.stdout.lines()) < len(want) && time.Now().Before(end) {
		time.Sleep(5 * time.Millisecond)
	}
	if got := c.stdout.lines(); !slices.Equal(got, want) {
		t.Fatalf("%q printed %q (and %q on stderr); want %q", c.Args[1:], got, c.stderr.String(), want)
	}
}

func runCommand(t *testing.T, args ...string) comettest.Result {
	t.Helper()
	return startCommand(t, nil, args...).result(t)
}

// wantSuccess checks that a command ended well and printed that.
func wantSuccess(t *testing.T, r comettest.Result, stdout string) {
	t.Helper()
	if r.Code != 0 || r.Stdout != stdout || r.Stderr != "" {
		t.Errorf("got %+v; want %q, nothing on stderr and the exit code 0", r, stdout)
	}
}

// wantFailure checks that a command ended with exit code 1 and one line on stderr
// that has all parts in it.
func wantFailure(t *testing.T, r comettest.Result, parts ...string) {
	t.Helper()
	line, more, _ := strings.Cut(r.Stderr, "\n")
	if r.Code != 1 || r.Stdout != "" || more != "" || !strings.HasPrefix(line, "Error: ") {
		t.Errorf("got %+v; want one line on stderr and the exit code 1", r)
	}
	for _, part := range parts {
		if !strings.Contains(line, part) {
			t.Errorf("got the line %q; want %q in it", line, part)
		}
	}
}

func TestPublishCommandPublishesItsArgumentsInOrder(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	start := now(t, s)
	file := filepath.Join(t.TempDir(), "news.txt")
	if err := os.WriteFile(file, []byte("a & b=c\nü\x00\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startCommand(t, func(c *exec.Cmd) { c.Stdin = strings.NewReader("piped\n") },
		"publish", "--to", s.URL("/config"), "--event", "tick", "id=1", "news=@"+file, "board/1=-", "id=2", "board/2=").result(t)
	wantSuccess(t, r, "")
	a := since(t, s, start, "id", "news", "board/1", "board/2")
	wantTexts(t, a, "id=1", "news=YSAmIGI9YwrDvAD/", "board/1=piped\n", "id=2", "board/2=")
	for _, m := range a.JSON.Messages {
		if m.Event != "tick" || m.Type != "" {
			t.Errorf("the message %+v has not the event tick and no type", m)
		}
	}
	wantValue(t, s, "news", "a & b=c\nü\x00\xff")
}

func TestPublishCommandGivesTheValuesAType(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	start := now(t, s)
	const odd = `board/ö "x\y;`
	wantSuccess(t, runCommand(t, "publish", "--to", s.URL("/config"), "--type", "application/json", `id={"a": 1}`, odd+"=[2]"), "")
	a := since(t, s, start, "id", odd)
	wantTexts(t, a, `id={"a": 1}`, odd+"=[2]")
	wantSuccess(t, runCommand(t, "publish", "--to", s.URL("/config"), "--type", "image/svg+xml", "news=<svg/>"), "")
	a = since(t, s, a.Cursor(), "news")
	wantTexts(t, a, "news=<svg/>")
	if got := a.JSON.Messages[0].Type; got != "image/svg+xml" {
		t.Errorf("the message has the type %q; want image/svg+xml", got)
	}
}

func TestPublishCommandTellsWhatTheServerAnswers(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	fields := func(r comettest.Result) map[string]comettest.Field {
		t.Helper()
		var body comettest.Body
		if err := json.Unmarshal([]byte(r.Stdout), &body); err != nil || r.Code != 0 || body.Cursor == "" {
			t.Fatalf("got %+v; want JSON with a cursor", r)
		}
		return body.Fields
	}
	to := []string{"publish", "--json", "--to", strings.TrimPrefix(s.URL(""), "http://")} // /config is added
	if got := fields(runCommand(t, append(to, "id=7", "news=x")...)); got["id"].Text() != "7" || got["news"].Text() != "x" {
		t.Errorf("published id=7 news=x: got %v", got)
	}
	if got := fields(runCommand(t, append(to, "--bump", "id", "--bump", "board/1")...)); got["id"].Text() != "8" || got["board/1"].Text() != "1" {
		t.Errorf("bumped id and board/1: got %v", got)
	}
	if got := fields(runCommand(t, append(to, "--delete", "id", "--delete", "news")...)); len(got) != 2 {
		t.Errorf("deleted id and news: got %v", got)
	}
	wantUnset(t, s, "id", "news")
}

func TestPublishCommandSendsAToken(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	wantSuccess(t, runCommand(t, "publish", "--to", s.URL("/secret"), "--token", "swordfish", "id=1"), "")
	wantSuccess(t, startCommand(t, func(c *exec.Cmd) { c.Env = append(c.Env, "COMET_TOKEN=swordfish") },
		"publish", "--to", s.URL("/secret"), "id=2").result(t), "")
	wantValue(t, s, "id", "2")
	wantFailure(t, runCommand(t, "publish", "--to", s.URL("/secret"), "id=3"), "401", "--token")
	wantFailure(t, runCommand(t, "publish", "--to", s.URL("/secret"), "--token", "tuna", "id=3"), "401", "--token")
	wantValue(t, s, "id", "2")
}

func TestPublishCommandSaysWhatIsWrong(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	comettest.Publish(t, s, "news=text")
	to := func(path string, args ...string) []string { return append([]string{"--to", s.URL(path)}, args...) }
	tests := []struct {
		args []string
		want []string
	}{
		{nil, []string{"NAME=VALUE"}},
		{[]string{"id"}, []string{`"id"`, "NAME=VALUE"}},
		{[]string{"=1"}, []string{`"=1"`}},
		{[]string{"id=1", "--bump", "id"}, []string{"--bump"}},
		{[]string{"--bump", "id", "--type", "text/plain"}, []string{"--type"}},
		{[]string{"--delete", "id", "--event", "x"}, []string{"--event"}},
		{[]string{"id=@missing"}, []string{"id", "missing", "no such file", "id=-"}},
		{[]string{"id=-", "news=-"}, []string{"id", "news", "standard input"}},
		{[]string{"--nonsense"}, []string{"--nonsense"}},
		{[]string{"--to", "ftp://localhost/", "id=1"}, []string{"ftp://localhost/"}},
		{[]string{"--to", s.URL2("/config"), "id=1"}, []string{s.URL2("/config"), "refused", "is comet running", "--to"}},
		{to("/moved", "id=1"), []string{"308", "https://example.com/config", "--to"}},
		{to("/nothing", "id=1"), []string{"404", "publish /nothing"}},
		{to("/elsewhere", "id=1"), []string{"200", "not as Comet", "publish /elsewhere"}},
		{to("/push", "id=1"), []string{"405"}},
		{to("/config", "id=1", "--type", "application/json", "news={"), []string{"400", "news", "JSON"}},
		{to("/config", "--bump", "news"), []string{"400", "news", "number"}},
		{to("/config", "--json", "--bump", "news"), []string{"400", "news", "number"}},
		{to("/config", "id="+strings.Repeat("x", 100), "news=@large"), []string{"413"}},
	}
	commands := make([]*command, len(tests))
	for i, test := range tests {
		commands[i] = startCommand(t, func(c *exec.Cmd) {
			if err := os.WriteFile(filepath.Join(c.Dir, "large"), make([]byte, 2<<20), 0o600); err != nil {
				t.Fatal(err)
			}
		}, append([]string{"publish"}, test.args...)...)
	}
	for i, test := range tests {
		wantFailure(t, commands[i].result(t), test.want...)
	}
	wantUnset(t, s, "id")
	wantValue(t, s, "news", "text")
}

func TestWatchCommandPrintsTheStateAndThenEachMessage(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	comettest.Publish(t, s, "id=1&id=2&board/7=x")
	w := startCommand(t, nil, "watch", "--from", s.URL("/push"), "id", "news", "board/7")
	w.waitLines(t, "id 2", "board/7 x")
	comettest.PublishAs(t, s, "field=news", "application/json", "{\n \"a\": [1, \"ü\"]\n}")
	comettest.PublishAs(t, s, "field=news", "text/plain", "two\nlines \x1b[31m")
	comettest.Publish(t, s, "id=3&id=3&news=")
	want := []string{"id 2", "board/7 x", `news {"a":[1,"ü"]}`, `news "two\nlines \x1b[31m"`, "id 3", "id 3", "news "}
	w.waitLines(t, want...)

	// An orderly restart loses nothing, whatever comes meanwhile.
	s.Restart(t)
	comettest.Publish(t, s, "id=4")
	want = append(want, "id 4")
	w.waitLines(t, want...)
	if strings.Contains(w.stderr.String(), "gap") {
		t.Errorf("a gap is told where there is none: %q", w.stderr.String())
	}
	// After a crash the cursors are gone, and that is told.
	s.Kill(t)
	s.Restart(t)
	comettest.Eventually(t, comettest.Deadline, func() bool { return strings.Contains(w.stderr.String(), "a gap: messages of ") },
		"no gap is told")
	seen := len(w.stdout.lines())
	comettest.Publish(t, s, "id=5")
	comettest.Eventually(t, comettest.Deadline, func() bool {
		lines := w.stdout.lines()
		return len(lines) > seen && lines[len(lines)-1] == "id 5"
	}, "the message after the crash is not printed")
	if got := w.stdout.lines()[:len(want)]; !slices.Equal(got, want) {
		t.Errorf("it printed %q; want %q", got, want)
	}
}

func TestWatchCommandEndsCleanlyWhenInterrupted(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	comettest.Publish(t, s, "id=1")
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		w := startCommand(t, nil, "watch", "--from", s.URL("/push"), "id")
		w.waitLines(t, "id 1")
		comettest.WaitSubscribers(t, s, "id", 1)
		if err := w.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		wantSuccess(t, w.result(t), "id 1\n")
		comettest.WaitSubscribers(t, s, "id", 0)
	}

	// Also while there is no server.
	w := startCommand(t, nil, "watch", "--from", s.URL2("/push"), "id")
	comettest.Eventually(t, comettest.Deadline, func() bool { return w.stderr.String() != "" }, "it does not tell that there is no server")
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if r := w.result(t); r.Code != 0 || !strings.Contains(r.Stderr, "refused") || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("got %+v; want one line and the exit code 0", r)
	}
}

func TestWatchCommandBeginsWhereItIsTold(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	comettest.Publish(t, s, "id=1")
	start := now(t, s)
	comettest.Publish(t, s, "id=2&id=3")
	from := []string{"watch", "--from", s.URL(""), "--count"} // /push is added
	wantSuccess(t, runCommand(t, append(from, "1", "id")...), "id 3\n")
	wantSuccess(t, runCommand(t, append(from, "1")...), "id 3\n")
	wantSuccess(t, runCommand(t, append(from, "2", "--after", "first", "id")...), "id 1\nid 2\n")
	wantSuccess(t, runCommand(t, append(from, "2", "--after", start, "id")...), "id 2\nid 3\n")

	r := runCommand(t, append(from, "2", "--json", "--after", start, "id")...)
	cursors := []string{}
	for line := range strings.Lines(r.Stdout) {
		var m comettest.Message
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Field != "id" || m.Time == "" {
			t.Errorf("got the line %q (%v); want a message", line, err)
		}
		cursors = append(cursors, m.Cursor)
	}
	if len(cursors) != 2 || r.Code != 0 || r.Stderr != "" {
		t.Fatalf("got %+v; want two messages", r)
	}
	wantSuccess(t, runCommand(t, append(from, "1", "--after", cursors[0], "id")...), "id 3\n")

	w := startCommand(t, nil, append(from, "1", "--after", "now", "id")...)
	comettest.WaitSubscribers(t, s, "id", 1)
	comettest.Publish(t, s, "id=4")
	wantSuccess(t, w.result(t), "id 4\n")
}

func TestWatchCommandSaysWhatIsWrong(t *testing.T) {
	s := comettest.Start(t, site(commandsSite))
	tests := []struct{ args, want []string }{
		{[]string{"--from", s.URL("/push"), "other"}, []string{"403", `"other"`, "field other"}},
		{[]string{"--from", s.URL("/push"), "--after", "nonsense"}, []string{"400", "nonsense", "after=now"}},
		{[]string{"--from", s.URL("/text")}, []string{"406", "json"}},
		{[]string{"--from", s.URL("/moved")}, []string{"308", "--from"}},
		{[]string{"--from", s.URL("/nothing")}, []string{"404", "hold /nothing"}},
		{[]string{"--from", s.URL("/elsewhere")}, []string{"not as Comet", "hold /elsewhere"}},
		{[]string{"--from", "://"}, []string{"--from"}},
		{[]string{"--count", "-1"}, []string{"--count -1"}},
	}
	commands := make([]*command, len(tests))
	for i, test := range tests {
		commands[i] = startCommand(t, nil, append([]string{"watch"}, test.args...)...)
	}
	for i, test := range tests {
		wantFailure(t, commands[i].result(t), test.want...)
	}
}

// The server here is one that fails on purpose, and looks at when it is asked.
func TestWatchCommandWaitsOnlyAfterFailures(t *testing.T) {
	answer := func(cursor string, retry int, messages ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Comet-Cursor", cursor)
			fmt.Fprintf(w, `{"cursor":%q,"messages":[%s],"retry":%d}`, cursor, strings.Join(messages, ","), retry)
		}
	}
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if len(header) > 0 {
				w.Header().Set(header[0], header[1])
			}
			http.Error(w, "no", code)
		}
	}
	late := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(100 * time.Millisecond) // as a request is held
			h(w, r)
		}
	}
	const one, two, three = `{"field":"id","data":"1"}`, `{"field":"id","data":"2"}`, `{"field":"id","data":"3"}`
	const long = 60_000 // by far more than the test lets pass where nothing is to be waited for
	steps := []struct {
		when   string
		after  string        // what it is asked
		least  time.Duration // how long it waits before
		atOnce bool
		with   http.HandlerFunc
	}{
		{"first", "", 0, true, answer("c.1", long, one)},
		{"after a wake", "c.1", 0, true, late(answer("c.2", long))},
		{"after a timeout", "c.2", 0, true, answer("c.3", 300, two)},
		{"after another wake", "c.3", 0, true, status(500)},
		{"after a failure", "c.3", 150 * time.Millisecond, false, status(429, "Retry-After", "1")},
		{"when it was told to wait", "c.3", time.Second, false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Comet-Cursor", "c.4")
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"cursor":"c.4","messages":[`+three)
		}},
		{"after an answer that was cut off", "c.3", 150 * time.Millisecond, false, answer("c.4", 300, three)},
		{"after a third wake", "c.4", 0, true, answer("c.4", 300)},
		{"after an empty answer that came at once", "c.4", 150 * time.Millisecond, false, status(418)},
	}
	var mu sync.Mutex
	at, last := 0, time.Now()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if at == len(steps) {
			t.Error("it asks again after 418")
			return
		}
		step := steps[at]
		if got := r.URL.Query().Get("after"); got != step.after {
			t.Errorf("%s it asks for after=%s; want %s", step.when, got, step.after)
		}
		if waited := time.Since(last); waited < step.least || step.atOnce && waited > comettest.Deadline/2 {
			t.Errorf("%s it asks after %s; want at least %s, at once: %t", step.when, waited, step.least, step.atOnce)
		}
		step.with(w, r)
		at, last = at+1, time.Now()
	}))
	defer server.Close()
	r := runCommand(t, "watch", "--from", server.URL, "id")
	if r.Stdout != "id 1\nid 2\nid 3\n" || r.Code != 1 || !strings.Contains(r.Stderr, "418 I'm a teapot: no") {
		t.Errorf("got %+v; want the three messages, once, and the exit code 1", r)
	}
}

func TestStatusCommandPrintsTheStores(t *testing.T) {
	caddyfile := strings.Replace(site(commandsSite), "http_port", "comet {\n\t\tmax_fields 5000\n\t}\n\thttp_port", 1) +
		"http://127.0.0.1:{$HTTP2ND} {\n\tcomet {\n\t\tstore shop\n\t\tpublish /config\n\t}\n}\n"
	s := comettest.Start(t, caddyfile)
	admin := fmt.Sprintf("127.0.0.1:%d", s.Port("ADMIN"))
	comettest.Publish(t, s, "id=1&id=2&news=hello")
	held := startCommand(t, nil, "watch", "--from", s.URL("/push"), "id", "news")
	held.waitLines(t, "id 2", "news hello")
	comettest.WaitSubscribers(t, s, "id", 1)

	var table []string
	comettest.Eventually(t, comettest.Deadline, func() bool { // for a moment, between two requests, none is held
		r := runCommand(t, "status", "--address", admin)
		if r.Code != 0 || r.Stderr != "" {
			t.Fatalf("got %+v; want a table", r)
		}
		table = strings.Split(strings.TrimSuffix(r.Stdout, "\n"), "\n")
		return len(table) == 3 && strings.Contains(table[1], " 1 of ")
	}, "no request is held")
	for i, want := range []string{"STORE HELD FIELDS MESSAGES MEMORY PUBLISHED EVICTED", "default 1 of ", "shop 0 of "} {
		if got := strings.Join(strings.Fields(table[i]), " "); !strings.HasPrefix(got, want) {
			t.Errorf("line %d is %q; want it to begin with %q", i, got, want)
		}
	}
	for _, want := range []string{" 2 of 5,000 ", " 3, 7 B "} {
		if !strings.Contains(table[1], want) {
			t.Errorf("the line %q does not have %q", table[1], want)
		}
	}

	r := runCommand(t, "status", "--json", "--address", admin)
	var stores struct{ Stores []struct{ Store string } }
	if err := json.Unmarshal([]byte(r.Stdout), &stores); err != nil || r.Code != 0 || len(stores.Stores) != 2 {
		t.Errorf("got %+v (%v); want two stores in JSON", r, err)
	}

	// The address is found in the configuration, as other commands find it.
	for _, args := range [][]string{{"status"}, {"status", "--config", "Other", "--adapter", "caddyfile"}} {
		c := startCommand(t, func(c *exec.Cmd) {
			global := "{\n\tadmin " + admin + "\n}\n"
			err := errors.Join(os.WriteFile(filepath.Join(c.Dir, "Caddyfile"), []byte(global), 0o600),
				os.WriteFile(filepath.Join(c.Dir, "Other"), []byte(global), 0o600))
			if err != nil {
				t.Fatal(err)
			}
		}, args...)
		if r := c.result(t); r.Code != 0 || !strings.HasPrefix(r.Stdout, "STORE") || r.Stderr != "" {
			t.Errorf("%q: got %+v; want the table and nothing on stderr", args, r)
		}
	}

	wantFailure(t, runCommand(t, "status", "--address", fmt.Sprintf("127.0.0.1:%d", s.Port("DOOR"))), "refused", "--address")
	wantFailure(t, runCommand(t, "status", "--address", admin, "more"), "more")
	s.Reload(t, comettest.Global("")+"http://127.0.0.1:{$HTTP} {\n\trespond hello\n}\n")
	wantFailure(t, runCommand(t, "status", "--address", admin), "comet")
}

// A request that is held "from now on" and cut off would lose what comes until the next.
func TestWatchCommandTakesACursorBeforeItWaitsFromNowOn(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		q := r.URL.Query()
		asked = append(asked, "after="+q.Get("after")+" wait="+q.Get("wait"))
		if len(asked) > 1 {
			http.Error(w, "enough", http.StatusTeapot)
			return
		}
		w.Header().Set("Comet-Cursor", "c.1")
		fmt.Fprint(w, `{"cursor":"c.1","messages":[],"retry":60000}`)
	}))
	defer server.Close()
	wantFailure(t, runCommand(t, "watch", "--from", server.URL, "--after", "now", "id"), "enough")
	if want := []string{"after=now wait=0", "after=c.1 wait="}; !slices.Equal(asked, want) {
		t.Errorf("it asks %q; want %q", asked, want)
	}
}

func TestPublishCommandPrintsWhyAnAddressIsWrong(t *testing.T) {
	s := comettest.Start(t, comettest.Global("")+"https://localhost:{$HTTPS} {\n\ttls internal\n\tcomet\n}\n"+
		":{$HTTP} {\n\tcomet\n}\n")
	wantFailure(t, runCommand(t, "publish", "--to", fmt.Sprintf("http://127.0.0.1:%d", s.Port("HTTPS")), "id=1"),
		"400 Bad Request: Client sent an HTTP request to an HTTPS server.", "https://", "--to")
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied, err := http.NewRequest(r.Method, s.URL(r.URL.Path), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		proxied.Header, proxied.Host = r.Header, "evil.example"
		res, err := http.DefaultClient.Do(proxied)
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
	}))
	defer evil.Close()
	wantFailure(t, runCommand(t, "publish", "--to", evil.URL, "id=1"),
		"403 Forbidden: this request may not publish", "a name that is not the site's", "--to")
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"error":"host not allowed: evil.example"}`)
	}))
	defer admin.Close()
	wantFailure(t, runCommand(t, "publish", "--to", admin.URL, "id=1"), "403 Forbidden: host not allowed: evil.example")
}

func TestWatchCommandTakesNoGlobs(t *testing.T) {
	wantFailure(t, runCommand(t, "watch", "id", "board/*"), `"board/*"`, "globs", "clients name fields")
}

func TestHelpNamesTheCommandsOfComet(t *testing.T) {
	r := runCommand(t, "help")
	for _, want := range []string{"'comet publish'", "'comet watch'", "'comet status'", "'comet run'"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("the help does not have %q:\n%s", want, r.Stdout)
		}
	}
}

func TestCommandsHaveHelpWithExamples(t *testing.T) {
	commands := map[string]*command{}
	for _, name := range []string{"publish", "watch", "status"} {
		commands[name] = startCommand(t, nil, "help", name)
	}
	for name, c := range commands {
		r := c.result(t)
		if r.Code != 0 || r.Stderr != "" || !strings.Contains(r.Stdout, "Usage:\n  comet "+name+" ") ||
			!strings.Contains(r.Stdout, "Examples:\n  $ comet "+name) {
			t.Errorf("help %s: got %+v; want help with examples", name, r)
		}
	}
}
