package main_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// proxyKind is a server that stands in front of Comet, with its part of
// testdata/behind.
type proxyKind struct {
	name    string
	command func(t *testing.T, conf string) []string

	// needs is a file that must be there: the program, or what it loads.
	needs []string

	// seesLeaving: it closes its connection to Comet when the client closes its own.
	seesLeaving bool

	// plain is when its listener PLAIN, on which nothing is set, gives up a hold.
	// Zero: it adds headers of its own accord, and has no such listener.
	plain time.Duration
}

const apacheModules = "/usr/lib/apache2/modules"

var proxyKinds = []proxyKind{
	{
		name: "nginx", needs: []string{"nginx"}, seesLeaving: true,
		plain: time.Minute, // its own default
		command: func(t *testing.T, conf string) []string {
			// It opens a log before it has read which.
			return []string{findServer("nginx"), "-e", filepath.Join(filepath.Dir(conf), "error.log"), "-c", conf}
		},
	},
	{
		name: "apache", needs: []string{"apache2", apacheModules},
		plain: time.Minute, // its own default
		command: func(t *testing.T, conf string) []string {
			return []string{findServer("apache2"), "-D", "FOREGROUND", "-f", conf}
		},
	},
	{
		name: "haproxy", needs: []string{"haproxy"}, seesLeaving: true,
		plain: 50 * time.Second, // Debian's haproxy.cfg
		command: func(t *testing.T, conf string) []string {
			return []string{findServer("haproxy"), "-db", "-f", conf}
		},
	},
	{
		name: "caddy", seesLeaving: true,
		command: func(t *testing.T, conf string) []string {
			return []string{comettest.Binary(t), "run", "--config", conf, "--adapter", "caddyfile"}
		},
	},
}

// missing says what a proxy lacks to be run here; empty when that is nothing.
func (k proxyKind) missing() string {
	for _, name := range k.needs {
		if findServer(name) == "" {
			return fmt.Sprintf("no %s here; testdata/setup installs it on Debian", name)
		}
	}
	return ""
}

