package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// TestMain lets the test binary be the program: compare starts itself as the floor.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "floor" {
		main()
	}
	os.Exit(comettest.Main(m))
}

// site is a server with all that the cases need.
var site = comettest.Global("comet {\n\t\thistory 100k\n\t}") + `
http://127.0.0.1:{$HTTP}, https://localhost:{$HTTPS} {
	tls internal
	comet {
		publish /config
		hold /push {
			field bench bench/*
		}
	}
}`

// bench runs the program and returns its JSON.
func bench(t *testing.T, wantCode int, args ...string) (result map[string]any, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), append(args, "--json"), &out, &errs)
	if code != wantCode {
		t.Fatalf("%q: exit code %d; want %d\n%s%s", args, code, wantCode, out.String(), errs.String())
	}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &result); err != nil {
			t.Fatal(err)
		}
	}
	return result, errs.String()
}

// at reads a number in what bench returns.
func at(t *testing.T, v any, path ...string) float64 {
	t.Helper()
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("there is no %s in %v", name, v)
		}
		v = m[name]
	}
	number, ok := v.(float64)
	if !ok {
		t.Fatalf("%q is %v", path, v)
	}
	return number
}

func TestCasesAgainstComet(t *testing.T) {
	s := comettest.Start(t, site)
	to := []string{"--url", s.URL("/push")}
	secure := []string{"--url", s.TLSURL("/push"), "--publish", s.URL("/config")}
	var pid []string
	if runtime.GOOS == "linux" {
		pid = []string{"--pid", strconv.Itoa(s.Pid)}
	}
	with := func(lists ...[]string) (all []string) {
		for _, list := range lists {
			all = append(all, list...)
		}
		return all
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"plain", with(to, pid)},
		{"tls", with(secure, pid, []string{"--protocol", "tls"})},
		{"h2", with(secure, pid, []string{"--protocol", "h2"})},
		{"h2-many", with(secure, pid, []string{"--protocol", "h2-many", "--streams", "20"})},
		{"sse", with(to, pid, []string{"--dialect", "comet-sse"})},
		{"sse h2", with(secure, pid, []string{"--protocol", "h2", "--dialect", "comet-sse"})},
	} {
		t.Run("fanout "+c.name, func(t *testing.T) {
			r, _ := bench(t, 0, with([]string{"fanout", "-n", "50", "--rounds", "3"}, c.args)...)
			if rounds, ok := r["rounds"].([]any); !ok || len(rounds) != 3 {
				t.Errorf("the rounds are %v", r["rounds"])
			}
			if at(t, r, "median", "last_ms") < at(t, r, "median", "first_ms") || at(t, r, "median", "first_ms") <= 0 {
				t.Errorf("the median is %v", r["median"])
			}
			if pid != nil && at(t, r, "median", "cpu_us_per_delivery") <= 0 {
				t.Errorf("the median is %v", r["median"])
			}
		})
		t.Run("unicast "+c.name, func(t *testing.T) {
			r, _ := bench(t, 0, with([]string{"unicast", "-n", "20", "--rounds", "1", "--duration", "200ms", "--publishers", "4"}, c.args)...)
			if at(t, r, "lost") != 0 || at(t, r, "median", "per_second") < 10 {
				t.Errorf("got %v", r)
			}
		})
		t.Run("resume "+c.name, func(t *testing.T) {
			r, _ := bench(t, 0, with([]string{"resume", "-n", "5", "--messages", "300", "--timeout", "10s"}, c.args)...)
			if at(t, r, "lost") != 0 || at(t, r, "repeated") != 0 || at(t, r, "disordered") != 0 {
				t.Errorf("got %v", r)
			}
		})
	}
	t.Run("unicast at a rate", func(t *testing.T) {
		r, _ := bench(t, 0, with([]string{"unicast", "-n", "20", "--rounds", "1", "--duration", "1s", "--rate", "50"}, to)...)
		if rate := at(t, r, "median", "per_second"); rate < 20 || rate > 60 {
			t.Errorf("%g a second", rate)
		}
	})
	t.Run("hold", func(t *testing.T) {
		if pid == nil {
			t.Skip("memory is measured on Linux alone")
		}
		admin := "http://127.0.0.1:" + strconv.Itoa(s.Port("ADMIN")) + "/debug/pprof/heap?gc=1"
		r, _ := bench(t, 0, with([]string{"hold", "-n", "50", "--wakes", "2", "--settle", "2s", "--gc", admin}, to, pid)...)
		for _, name := range []string{"rss_idle", "rss_first_held", "rss_after_wakes", "rss_settled"} {
			if at(t, r, name) < 1<<20 {
				t.Errorf("%s is %v", name, r[name])
			}
		}
	})
	t.Run("idle", func(t *testing.T) {
		if pid == nil {
			t.Skip("CPU is measured on Linux alone")
		}
		r, _ := bench(t, 0, with([]string{"idle", "-n", "20", "--duration", "300ms", "--settle", "1s"}, to, pid)...)
		if percent := at(t, r, "cpu_percent"); percent < 0 || percent > 100 {
			t.Errorf("%g %%", percent)
		}
	})
	t.Run("slow", func(t *testing.T) {
		if pid == nil {
			t.Skip("memory is measured on Linux alone")
		}
		metrics := "http://127.0.0.1:" + strconv.Itoa(s.Port("ADMIN")) + "/metrics"
		r, _ := bench(t, 0, with([]string{
			"slow", "-n", "20", "--stopped", "2", "--rate", "100", "--rounds", "1", "--duration", "200ms",
			"--settle", "500ms", "--dialect", "comet-sse", "--metrics", metrics,
		}, to, pid)...)
		for _, when := range []string{"alone", "beside"} {
			if at(t, r, "median", when, "last_ms") <= 0 {
				t.Errorf("the median is %v", r["median"])
			}
		}
	})
	t.Run("as a table", func(t *testing.T) {
		var out, errs bytes.Buffer
		if code := run(t.Context(), with([]string{"fanout", "-n", "5", "--rounds", "1"}, to), &out, &errs); code != 0 {
			t.Fatal(errs.String())
		}
		if !strings.Contains(out.String(), "median") || !strings.Contains(errs.String(), "round 1 of 1") {
			t.Errorf("got %s\n%s", out.String(), errs.String())
		}
	})
}

