package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// browser is a headless Chromium, driven by testdata/browser.
type browser struct {
	mu      sync.Mutex
	input   io.WriteCloser
	last    int
	waiting map[int]chan browserReply
	ended   chan struct{}
}

type browserReply struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
}

// page is a page of a visitor. Visitors share nothing with each other.
type page struct {
	*browser
	name string
}

// viewport is the size of a screen, and whether it is one of a phone.
type viewport struct {
	width, height int
	phone         bool
}

var (
	desktop = viewport{width: 1280, height: 800}
	phone   = viewport{width: 390, height: 844, phone: true}
)

// startBrowser starts Chromium, which is gone at the end of the test. Without it,
// node or playwright-core the test is skipped.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	chromium := findCommand(t, "chromium", "chromium-browser", "google-chrome")
	node := findCommand(t, "node", "nodejs")
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "testdata", "browser")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "playwright-core")); err != nil {
		t.Skip("no playwright-core in testdata/browser/node_modules; testdata/setup installs it")
	}
	cmd := exec.Command(node, filepath.Join(dir, "drive.mjs"))
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium)
	var said bytes.Buffer
	cmd.Stderr = &said
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{input: input, waiting: map[int]chan browserReply{}, ended: make(chan struct{})}
	started := make(chan browserReply, 1)
	b.waiting[0] = started
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go b.read(output)
	t.Cleanup(func() {
		input.Close()
		select {
		case <-b.ended:
		case <-time.After(comettest.Deadline):
			t.Error("the browser does not end")
			_ = cmd.Process.Kill() // it may have ended just now
		}
		_ = cmd.Wait() // the exit code says nothing about the test
		if t.Failed() {
			t.Logf("the browser said:\n%s", said.String())
		}
	})
	b.await(t, "the start", started)
	return b
}

// read hands out the replies.
func (b *browser) read(output io.Reader) {
	defer close(b.ended)
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var reply browserReply
		if err := json.Unmarshal(line, &reply); err != nil {
			reply.Error = err.Error() + ": " + string(line)
		}
		b.mu.Lock()
		if c := b.waiting[reply.ID]; c != nil {
			c <- reply
		}
		delete(b.waiting, reply.ID)
		b.mu.Unlock()
	}
}

func (b *browser) await(t *testing.T, what string, reply <-chan browserReply) json.RawMessage {
	t.Helper()
	select {
	case r := <-reply:
		if r.Error != "" {
			t.Fatalf("the browser: %s: %s", what, r.Error)
		}
		return r.Result
	case <-b.ended:
		t.Fatalf("the browser ended before %s", what)
	case <-time.After(2 * comettest.Deadline):
		t.Fatalf("the browser: no answer to %s", what)
	}
	return nil
}

// open opens an address as another visitor.
func (b *browser) open(t *testing.T, name string, size viewport, address string) *page {
	t.Helper()
	p := &page{browser: b, name: name}
	p.call(t, "open", map[string]any{
		"viewport":          map[string]int{"width": size.width, "height": size.height},
		"isMobile":          size.phone,
		"hasTouch":          size.phone,
		"deviceScaleFactor": map[bool]int{false: 1, true: 2}[size.phone],
		"reducedMotion":     "reduce",
	})
	p.call(t, "goto", address)
	return p
}

// tab opens an address as the visitor of p, in another tab.
func (p *page) tab(t *testing.T, name, address string) *page {
	t.Helper()
	other := &page{browser: p.browser, name: name}
	other.call(t, "open", nil, p.name)
	other.call(t, "goto", address)
	return other
}

// start sends a call of one of the methods of Playwright's Page, and returns what
// its reply will come through.
func (p *page) start(t *testing.T, method string, args ...any) <-chan browserReply {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	reply := make(chan browserReply, 1)
	p.waiting[p.last] = reply
	line, err := json.Marshal(map[string]any{"id": p.last, "page": p.name, "call": method, "args": args})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.input.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	return reply
}

// call is start, and waits for the reply.
func (p *page) call(t *testing.T, method string, args ...any) json.RawMessage {
	t.Helper()
	return p.await(t, p.name+": "+method, p.start(t, method, args...))
}

// eval returns what an expression in JavaScript is in the page, into result.
func (p *page) eval(t *testing.T, expression string, result any) {
	t.Helper()
	raw := p.call(t, "evaluate", expression)
	if err := json.Unmarshal(raw, result); err != nil {
		t.Fatalf("%s: %s is %s: %v", p.name, expression, raw, err)
	}
}

// text returns the text of the first element that a selector finds, which is
// waited for, as it is seen: without that of hidden elements.
func (p *page) text(t *testing.T, selector string) string {
	t.Helper()
	var text string
	if err := json.Unmarshal(p.call(t, "innerText", selector), &text); err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(text), " ")
}

// is says whether an expression in JavaScript is true in the page.
func (p *page) is(t *testing.T, expression string) bool {
	t.Helper()
	var is bool
	p.eval(t, "Boolean("+expression+")", &is)
	return is
}

// appearance watches for the first element that a selector finds, from now on, and
// returns what its time comes through: when it is about to be painted.
func (p *page) appearance(t *testing.T, selector string) <-chan browserReply {
	t.Helper()
	quoted, err := json.Marshal(selector)
	if err != nil {
		t.Fatal(err)
	}
	p.call(t, "evaluate", `window.appearance = new Promise((resolve) => {
		const look = () => document.querySelector(`+string(quoted)+`)
			&& requestAnimationFrame(() => resolve(Date.now()));
		new MutationObserver((_, observer) => { if (look()) observer.disconnect(); })
			.observe(document.body, { childList: true, subtree: true });
	}), true`)
	return p.start(t, "evaluate", "window.appearance")
}

// appeared waits for an appearance and returns when it was.
func (p *page) appeared(t *testing.T, appearance <-chan browserReply) time.Time {
	t.Helper()
	var ms int64
	if err := json.Unmarshal(p.await(t, p.name+": what is to appear", appearance), &ms); err != nil {
		t.Fatal(err)
	}
	return time.UnixMilli(ms)
}

// screenshot writes a picture of what is seen into the folder COMET_SCREENSHOTS of
// the environment, or, without one, into the test's own.
func (p *page) screenshot(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("COMET_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	path := filepath.Join(dir, name+".png")
	p.call(t, "screenshot", map[string]string{"path": path})
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Errorf("no picture %s: %v", path, err)
	}
}

// findCommand returns the path of the first of some commands that is there. The
// test is skipped when none is.
func findCommand(t *testing.T, names ...string) string {
	t.Helper()
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin")
	for _, name := range names {
		for _, dir := range dirs {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path
			}
		}
	}
	t.Skipf("no %s here; testdata/setup installs it on Debian", strings.Join(names, " or "))
	return ""
}
