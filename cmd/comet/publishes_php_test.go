//go:build unix

package main_test

import (
	"html"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// door is where the tests see what sites that have none publish.
const door = `
http://127.0.0.1:{$DOOR} {
	comet {
		publish /config
	}
	respond 404
}
`

// The polling version of the guestbook, none of whose files knows Comet.
func TestPHPGuestbookPublishesByItsPOST(t *testing.T) {
	t.Parallel()
	fpm := findPHP(t, "pdo_sqlite")
	g := startGuestbookBehind(t, fpm, "polling", door+`
http://127.0.0.1:{$HTTP} {
	comet {
		hold /push {
			field guestbook
		}
		touch /polling/post.php guestbook
		from_responses
	}
	root {$GUESTBOOK}
	php_fastcgi unix/{$PHP_SOCKET}
	file_server
}`)
	g.PublishURL = g.DoorURL("/config")
	if err := filepath.WalkDir(filepath.Join(guestbookDir(t), "polling"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.Contains(strings.ToLower(readText(t, path)), "comet") {
			t.Errorf("%s knows Comet", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	if err := g.post(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	held := comettest.Hold(t, g.Server, "guestbook=1")
	if _, err := g.list(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for _, refused := range []request{
		{URL: "/polling/post.php"}, // 405
		{URL: "/polling/post.php", Type: comettest.FormType, Body: "name=Ada"}, // 422
	} {
		if a := g.Do(t, refused); a.Status < 400 {
			t.Errorf("the guestbook takes %v: %s", refused, a)
		}
	}
	if value, _ := doorValue(t, g.Server, "guestbook"); value != "1\n" {
		t.Errorf("the value is %q before the second message", value)
	}
	if err := g.post(t.Context(), "hello again"); err != nil {
		t.Fatal(err)
	}
	wantText(t, comettest.Await(t, held), "YES\n")
	if messages, err := g.list(t.Context(), 1); err != nil || len(messages) != 1 || messages[0].Text != "hello again" {
		t.Errorf("whoever is woken is given %v, %v", messages, err)
	}

	// And what a line of PHP adds.
	line := filepath.Join(filepath.Dir(g.accessLog), "app", "line.php")
	if err := os.WriteFile(line, []byte(`<?php
header('Comet-Publish: ' . http_build_query(['id' => 7, 'news' => 'a & b']));
header('Comet-Publish: id=8', false);
echo 'done';
`), 0o644); err != nil {
		t.Fatal(err)
	}
	a := g.Do(t, request{URL: "/line.php"})
	wantText(t, a, "done")
	wantNoHeader(t, a)
	for field, want := range map[string]string{"id": "8\n", "news": "a & b\n"} {
		if value, _ := doorValue(t, g.Server, field); value != want {
			t.Errorf("the value of %s is %q; want %q", field, value, want)
		}
	}
}

// saveByForm saves a page as a browser does.
func (wiki *dokuwiki) saveByForm(t *testing.T, id, text string) {
	t.Helper()
	page := wiki.page(t, "/doku.php?do=edit&id="+id, nil)
	form := regexp.MustCompile(`(?s)<form id="dw__editform".*?</form>`).FindString(page)
	action := regexp.MustCompile(`<form [^>]*action="([^"]*)"`).FindStringSubmatch(form)
	if action == nil {
		t.Fatalf("the page %s has no form to edit it", id)
	}
	values := url.Values{"wikitext": {text}, "do[save]": {"1"}}
	for _, input := range regexp.MustCompile(`<input [^>]*type="hidden"[^>]*>`).FindAllString(form, -1) {
		attribute := func(name string) string {
			found := regexp.MustCompile(` ` + name + `="([^"]*)"`).FindStringSubmatch(input)
			if found == nil {
				return ""
			}
			return html.UnescapeString(found[1])
		}
		values.Set(attribute("name"), attribute("value"))
	}
	a := wiki.Do(t, request{
		URL: wiki.URL(html.UnescapeString(action[1])), Client: unredirected(wiki.Server),
		Type: comettest.FormType, Body: values.Encode(),
	})
	wantStatus(t, a, http.StatusFound, http.StatusSeeOther)
}
