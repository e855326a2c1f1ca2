package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// TestTheDemoShowsInTwoWindowsWhatIsPublished serves Caddyfile.example as it is,
// but for its ports and the name that Chromium does not resolve here.
func TestTheDemoShowsInTwoWindowsWhatIsPublished(t *testing.T) {
	t.Parallel()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(root, "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer(
		"http://localhost:8080 {", "http://127.0.0.1:{$HTTP} {",
		"http://127.0.0.1:2080 {", "http://127.0.0.1:{$DOOR} {",
		"root docs/demo", "root "+filepath.Join(root, "docs", "demo"),
	).Replace(string(example))
	// A site of its own beside it, which names no store.
	s := comettest.Start(t, comettest.Global("")+config+"\nhttp://127.0.0.1:{$HTTP2ND} {\n\tcomet\n}\n")
	comettest.Publish(t, s, "id=before")
	if a := s.Do(t, request{URL: s.URL2("/config?field=id")}); a.Status != 400 {
		t.Errorf("the value of the demo is in the store of another site: %s", a)
	}

	b := startBrowser(t)
	windows := []*page{
		b.open(t, "wide", desktop, s.URL("/")),
		b.open(t, "phone", phone, s.URL("/")),
	}
	shows := func(value string, messages int) {
		t.Helper()
		for _, w := range windows {
			comettest.Eventually(t, comettest.Deadline, func() bool {
				return w.text(t, "output") == value && w.text(t, "#state") == "waiting"
			}, w.name, "does not show", value)
			var n int
			if w.eval(t, "document.querySelectorAll('#messages li').length", &n); n != messages {
				t.Errorf("%s shows %d messages; want %d", w.name, n, messages)
			}
		}
	}
	shows("before", 1) // what there was when it was opened
	if line := windows[0].text(t, "#curl"); !strings.HasPrefix(line, "curl -fsS -d id=") || !strings.HasSuffix(line, s.URL("/config")) {
		t.Errorf("the line to try is %q", line)
	}
	comettest.Publish(t, s, "id=1")
	shows("1", 2)
	s.Do(t, request{Method: "POST", URL: s.DoorURL("/config"), Type: comettest.FormType, Body: "id=" + escape("<b>by the door</b>")})
	shows("<b>by the door</b>", 3)
	for _, w := range windows {
		if w.is(t, "document.documentElement.scrollWidth > innerWidth") {
			t.Errorf("%s scrolls sideways", w.name)
		}
		if w.is(t, "(({scrollWidth, clientWidth}) => scrollWidth > clientWidth)(document.querySelector('#curl').parentNode)") {
			t.Errorf("%s shows only a part of the line to try", w.name)
		}
		w.is(t, "document.querySelector('#copy').click()")
		comettest.Eventually(t, comettest.Deadline, func() bool {
			said := w.text(t, "#copy")
			return said == "Copied" || said == "Selected" // where it may not copy
		}, w.name, "does not copy the line to try")
		w.screenshot(t, "demo-"+w.name)
	}

	s.Restart(t) // the page goes on by itself, from where it was
	comettest.Publish(t, s, "id=after")
	shows("after", 4)
}