func TestWhatIsWrongIsTold(t *testing.T) {
	s := comettest.Start(t, comettest.Global("comet {\n\t\tmax_held 5\n\t}")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		publish /secret {
			token nobody-knows
		}
		hold /push {
			field bench
		}
	}
}`)
	push, config := s.URL("/push"), s.URL("/config")
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, `there is no "fly"`, []string{"fly"}},
		{2, "--dialect smoke: there are comet, comet-forward, comet-sse, floor, lua, nchan, nchan-sse", []string{"fanout", "--dialect", "smoke"}},
		{2, "--protocol tls: give a --url with https://", []string{"fanout", "--protocol", "tls"}},
		{2, "--protocol h1 is plain", []string{"fanout", "--url", "https://localhost/"}},
		{2, "--connections 0: give at least 1", []string{"fanout", "-n", "0"}},
		{1, "cannot be reached", []string{"fanout", "--url", "http://127.0.0.1:1/push"}},
		{1, "file descriptors", []string{"fanout", "--url", push, "-n", "100000000"}},
		{1, "hold measures the memory of the server: give its --pid", []string{"hold", "--url", push}},
		{1, "is not permitted: 401", []string{"fanout", "--url", push, "--publish", s.URL("/secret"), "-n", "2"}},
		{1, "403 Forbidden", []string{"unicast", "--url", push, "--publish", config, "-n", "2", "--duration", "50ms", "--timeout", "2s"}},
		{1, "the server holds no more: 503", []string{"fanout", "--url", push, "--publish", config, "-n", "8", "--rounds", "1", "--timeout", "2s"}},
		{1, "clients of --dialect floor carry no position", []string{"resume", "--dialect", "floor", "--url", push}},
		{1, "clients of --dialect comet hold no streams", []string{"slow", "--url", push, "--pid", "1", "--metrics", push}},
		{1, "give --pid and --metrics", []string{"slow", "--dialect", "comet-sse", "--url", push}},
		{2, "--stopped 500: give 0 to 10", []string{"slow", "-n", "10"}},
		{1, "the server holds no more: 503", []string{"fanout", "--dialect", "comet-sse", "--url", push, "--publish", config, "-n", "8", "--rounds", "1", "--timeout", "2s"}},
	} {
		if _, stderr := bench(t, c.code, c.args...); !strings.Contains(stderr, c.want) {
			t.Errorf("%q: got %s; want %q in it", c.args, stderr, c.want)
		}
	}
	if runtime.GOOS == "linux" {
		if _, stderr := bench(t, 1, "idle", "--url", push, "--pid", "99999999"); !strings.Contains(stderr, "there is no such process") {
			t.Errorf("got %s", stderr)
		}
	}
}

func TestTheFloorIsWhatItIsMeasuredAs(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the floor runs on Linux alone")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, err := startFloor(t.Context(), &binaries{self: self}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	to := []string{"--dialect", "floor", "--url", s.publish, "--pid", strconv.Itoa(s.cmd.Process.Pid)}
	if r, _ := bench(t, 0, append([]string{"fanout", "-n", "100", "--rounds", "2"}, to...)...); at(t, r, "median", "last_ms") <= 0 {
		t.Errorf("got %v", r)
	}
	r, _ := bench(t, 0, append([]string{"unicast", "-n", "50", "--rounds", "1", "--duration", "100ms"}, to...)...)
	if at(t, r, "lost") != 0 || at(t, r, "median", "per_second") < 100 {
		t.Errorf("got %v", r)
	}
	if err := runFloor(t.Context(), "192.0.2.1:80"); err == nil || !strings.Contains(err.Error(), "this machine alone") {
		t.Errorf("got %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := runFloor(ended, "127.0.0.1:0"); err != nil {
		t.Error(err)
	}
}

func TestCompareWritesItsPage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("servers are measured on Linux alone")
	}
	page := filepath.Join(t.TempDir(), "benchmarks.md")
	r, stderr := bench(t, 0, "compare", "-n", "50", "--rounds", "1", "--duration", "200ms", "--servers", "floor,comet,comet-forward,comet-share",
		"--cases", "fanout,unicast,rate,resume", "--comet", comettest.Binary(t), "--out", page)
	if at(t, r, "rounds") != 1 {
		t.Errorf("got %v", r)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n| fanout, comet: last, over that of the bare loop | at most 1.25 | ",
		"\n| resume, comet: lost | at most 0 | 0 | reached |\n",
		"\n| fanout, comet: last, over that of nchan | at most 1 | not measured |  |\n",
		"\n### unicast: ", "| the rest |\n", "\n| floor | ", "\n| comet / floor | ", "\n| comet-forward | ", "\n| comet-share / comet | ",
		"--comet ... --out ... --json`",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(string(text), filepath.Dir(page)) || !strings.Contains(stderr, "fanout 1/1 comet:") {
		t.Errorf("got %s\n%s", text, stderr)
	}
}

func TestGoalsAreFiguresRatiosOrDifferences(t *testing.T) {
	c := &comparison{Results: map[string]map[string]measurement{
		"memory-h1": {
			"comet":         {"first": {3, 4}, "settled": {2, 2}},
			"comet-forward": {"first": {3.5, 4.25}, "settled": {4, 4}},
			"comet-share":   {"woken": {4}},
		},
		"fanout": {"comet": {"last": {10}}, "comet-sse": {"last": {11}}},
	}}
	page := c.goals().markdown()
	for _, want := range []string{
		"| memory-h1, comet: settled | at most 2 KiB | 2 KiB (2 to 2) | reached |",
		"| memory-h1, comet-forward: first held, more than that of comet | at most 1 KiB | 0.38 KiB (0.25 to 0.50) | reached |",
		"| memory-h1, comet-forward: settled, more than that of comet | at most 1 KiB | 2 KiB (2 to 2) | **missed** |",
		"| memory-h1, comet-share: after five wake-alls, more than that of comet | at most 1 KiB | not measured |  |",
		"| fanout, comet-sse: last, over that of comet | at most 1.20 | 1.10 | reached |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the goals have no %q:\n%s", want, page)
		}
	}
}
