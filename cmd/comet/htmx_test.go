//go:build unix

package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// markupSite has fields of HTML, and whole packages from npm.
var markupSite = comettest.Global("comet {\n\t\tdrain 200ms\n\t}") + `http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		client /comet.js
		hold /push {
			field news list messages
			formats json sse
			retry 50ms-100ms
		}
	}
	handle_path /node_modules/* {
		root {$NODE_MODULES}
		file_server
	}
	handle {
		root pages
		file_server
	}
}
`

// htmx and Turbo as they are show what is published, once and in order, while
// connections are cut and the server is reloaded and started again.
func TestRecipesForHTMXAndTurboGoOnFromWhereTheyWere(t *testing.T) {
	t.Parallel()
	findCommand(t, "curl")
	modules := testdataDir(t, "browser", "node_modules")
	for _, name := range []string{"htmx.org", "htmx-ext-sse", "htmx-4", "@hotwired/turbo"} {
		if _, err := os.Stat(filepath.Join(modules, name)); err != nil {
			t.Skipf("no %s in testdata/browser/node_modules; testdata/setup installs it", name)
		}
	}
	b := startBrowser(t)
	s := comettest.Start(t, markupSite, comettest.Env("NODE_MODULES", modules))
	c := startCutter(t, s)
	if err := os.Mkdir(filepath.Join(s.Dir, "pages"), 0o755); err != nil {
		t.Fatal(err)
	}
	comettest.Publish(t, s, "news=before&list=before&messages=before")
	cursor := s.Do(t, request{URL: "/config?field=news"}).Cursor()
	var pages []*page
	for _, name := range []string{"htmx.html", "htmx-4.html", "turbo.html", "turbo-comet.html"} {
		text := "<!doctype html>\n<meta charset=\"utf-8\">\n<link rel=\"icon\" href=\"data:,\">\n" +
			strings.Replace(readText(t, recipe(t, name)), "CURSOR", cursor, 1)
		if err := os.WriteFile(filepath.Join(s.Dir, "pages", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		pages = append(pages, b.open(t, name, desktop, c.url("/"+name)))
	}

	number := 0
	publish := func(more int) {
		t.Helper()
		for range more {
			number++
			item := fmt.Sprintf("<li>%d</li>", number)
			comettest.PublishAs(t, s, "field=news&event=added", "text/plain", item)
			comettest.PublishAs(t, s, "field=list", "text/plain", item)
			comettest.PublishAs(t, s, "field=messages", "text/plain",
				`<turbo-stream action="append" target="messages"><template>`+item+"</template></turbo-stream>")
		}
	}
	shown := func(also ...string) {
		t.Helper()
		want := ""
		for n := range number {
			want += fmt.Sprint(n+1, " ")
		}
		for _, p := range pages {
			all := strings.TrimSpace(want + strings.Join(also, " "))
			var got string
			for end := time.Now().Add(comettest.Deadline); got != all; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s shows %q; want %q", p.name, got, all)
				}
				p.eval(t, "Array.from(document.querySelectorAll('ul > li'), (item) => item.textContent).join(' ')", &got)
			}
		}
	}
	publish(3)
	shown()
	for range 3 {
		publish(2)
		c.cut()
		publish(2)
		shown()
	}
	s.Reload(t, strings.Replace(markupSite, "{$HTTP} {\n", "{$HTTP} {\n\theader X-Round 2\n", 1))
	publish(2)
	c.cut()
	publish(2)
	shown()
	s.Restart(t)
	publish(3)
	shown()

	// What the recipes publish by.
	for _, name := range []string{"htmx.sh", "turbo.sh"} {
		script := strings.Replace(readText(t, recipe(t, name)), "http://127.0.0.1:2080", s.URL(""), 1)
		if out, err := exec.Command("sh", "-c", script).Output(); err != nil || string(out) != "OK\n" {
			t.Errorf("%s: %q, %v; want OK", script, out, err)
		}
	}
	comettest.PublishAs(t, s, "field=list", "text/plain", "<li>Hello</li>")
	shown("Hello")
}
