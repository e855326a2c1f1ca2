package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// TestTheDemoIsABoardThatAllWindowsShare serves Caddyfile.example as it is, but for
// its ports and the name that Chromium does not resolve here.
func TestTheDemoIsABoardThatAllWindowsShare(t *testing.T) {
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
	s := comettest.Start(t, comettest.Global("comet demo {\n\tdrain 100ms\n}")+config+"\nhttp://127.0.0.1:{$HTTP2ND} {\n\tcomet\n}\n")
	comettest.Publish(t, s, "id=before")
	if a := s.Do(t, request{URL: s.URL2("/config?field=id")}); a.Status != 400 {
		t.Errorf("the value of the demo is in the store of another site: %s", a)
	}
	wantStatus(t, s.Do(t, request{Method: "POST", URL: s.URL("/say"), Type: comettest.FormType, Body: "id=1"}), 401)

	b := startBrowser(t)
	wide := b.open(t, "wide", desktop, s.URL("/"))
	small := b.open(t, "phone", phone, s.URL("/"))
	windows := []*page{wide, small}
	board := []string{"before"} // the oldest first
	shows := func(texts ...string) {
		t.Helper()
		board = append(board, texts...)
		for _, w := range windows {
			var shown []string
			comettest.Eventually(t, comettest.Deadline, func() bool {
				w.eval(t, "[...document.querySelectorAll('#messages .text')].map((text) => text.textContent).reverse()", &shown)
				return len(shown) >= len(board)
			}, w.name, " does not show ", texts)
			if !slices.Equal(shown, board) {
				t.Fatalf("%s shows %q; want %q", w.name, shown, board)
			}
		}
	}
	says := func(selector, text string) {
		t.Helper()
		for _, w := range windows {
			comettest.Eventually(t, comettest.Deadline, func() bool {
				return strings.Contains(w.text(t, selector), text)
			}, w.name, ": ", selector, " does not say ", text)
		}
	}
	writes := func(w *page, name, text string) {
		t.Helper()
		w.call(t, "fill", "#name", name)
		w.call(t, "fill", "#text", text)
		w.call(t, "click", "#write button")
		shows(text)
	}

	shows() // what there was when it was opened
	says("#state", "Connected by server-sent events.")
	if line := wide.text(t, "#curl"); !strings.HasPrefix(line, "curl -fsS -d id=") || !strings.HasSuffix(line, fmt.Sprintf(" 127.0.0.1:%d/config", s.Port("HTTP"))) {
		t.Errorf("the line to try is %q", line)
	}
	comettest.Publish(t, s, "id=1")
	shows("1")
	s.Do(t, request{Method: "POST", URL: s.DoorURL("/config"), Type: comettest.FormType, Body: "id=" + escape("<b>by the door</b>")})
	shows("<b>by the door</b>")
	writes(wide, "Ada", "Hello! Who is here?")
	writes(small, "Grace", "Me, on a phone.")
	writes(wide, "<i>Ada</i>", "<img src=x onerror=alert(1)>")
	if name := small.text(t, "#messages b"); name != "<i>Ada</i>" {
		t.Errorf("the name is %q", name)
	}
	says("#messages .took", "sse · ")
	says("#latency", "ms")

	says("#here", "2")
	third := b.open(t, "third", desktop, s.URL("/"))
	says("#here", "3")
	third.call(t, "close", map[string]any{})
	says("#here", "2")

	// Another tab of the same browser.
	tab := wide.tab(t, "tab", s.URL("/"))
	windows = append(windows, tab)
	shows()
	for _, w := range []*page{wide, tab} {
		comettest.Eventually(t, comettest.Deadline, func() bool { return w.text(t, "#tabs") == "2" }, w.name, " does not know of two tabs")
	}
	if a, b := wide.text(t, "#leads"), tab.text(t, "#leads"); !strings.HasPrefix(a, "This tab") || !strings.HasPrefix(b, "Another tab") {
		t.Errorf("of two tabs one says %q, the other %q", a, b)
	}
	comettest.WaitSubscribers(t, s, "here", 2)
	says("#here", "2")

	for _, w := range []*page{wide, small} {
		if w.is(t, "performance.getEntriesByType('resource').some(({ name }) => !name.startsWith(location.origin))") {
			t.Errorf("%s loads something from elsewhere", w.name)
		}
		if w.is(t, "document.documentElement.scrollWidth > innerWidth") {
			t.Errorf("%s scrolls sideways", w.name)
		}
		if w.is(t, "(({scrollWidth, clientWidth}) => scrollWidth > clientWidth)(document.querySelector('#curl'))") {
			t.Errorf("%s shows only a part of the line to try", w.name)
		}
		w.call(t, "click", "#copy")
		comettest.Eventually(t, comettest.Deadline, func() bool {
			said := w.text(t, "#copy")
			return said == "Copied" || said == "Selected" // where it may not copy
		}, w.name, " does not copy the line to try")
		for _, scheme := range []string{"light", "dark"} {
			w.call(t, "emulateMedia", map[string]string{"colorScheme": scheme})
			w.screenshot(t, "demo-"+w.name+"-"+scheme)
		}
	}

	// Another transport, while messages come. The other tab goes along.
	for _, way := range []struct{ transport, name string }{
		{"stream", "a stream"},
		{"poll", "long-polls"},
		{"ws", "a WebSocket"},
		{"sse", "server-sent events"},
	} {
		var texts []string
		publish := func() {
			text := fmt.Sprintf("%s %d", way.transport, len(texts)+1)
			texts = append(texts, text)
			comettest.Publish(t, s, "id="+escape(text))
		}
		publish()
		tab.call(t, "click", "[data-transport="+way.transport+"]")
		for _, w := range []*page{tab, wide} {
			comettest.Eventually(t, comettest.Deadline, func() bool {
				if len(texts) < 15 {
					publish()
				}
				return strings.HasPrefix(w.text(t, "#state"), "Connected by "+way.name+".")
			}, w.name, " is not connected by ", way.name)
			comettest.Eventually(t, comettest.Deadline, func() bool {
				return w.is(t, "document.querySelector('#board').ariaBusy === 'false'")
			}, w.name, " does not ask for what came meanwhile")
			if pressed := "[aria-pressed=true][data-transport=" + way.transport + "]"; !w.is(t, "document.querySelector('"+pressed+"')") {
				t.Errorf("%s does not show %s as the transport in use", w.name, way.transport)
			}
		}
		shows(texts...)
		writes(wide, "Ada", "by "+way.transport)
		if took := tab.text(t, "#messages .took"); !strings.HasPrefix(took, way.transport+" · ") {
			t.Errorf("a message by %s came by %q", way.transport, took)
		}
		comettest.WaitSubscribers(t, s, "here", 2) // the two tabs share this one, too
	}

	// The page goes on by itself, from where it was. What wakes it here spares the pause.
	again := func() {
		t.Helper()
		s.Restart(t)
		for _, w := range windows {
			// Not one that is connected already: it would begin anew, and say something else.
			w.is(t, "document.querySelector('#state').dataset.state === 'waiting' && dispatchEvent(new Event('online'))")
		}
	}
	s.Stop(t)
	says("#state", "Not connected")
	wide.call(t, "fill", "#text", "too soon")
	wide.call(t, "click", "#write button")
	comettest.Eventually(t, comettest.Deadline, func() bool {
		return strings.Contains(wide.text(t, "#failure"), "It was not sent") && wide.is(t, "document.querySelector('#text').value === 'too soon'")
	}, "what is not sent is lost")
	again()
	says("#state", "Nothing was lost meanwhile.")
	comettest.Publish(t, s, "id=after")
	shows("after")

	s.Kill(t)
	says("#state", "Not connected")
	again()
	says("#messages .gap", "Messages are missing here")
	says("#state", "Messages are missing")
}