// findServer returns the path of a server's program, or of a folder; empty when there
// is none.
func findServer(name string) string {
	if filepath.IsAbs(name) {
		if _, err := os.Stat(name); err != nil {
			return ""
		}
		return name
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// How long a request is held that came through a proxy, and on the route of this test
// that is above the default limit of every proxy here.
const (
	proxyShortest = 45 * time.Second
	proxyLongest  = 55 * time.Second
	beyondLimits  = 65 * time.Second

	// lateness is what a busy machine may add.
	lateness = 10 * time.Second
)

func TestBehindProxies(t *testing.T) {
	t.Parallel()
	var all []*behind
	for _, kind := range proxyKinds {
		if missing := kind.missing(); missing != "" {
			t.Run(kind.name, func(t *testing.T) { t.Skip(missing) })
			continue
		}
		all = append(all, startBehind(t, kind))
	}
	// What takes a minute takes it for all at once, beside the rest.
	long := map[string][]longHold{}
	if !testing.Short() {
		for _, b := range all {
			long[b.kind.name] = b.startLongHolds(t)
		}
	}
	for _, b := range all {
		t.Run(b.kind.name, func(t *testing.T) {
			t.Run("a wake arrives", b.testWake)
			t.Run("a timeout arrives", b.testTimeout)
			t.Run("connections to Comet are kept", b.testKeepAlive)
			t.Run("the client's address arrives", b.testClientAddress)
			t.Run("a client that leaves is forgotten", b.testLeaving)
			t.Run("nobody publishes through it", b.testPublishing)
			t.Run("the application has the rest", b.testApplication)
		})
	}
	for i := range 5 { // the wakes when the first are over, and before the last
		for _, b := range all {
			if holds := long[b.kind.name]; i < len(holds) {
				t.Run(b.kind.name+": "+holds[i].name, holds[i].test)
			}
		}
	}
	for _, b := range all {
		t.Run(b.kind.name+": a restart of Comet", b.testRestart)
	}
}

// behind is a Comet with one proxy in front of it. HoldURL leads through the proxy,
// PublishURL to the door.
type behind struct {
	*comettest.Server
	kind  proxyKind
	ports map[string]int // of the proxy, by their names in its configuration
}

func startBehind(t *testing.T, kind proxyKind) *behind {
	t.Helper()
	b := &behind{Server: comettest.Start(t, cometBehind(t, "")), kind: kind}
	b.ports = startProxy(t, kind, b.Server, "127.0.0.1")
	b.PublishURL, b.HoldURL = b.DoorURL("/config"), b.url("FRONT", "/push")
	comettest.Publish(t, b.Server, "id=1&slow=1&leave=1")
	return b
}

func (b *behind) url(port, path string) string {
	return "http://127.0.0.1:" + strconv.Itoa(b.ports[port]) + path
}

// cometBehind returns testdata/behind/comet.conf for a server of this package, with a
// log, and with the route ?hold=long. extra is put into its global options.
func cometBehind(t *testing.T, extra string) string {
	t.Helper()
	return replaced(t, readBehind(t, "comet.conf"),
		"{\n\tservers {", strings.TrimSuffix(comettest.Global(extra), "}\n")+"\n\tservers {",
		"http://:8080", "http://:{$HTTP}",
		"http://127.0.0.1:2080", "http://127.0.0.1:{$DOOR}",
		"\tcomet {\n\t\thold /push\n", `	log
	@long query hold=long
	rewrite @long /push-long
	comet {
		hold /push-long {
			field id slow leave
			timeout `+beyondLimits.String()+`
		}
		hold /push
`)
}

func readBehind(t *testing.T, name string) string {
	t.Helper()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "testdata", "behind", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// replaced returns text with each old replaced by the new after it. Each must be there.
func replaced(t *testing.T, text string, oldnew ...string) string {
	t.Helper()
	for pair := range slices.Chunk(oldnew, 2) {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("%q is not in\n%s", pair[0], text)
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	return text
}

// startProxy runs a proxy in front of s, which listens on address, and returns its
// ports.
func startProxy(t *testing.T, kind proxyKind, s *comettest.Server, address string) map[string]int {
	t.Helper()
	// Between picking a port and listening on it somebody else may take it.
	for attempt := 1; ; attempt++ {
		ports, output := tryProxy(t, kind, s, address)
		if ports != nil {
			return ports
		}
		if attempt == 3 {
			t.Fatalf("%s does not serve:\n%s", kind.name, output())
		}
	}
}

func tryProxy(t *testing.T, kind proxyKind, s *comettest.Server, address string) (map[string]int, func() string) {
	t.Helper()
	// It may not run as the user who tests, so everybody may read its folder.
	dir, err := os.MkdirTemp("", "behind-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	app, conf := filepath.Join(dir, "app"), filepath.Join(dir, kind.name+".conf")
	if err := os.Mkdir(app, 0o755); err != nil {
		t.Fatal(err)
	}
	ports := map[string]int{"FRONT": pickPort(t), "OPEN": pickPort(t), "PLAIN": pickPort(t)}
	text := replaced(t, readBehind(t, kind.name+".conf"),
		"127.0.0.1:8080", net.JoinHostPort(address, strconv.Itoa(s.Port("HTTP"))),
		"127.0.0.1:ALL", "127.0.0.1:"+strconv.Itoa(s.Port("HTTP2ND")))
	user := "" // of Apache, which asks for one when it is started as root
	if os.Geteuid() == 0 {
		user = "User www-data\nGroup www-data"
	}
	words := []string{
		"app.example.com {", "http://127.0.0.1:FRONT {", "/srv/app", app, "DIR", dir,
		"MODULES", apacheModules, "\nUSER\n", "\n" + user + "\n",
	}
	for name, port := range ports {
		words = append(words, "127.0.0.1:"+name, "127.0.0.1:"+strconv.Itoa(port))
	}
	for pair := range slices.Chunk(words, 2) {
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	err = cmp.Or(
		os.WriteFile(filepath.Join(app, "app.txt"), []byte("app"), 0o600),
		os.WriteFile(conf, []byte(text), 0o600),
		filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			return cmp.Or(err, os.Chmod(path, 0o755))
		}))
	if err != nil {
		t.Fatal(err)
	}

	// The shell ends the proxy when its input ends: with the test, or with the test's
	// process, whatever becomes of that.
	log := filepath.Join(dir, "output.log")
	cmd := exec.Command("sh", append([]string{
		"-c", `log=$1; shift; "$@" >"$log" 2>&1 & read -r _; kill "$!" 2>/dev/null; wait`, "sh", log,
	}, kind.command(t, conf)...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	output := func() string {
		var all bytes.Buffer
		for _, name := range []string{"output.log", "error.log"} {
			text, _ := os.ReadFile(filepath.Join(dir, name)) // it need not have written one
			all.Write(text)
		}
		return all.String()
	}
	stop := sync.OnceFunc(func() {
		input.Close()
		_ = cmd.Wait() // the exit code is that of a process told to end
		if t.Failed() {
			t.Logf("%s says:\n%s", kind.name, output())
		}
	})
	t.Cleanup(stop)
	front := request{URL: "http://127.0.0.1:" + strconv.Itoa(ports["FRONT"]) + "/app.txt"}
	for end := time.Now().Add(comettest.Deadline); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(t.Context(), comettest.Deadline)
		a := s.Try(ctx, front)
		cancel()
		if a.Err == nil && a.Body == "app" {
			return ports, output
		}
		if strings.Contains(output(), "in use") {
			break
		}
		pause(t.Context(), 20*time.Millisecond)
	}
	stop()
	return nil, output
}

// pickPort returns a free port that neither comettest nor the kernel gives to others.
func pickPort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 30_000 + rand.IntN(2_700)
		if _, taken := proxyPorts.LoadOrStore(port, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port found")
	return 0
}

var proxyPorts sync.Map // of this process: port to true

func (b *behind) testWake(t *testing.T) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	var delays []time.Duration
	for id := 100; id < 120; id++ {
		comettest.Publish(t, b.Server, "id="+strconv.Itoa(id))
		held := b.holdTimed(t, request{URL: b.HoldURL + "?_wake=1&id=" + strconv.Itoa(id), Client: client})
		published := time.Now()
		comettest.Publish(t, b.Server, "id="+strconv.Itoa(id+1))
		a := held.await(t, comettest.Deadline)
		wantText(t, a.Answer, "YES\n")
		delays = append(delays, a.at.Sub(published))
	}
	slices.Sort(delays)
	median, most := delays[len(delays)/2], delays[len(delays)-1]
	t.Logf("%s: %d wakes, from before the POST until the client has the answer: median %s, most %s",
		b.kind.name, len(delays), median.Round(10*time.Microsecond), most.Round(10*time.Microsecond))
	if median > time.Second {
		t.Errorf("the median delay is %s; want 100 ms or less, on a machine with nothing else to do", median)
	}
	if ports := b.portsOf(t, "_wake=1", len(delays)); len(ports) > 3 {
		t.Errorf("%d wakes came over %d connections to Comet; want one, or nearly", len(delays), len(ports))
	}
}

func (b *behind) testTimeout(t *testing.T) {
	start := time.Now()
	a := b.Do(t, request{URL: b.HoldURL + "?id=1000000&wait=3"})
	wantText(t, a, "NO\n")
	if took := time.Since(start); took < 3*time.Second || took > 3*time.Second+lateness {
		t.Errorf("wait=3 took %s", took)
	}
	a = b.Do(t, request{URL: b.HoldURL + "?id=1000000&wait=0&format=json"})
	if a.Status != 200 || a.JSON == nil || a.Cursor() == "" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %s; want the answer as Comet gave it", a)
	}
}

func (b *behind) testKeepAlive(t *testing.T) {
	const polls = 20
	for range polls {
		wantText(t, b.Do(t, request{URL: b.HoldURL + "?id=1000000&wait=0&_keep=1"}), "NO\n")
	}
	if ports := b.portsOf(t, "_keep=1", polls); len(ports) > 2 {
		t.Errorf("%d requests came over %d connections to Comet; want one, or nearly", polls, len(ports))
	}
}

// accessLine is what is looked at in a line of Caddy's access log.
type accessLine struct {
	Logger  string `json:"logger"`
	Request struct {
		RemotePort string `json:"remote_port"`
		ClientIP   string `json:"client_ip"`
		Proto      string `json:"proto"`
		URI        string `json:"uri"`
	} `json:"request"`
}

// accessLines waits for n lines of requests with mark in their query.
func (b *behind) accessLines(t *testing.T, mark string, n int) (lines []accessLine) {
	t.Helper()
	comettest.Eventually(t, comettest.Deadline, func() bool {
		lines = nil
		for text := range strings.Lines(b.Logs()) {
			var l accessLine
			if json.Unmarshal([]byte(text), &l) == nil && strings.HasPrefix(l.Logger, "http.log.access") &&
				strings.Contains(l.Request.URI, mark) {
				lines = append(lines, l)
			}
		}
		return len(lines) >= n
	}, "the access log has no ", n, " lines with ", mark)
	return lines
}

// portsOf returns from which ports of the proxy n requests came.
func (b *behind) portsOf(t *testing.T, mark string, n int) map[string]int {
	t.Helper()
	ports := map[string]int{}
	for _, l := range b.accessLines(t, mark, n) {
		ports[l.Request.RemotePort]++
		if l.Request.Proto != "HTTP/1.1" {
			t.Errorf("%s asks Comet in %s; want HTTP/1.1", b.kind.name, l.Request.Proto)
		}
	}
	return ports
}

// from returns a client whose address is another one of this machine's.
func from(t *testing.T, address string) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	tr := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (b *behind) testClientAddress(t *testing.T) {
	for i, says := range []string{"", "203.0.113.9", "203.0.113.9, 127.0.0.1"} {
		mark := fmt.Sprintf("_address=%d", i)
		a := b.Do(t, request{
			URL: b.HoldURL + "?id=1000000&wait=0&" + mark, Client: from(t, "127.0.0.9"),
			Header: map[string]string{"X-Forwarded-For": says},
		})
		wantText(t, a, "NO\n")
		if got := b.accessLines(t, mark, 1)[0].Request.ClientIP; got != "127.0.0.9" {
			t.Errorf("a client at 127.0.0.9 that says X-Forwarded-For: %q is logged as %s", says, got)
		}
	}
}

func (b *behind) testLeaving(t *testing.T) {
	url := b.HoldURL + "?hold=long&field=leave&after=now"
	times := 3
	if !b.kind.seesLeaving {
		url += "&wait=3" // it is forgotten with its timeout
		times = 1
	}
	for range times {
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Try(ctx, request{URL: url, Client: from(t, "127.0.0.1")})
		}()
		comettest.WaitSubscribers(t, b.Server, "leave", 1)
		leave()
		left := time.Now()
		<-done
		comettest.Eventually(t, comettest.Deadline, func() bool {
			n, _ := comettest.Subscribers(t, b.Server, "leave")
			return n == 0
		}, "a client that left is still held")
		t.Logf("%s: forgotten %s after it left", b.kind.name, time.Since(left).Round(time.Millisecond))
	}
}

func (b *behind) testPublishing(t *testing.T) {
	t.Run("the proxy has no /config", func(t *testing.T) {
		for _, path := range []string{"/config", "/push/../config", "/push/config", "/token"} {
			a := b.Do(t, request{URL: b.url("FRONT", path), Type: comettest.FormType, Body: "mine=1"})
			if a.Body == "OK\n" || a.Cursor() != "" {
				t.Errorf("POST %s: got %s; want what Comet has not answered", path, a)
			}
		}
		wantStatus(t, b.Do(t, request{URL: b.HoldURL, Type: comettest.FormType, Body: "mine=1"}), 405)
	})
	t.Run("the site behind it has none either", func(t *testing.T) {
		wantStatus(t, b.Do(t, request{URL: b.URL("/config"), Type: comettest.FormType, Body: "mine=1"}), 404)
	})
	t.Run("where the proxy passes everything its headers tell", func(t *testing.T) {
		before := len(b.Logs())
		a := b.Do(t, request{URL: b.url("OPEN", "/config"), Type: comettest.FormType, Body: "mine=1"})
		wantStatus(t, a, 403)
		b.WaitLogFrom(t, before, "it has the header")
		wantStatus(t, b.Do(t, request{URL: b.url("OPEN", "/token"), Type: comettest.FormType, Body: "mine=1"}), 401)
	})
	b.wantUnset(t, "mine")
	if b.kind.plain == 0 {
		return
	}
	t.Run("without headers it looks like this machine, and a token helps", func(t *testing.T) {
		post := request{URL: b.url("PLAIN", "/token"), Type: comettest.FormType, Body: "mine=1"}
		wantStatus(t, b.Do(t, post), 401)
		b.wantUnset(t, "mine")
		post.URL = b.url("PLAIN", "/config")
		wantText(t, b.Do(t, post), "OK\n") // what docs/behind.md warns of
		wantStatus(t, b.Do(t, request{Method: "DELETE", URL: b.PublishURL + "?field=mine"}), 200)
	})
}

func (b *behind) wantUnset(t *testing.T, field string) {
	t.Helper()
	wantStatus(t, b.Do(t, request{URL: b.PublishURL + "?field=" + field}), 400)
}

func (b *behind) testApplication(t *testing.T) {
	a := b.Do(t, request{URL: b.url("FRONT", "/app.txt")})
	wantText(t, a, "app")
}

// testRestart comes last: it leaves nobody held.
func (b *behind) testRestart(t *testing.T) {
	held := b.holdTimed(t, request{URL: b.HoldURL + "?id=3000000"})
	b.Stop(t)
	wantText(t, held.await(t, comettest.Deadline).Answer, "NO\n")
	a := b.Do(t, request{URL: b.HoldURL + "?id=3000000&wait=0"})
	wantStatus(t, a, 502, 503, 504)
	b.Restart(t)
	back := time.Now()
	comettest.Eventually(t, comettest.Deadline, func() bool {
		return b.Do(t, request{URL: b.HoldURL + "?id=3000000&wait=0"}).Status == 200
	}, b.kind.name, " does not find Comet again")
	t.Logf("%s: %d while Comet was away, 200 within %s of its return", b.kind.name, a.Status, time.Since(back).Round(time.Millisecond))
}

// timed is a held request that is answered at a known time.
type timed struct {
	since   time.Time
	answers chan timedAnswer
}

type timedAnswer struct {
	comettest.Answer
	at time.Time
}

// holdTimed sends a request and returns when Comet holds it.
func (b *behind) holdTimed(t *testing.T, r request) timed {
	t.Helper()
	h := timed{time.Now(), make(chan timedAnswer, 1)}
	answers := comettest.HoldRequest(t, b.Server, r)
	go func() {
		a := <-answers
		h.answers <- timedAnswer{a, time.Now()}
	}()
	return h
}

func (h timed) await(t *testing.T, within time.Duration) timedAnswer {
	t.Helper()
	select {
	case a := <-h.answers:
		if a.Err != nil {
			t.Fatalf("a held request was cut: %v", a.Err)
		}
		return a
	case <-time.After(within):
		t.Fatalf("a held request got no answer within %s", within)
		return timedAnswer{}
	}
}

// longHold is a hold that began a while ago, and what is to become of it.
type longHold struct {
	name string
	test func(t *testing.T)
}

// startLongHolds holds what only time can tell. Nothing that the test publishes wakes
// these but what is published here.
func (b *behind) startLongHolds(t *testing.T) []longHold {
	t.Helper()
	// Between two times after it began, the test being late or not.
	check := func(h timed, from, to time.Duration, want func(*testing.T, comettest.Answer)) func(*testing.T) {
		return func(t *testing.T) {
			a := h.await(t, max(time.Second, to+lateness-time.Since(h.since)))
			took := a.at.Sub(h.since)
			t.Logf("%s: %d %q after %s", b.kind.name, a.Status, a.Body[:min(len(a.Body), 20)], took.Round(10*time.Millisecond))
			want(t, a.Answer)
			if took < from || took > to+lateness {
				t.Errorf("it took %s; want %s to %s", took, from, to)
			}
		}
	}
	no := func(t *testing.T, a comettest.Answer) { t.Helper(); wantText(t, a, "NO\n") }
	timeout := func(t *testing.T, a comettest.Answer) {
		t.Helper()
		wantStatus(t, a, http.StatusGatewayTimeout, http.StatusBadGateway)
	}

	first := b.holdTimed(t, request{URL: b.HoldURL + "?id=1000000"})
	woken := b.holdTimed(t, request{URL: b.HoldURL + "?hold=long&id=1000000"})
	last := b.holdTimed(t, request{URL: b.HoldURL + "?hold=long&slow=1"})
	holds := []longHold{
		{"the default is the shorter one", check(first, proxyShortest, proxyLongest, no)},
		// By then the first is over. The others have ids that are higher.
		{"a wake after 56 seconds", func(t *testing.T) {
			pause(t.Context(), proxyLongest+time.Second-time.Since(woken.since))
			published := time.Now()
			comettest.Publish(t, b.Server, "id=1000001")
			a := woken.await(t, comettest.Deadline)
			wantText(t, a.Answer, "YES\n")
			t.Logf("%s: held for %s, answered %s after the POST began", b.kind.name,
				published.Sub(woken.since).Round(time.Millisecond), a.at.Sub(published).Round(10*time.Microsecond))
		}},
		{"a hold beyond the proxy's own limit", check(last, beyondLimits, beyondLimits, no)},
	}
	if b.kind.plain > 0 {
		plain := b.holdTimed(t, request{URL: b.url("PLAIN", "/push?id=2000000")})
		holds = append(holds, longHold{"where nothing is set the proxy gives up", check(plain, b.kind.plain, b.kind.plain, timeout)})
	}
	if b.kind.name == "nginx" {
		trusted := b.holdTimed(t, request{URL: b.url("PLAIN", "/short?id=2000000")})
		holds = append(holds, longHold{"where it adds no header trusted_proxies tells", check(trusted, proxyShortest, proxyLongest, no)})
	}
	return holds
}

// What a client may have is counted by its own address, when the proxy is on another
// machine and is trusted, and by the proxy's when it is not.
func TestAClientsLimitBehindAProxyOnAnotherMachine(t *testing.T) {
	t.Parallel()
	nginx := proxyKinds[0]
	if missing := nginx.missing(); missing != "" {
		t.Skip(missing)
	}
	const trusted = "\t\ttrusted_proxies static 127.0.0.1\n\t\ttrusted_proxies_strict\n"
	start := func(t *testing.T, servers string) *behind {
		address := otherAddress(t)
		config := replaced(t, cometBehind(t, "comet {\n\t\tmax_held_per_client 2\n\t}"),
			trusted, strings.ReplaceAll(servers, "ADDRESS", address),
			"http://:{$HTTP} {\n\tbind 127.0.0.1", "http://:{$HTTP} {\n\tbind "+address)
		b := &behind{Server: comettest.Start(t, config), kind: nginx}
		b.ports = startProxy(t, nginx, b.Server, address)
		b.PublishURL, b.HoldURL = b.DoorURL("/config"), b.url("FRONT", "/push")
		comettest.Publish(t, b.Server, "id=1")
		for range 2 {
			b.holdTimed(t, request{URL: b.HoldURL + "?id=1", Client: from(t, "127.0.0.9")})
		}
		return b
	}
	t.Run("trusted", func(t *testing.T) {
		b := start(t, "\t\ttrusted_proxies static ADDRESS\n\t\ttrusted_proxies_strict\n")
		a := b.Do(t, request{
			URL: b.HoldURL + "?id=1", Client: from(t, "127.0.0.9"),
			Header: map[string]string{"X-Forwarded-For": "203.0.113.7"}, // it cannot say so
		})
		wantStatus(t, a, http.StatusTooManyRequests)
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("got %s; want Retry-After", a)
		}
		held := b.holdTimed(t, request{URL: b.HoldURL + "?id=1", Client: from(t, "127.0.0.10")})
		comettest.Publish(t, b.Server, "id=2")
		wantText(t, held.await(t, comettest.Deadline).Answer, "YES\n")
	})
	t.Run("not trusted", func(t *testing.T) {
		b := start(t, "\t\tprotocols h1\n")
		a := b.Do(t, request{URL: b.HoldURL + "?id=1", Client: from(t, "127.0.0.10")})
		wantStatus(t, a, http.StatusTooManyRequests)
	})
}

// What docs/behind.md shows is what these tests run.
func TestThePageOnProxiesShowsWhatIsRun(t *testing.T) {
	t.Parallel()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "behind.md"))
	if err != nil {
		t.Fatal(err)
	}
	run := map[string]string{} // what is shown, and where it is from
	for _, name := range []string{"comet", "nginx", "apache", "haproxy", "caddy"} {
		for _, part := range marked(t, readBehind(t, name+".conf")) {
			run[part] = name + ".conf"
		}
	}
	for _, found := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		language, text := found[1], found[2]
		if language == "console" || language == "sh" {
			continue
		}
		if run[text] == "" {
			t.Errorf("no file of testdata/behind has\n%s", text)
		}
		delete(run, text)
	}
	for _, text := range slices.Sorted(maps.Keys(run)) {
		t.Errorf("docs/behind.md does not show this part of %s:\n%s", run[text], text)
	}
}

// marked returns the parts of a configuration between lines with #> and #<, without
// the indentation that all their lines have.
func marked(t *testing.T, conf string) (parts []string) {
	t.Helper()
	for _, found := range regexp.MustCompile(`(?m)^(\t*)#> \w+\n((?s:.*?))^\t*#<$`).FindAllStringSubmatch(conf, -1) {
		indent, part := found[1], found[2]
		var text strings.Builder
		for line := range strings.Lines(part) {
			text.WriteString(strings.TrimPrefix(line, indent))
		}
		parts = append(parts, text.String())
	}
	if len(parts) == 0 {
		t.Fatalf("nothing is marked in\n%s", conf)
	}
	return parts
}
