//go:build unix

package main_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// startPHPPages starts comet before a PHP, with more global options and more in the
// site, and returns the folder of its pages.
func startPHPPages(t *testing.T, fpm, global, site string, opts ...comettest.Option) (s *comettest.Server, pages string) {
	t.Helper()
	// PHP does not run as the user who tests. A socket's path must be short.
	dir, err := os.MkdirTemp("", "comet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pages = filepath.Join(dir, "pages")
	if err := os.Mkdir(pages, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pages} { // whatever the umask
		if err := os.Chmod(path, 0o777); err != nil { // PHP makes its database there
			t.Fatal(err)
		}
	}
	socket, stopPHP := startPHP(t, fpm, dir, "env[DATABASE] = sqlite:"+filepath.Join(dir, "messages.sqlite"))
	s = comettest.Start(t, comettest.Global(global)+"http://127.0.0.1:{$HTTP} {\n"+site+`
	root {$PAGES}
	php_fastcgi unix/{$PHP_SOCKET}
	file_server
}`, append(opts, comettest.Env("PAGES", pages), comettest.Env("PHP_SOCKET", socket))...)
	// PHP first: when it exits, Caddy waits for what PHP still has to answer.
	t.Cleanup(stopPHP)
	return s, pages
}

func putPage(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPHPIsToldTheCursorAndNothingOfAClient(t *testing.T) {
	t.Parallel()
	// Caddy itself drops names with a dot or `_` in them, unless it is told to expect such.
	s, pages := startPHPPages(t, findPHP(t), `servers {
		expected_underscore_headers comet_*
		expected_dot_headers comet.*
	}`, open)
	putPage(t, filepath.Join(pages, "index.php"), `<?php
foreach ($_SERVER as $name => $value) {
	if (preg_match('/^HTTP_COMET/', $name)) echo "$name=$value\n";
}
`)
	putPage(t, filepath.Join(pages, "plain.html"), "<!doctype html>\n")
	comettest.Publish(t, s, "id=1")
	cursor := now(t, s)
	for _, spelling := range []string{"Comet-Cursor", "Comet_Cursor", "COMET_CURSOR", "comet-cursor", "Comet.Cursor", "Comet-Field", "Comet_Outcome", "Comet.Value"} {
		for range 3 { // the environment is in no order
			a := s.Do(t, request{URL: s.URL("/"), Header: map[string]string{spelling: "theirs"}})
			if want := "HTTP_COMET_CURSOR=" + cursor + "\n"; a.Body != want {
				t.Errorf("with %s PHP is told %q; want %q", spelling, a.Body, want)
			}
		}
	}
	for _, path := range []string{"/", "/plain.html"} {
		a := s.Do(t, request{URL: s.URL(path)})
		if got, want := a.Header.Get("Server-Timing"), `comet;desc="`+cursor+`"`; got != want {
			t.Errorf("%s: the page is told %q; want %q", path, got, want)
		}
	}
}

// What is published after a page was made, and before its script asks for the first
// time, comes to the page.
func TestRecipesForACursorLeaveNoGapAfterThePage(t *testing.T) {
	t.Parallel()
	fpm := findPHP(t, "pdo_sqlite")
	b := startBrowser(t)

	// The script waits at the gate, so that there is time to publish.
	asked, pass := make(chan struct{}, 1), make(chan struct{}, 1)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-pass:
		case <-r.Context().Done():
		}
		http.Redirect(w, r, "/client.js", http.StatusFound)
	}))
	t.Cleanup(gate.Close)
	s, pages := startPHPPages(t, fpm, "", `
	comet {
		publish /config
		hold /push {
			field messages
		}
		client /client.js
	}
	reverse_proxy /comet.js {$GATE}
`, comettest.Env("GATE", gate.Listener.Addr().String()))
	putPage(t, filepath.Join(pages, "setup.php"), `<?php
$db = new PDO(getenv('DATABASE'));
$db->exec("CREATE TABLE messages (id INTEGER PRIMARY KEY, text TEXT NOT NULL)");
$db->exec("INSERT INTO messages VALUES (1, '1: <before> the page')");
`)
	wantText(t, s.Do(t, request{URL: s.URL("/setup.php")}), "")
	publish := func(message string) {
		t.Helper()
		comettest.PublishAs(t, s, "field=messages", "application/json", message)
	}
	publish(`{"id":1,"text":"1: <before> the page"}`)

	for name, before := range map[string]string{"cursor.php": "1: <before> the page|", "cursor.html": ""} {
		putPage(t, filepath.Join(pages, name), readText(t, recipe(t, name)))
		p := b.open(t, name, desktop, "about:blank")
		await := func(what string) {
			t.Helper()
			select {
			case <-asked:
			case <-time.After(comettest.Deadline):
				t.Fatalf("%s does not load %s", name, what)
			}
		}
		loaded := p.start(t, "goto", s.URL("/"+name))
		await("its script")
		publish(`{"id":2,"text":"2"}`)
		publish(`{"id":3,"text":"3"}`)
		pass <- struct{}{}
		p.await(t, "the page", loaded)
		shows := func(want string) {
			t.Helper()
			var got string
			comettest.Eventually(t, comettest.Deadline, func() bool {
				p.eval(t, "Array.from(document.querySelectorAll('li'), (item) => item.textContent).join('|')", &got)
				return got == before+want
			}, name, " does not show ", before+want)
		}
		shows("2|3")
		publish(`{"id":4,"text":"4"}`)
		shows("2|3|4")

		// The browser asks whether what it has is still the page.
		loaded = p.start(t, "reload")
		await("its script again")
		publish(`{"id":5,"text":"5"}`)
		publish(`{"id":6,"text":"6"}`)
		pass <- struct{}{}
		p.await(t, "the page again", loaded)
		shows("5|6")
		p.call(t, "close")
	}
}
