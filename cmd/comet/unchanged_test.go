package main_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// Applications of which no line is changed, behind the Caddyfiles of docs/recipes.md.

// startUnchangedGuestbook serves the polling version of the guestbook, whose files know
// nothing of Comet, so that its readers are held.
func startUnchangedGuestbook(t *testing.T, fpm string) *guestbook {
	t.Helper()
	g := startGuestbookBehind(t, fpm, "polling", strings.NewReplacer(
		"http://127.0.0.1:2080", "http://127.0.0.1:{$DOOR}",
		"www.example.com", "http://127.0.0.1:{$HTTP}",
		"/guestbook/", "/polling/",
		"/srv/www", "{$GUESTBOOK}",
		"/run/php/php-fpm.sock", "{$PHP_SOCKET}",
	).Replace(readText(t, recipe(t, "guestbook.caddyfile"))))
	g.version, g.PublishURL = "unchanged", g.DoorURL("/config")
	comettest.Publish(t, g.Server, "messages=0") // none is there
	return g
}

// The pages of the guestbook, as they are, in a browser: they ask each second.
func TestUnchangedGuestbookInABrowser(t *testing.T) {
	t.Parallel()
	g := startUnchangedGuestbook(t, findPHP(t, "pdo_sqlite"))
	b := startBrowser(t)
	ada := b.open(t, "ada", desktop, g.URL("/polling/"))
	bob := b.open(t, "bob", phone, g.URL("/polling/"))
	comettest.WaitSubscribers(t, g.Server, "messages", 2)

	before := g.requests(t)
	pause(t.Context(), 1500*time.Millisecond) // a second, and a half
	if asked := g.requests(t) - before; asked > 0 {
		t.Errorf("PHP had %d requests while nobody wrote", asked)
	}
	bob.call(t, "fill", "[name=name]", "Bob")
	for n := range 2 {
		comettest.WaitSubscribers(t, g.Server, "messages", 2)
		before = g.requests(t)
		at := ada.appearance(t, fmt.Sprintf("#messages li:nth-last-child(%d)", n+1))
		bob.call(t, "fill", "[name=text]", fmt.Sprint("message ", n+1))
		began := time.Now()
		bob.call(t, "click", "button")
		t.Logf("ada has the message %s after bob's click", ada.appeared(t, at).Sub(began))
		if asked := g.requests(t) - before; asked > 3 { // one to write, one for each to read
			t.Errorf("PHP had %d requests for one message; want at most 3", asked)
		}
	}
	for _, p := range []*page{ada, bob} {
		p.call(t, "waitForSelector", "#messages li:nth-child(2)")
		if got, want := p.text(t, "#messages li .text"), "message 2"; got != want {
			t.Errorf("%s: the latest message is %q; want %q", p.name, got, want)
		}
	}
}

// A guestbook that has messages already, and one whose count was lost.
func TestUnchangedGuestbookIsCountedFromWhatItHas(t *testing.T) {
	t.Parallel()
	g := startUnchangedGuestbook(t, findPHP(t, "pdo_sqlite"))
	post := func(text string) {
		t.Helper()
		if err := g.post(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		post("from before")
	}
	wantStatus(t, g.Do(t, request{Method: http.MethodDelete, URL: g.DoorURL("/config?field=messages")}), http.StatusOK)
	comettest.Publish(t, g.Server, "messages=3") // the highest id
	held := make(chan []guestbookMessage)
	go func() {
		messages, err := g.list(t.Context(), 3)
		if err != nil {
			t.Error(err)
		}
		held <- messages
	}()
	comettest.WaitSubscribers(t, g.Server, "messages", 1)
	wantStatus(t, g.Do(t, request{URL: "/polling/post.php", Type: comettest.FormType, Body: "name=Ada"}), http.StatusUnprocessableEntity)
	post("the fourth")
	if messages := <-held; len(messages) != 1 || messages[0].Text != "the fourth" {
		t.Errorf("who was held is given %v; want the fourth message", messages)
	}
	// Who was not there meanwhile.
	if messages, err := g.list(t.Context(), 2); err != nil || len(messages) != 2 {
		t.Errorf("who comes late is given %v, %v; want two messages", messages, err)
	}
}

func TestUnchangedDokuWiki(t *testing.T) {
	t.Parallel()
	fpm := findPHP(t, "xml")
	wiki := &dokuwiki{startApplicationBehind(t, "/usr/share/dokuwiki", "wiki.example.com", readText(t, recipe(t, "touch.caddyfile"))+door)}
	wiki.setUp(t, fpm)
	t.Run("publishes by its form", wiki.publishesByItsForm)
	wiki.follow(t, "wiki.caddyfile")
	t.Run("shows a page anew when it is saved", wiki.showsAnew)
}

// follow goes on with a Caddyfile that has pages followed by a script.
func (a *application) follow(t *testing.T, name string) {
	t.Helper()
	a.Reload(t, a.configured(t, readText(t, recipe(t, name))+door, "/etc/caddy", testdataDir(t, "recipes")))
}

func (wiki *dokuwiki) publishesByItsForm(t *testing.T) {
	const id, field = "wiki:welcome", "page/wiki:welcome"
	wiki.saveByForm(t, id, "The first text.")
	if value, _ := doorValue(t, wiki.Server, field); value != "1\n" {
		t.Errorf("after the first save the value of %s is %q; want 1", field, value)
	}
	held := comettest.Hold(t, wiki.Server, "field="+field+"&"+field+"=1&format=json")
	wiki.page(t, "/doku.php?id="+id, nil)
	wiki.saveByForm(t, "wiki:other", "Another page.")
	wiki.saveByForm(t, id, "The second text.")
	wantTexts(t, comettest.Await(t, held), field+"=2")
	if value, _ := doorValue(t, wiki.Server, "changes"); value != "3\n" {
		t.Errorf("after three saves the value of changes is %q", value)
	}
	if page := wiki.page(t, "/doku.php?id="+id, nil); !strings.Contains(page, "The second text.") {
		t.Error("whoever is woken does not see what was saved")
	}
}

func (wiki *dokuwiki) showsAnew(t *testing.T) {
	const id, look = "wiki:followed", "/doku.php?id=wiki:followed"
	browser := startBrowser(t)
	wiki.save(t, id, "The text of before.", "created")
	ada := browser.open(t, "ada", desktop, wiki.URL(look))
	bob := browser.open(t, "bob", phone, wiki.URL(look))
	comettest.WaitSubscribers(t, wiki.Server, "pages", 2)
	ada.call(t, "evaluate", "window.stays = true")

	// By the form, and by XML-RPC.
	bob.call(t, "goto", wiki.URL(look+"&do=edit"))
	bob.call(t, "fill", "#wiki__text", "====== Saved by the form ======")
	comettest.WaitSubscribers(t, wiki.Server, "pages", 1)
	at := ada.appearance(t, "#saved_by_the_form")
	began := time.Now()
	bob.call(t, "click", "#edbtn__save")
	t.Logf("by the form: ada has the text %s after bob's click", ada.appeared(t, at).Sub(began))
	bob.call(t, "waitForSelector", "#saved_by_the_form")
	comettest.WaitSubscribers(t, wiki.Server, "pages", 2)

	atAda, atBob := ada.appearance(t, "#saved_by_xml-rpc"), bob.appearance(t, "#saved_by_xml-rpc")
	began = time.Now()
	wiki.save(t, id, "====== Saved by XML-RPC ======", "by XML-RPC")
	saved := time.Now()
	for p, at := range map[*page]<-chan browserReply{ada: atAda, bob: atBob} {
		t.Logf("by XML-RPC: %s has the text %s after the save began, which took %s", p.name, p.appeared(t, at).Sub(began), saved.Sub(began))
	}
	comettest.WaitSubscribers(t, wiki.Server, "pages", 2)
	ada.screenshot(t, "dokuwiki-unchanged")

	// Another page, and what others only look at, leave theirs alone.
	ada.call(t, "evaluate", "document.querySelector('#dokuwiki__content').stays = true")
	wiki.saveByForm(t, "wiki:other", "Another page.")
	wiki.page(t, look, nil)
	if !ada.is(t, "window.stays && document.querySelector('#dokuwiki__content').stays") {
		t.Error("ada's page was loaded or replaced for another one")
	}
	if !ada.is(t, "window.jQuery && window.dw_page") {
		t.Error("the script of the wiki itself is not there")
	}

	// Who writes goes on writing.
	bob.call(t, "goto", wiki.URL(look+"&do=edit"))
	bob.call(t, "fill", "#wiki__text", "what bob is writing")
	comettest.WaitSubscribers(t, wiki.Server, "pages", 1)
	wiki.save(t, "wiki:third", "A third page.", "") // by XML-RPC, so it may be any
	ada.call(t, "waitForFunction", "!document.querySelector('#dokuwiki__content').stays")
	if !bob.is(t, "document.querySelector('#wiki__text').value === 'what bob is writing'") {
		t.Error("bob does not have what he was writing")
	}
}

// showsUnchanged has two visitors look at the front page of a WordPress as it is.
func (blog *wordpress) showsUnchanged(t *testing.T) {
	if err := os.Remove(filepath.Join(blog.site, "wp-content/mu-plugins/comet.php")); err != nil {
		t.Fatal(err)
	}
	blog.follow(t, "blog.caddyfile")
	browser := startBrowser(t)
	blog.comment(t, 1, 0, "Bob", "Something that touches.")
	ada := browser.open(t, "ada", desktop, blog.URL("/"))
	bob := browser.open(t, "bob", phone, blog.URL("/"))
	comettest.WaitSubscribers(t, blog.Server, "site", 2)

	before := phpRequests(t, blog.dir)
	began := time.Now()
	post := blog.post(t, "A post for the front page")
	saved := time.Now()
	selector := fmt.Sprintf("main .post-%d", post)
	for _, p := range []*page{ada, bob} {
		p.call(t, "waitForSelector", selector)
		t.Logf("%s has the post within %s after it was sent, which took %s", p.name, time.Since(began), saved.Sub(began))
	}
	// One to write, and one or two for both to read.
	if asked := phpRequests(t, blog.dir) - before; asked > 3 {
		t.Errorf("PHP had %d requests for one post and two visitors; want at most 3", asked)
	}
	ada.screenshot(t, "wordpress-unchanged")
}

// phpRequests counts what the PHP in dir has answered.
func phpRequests(t *testing.T, dir string) int {
	t.Helper()
	return strings.Count(readText(t, filepath.Join(dir, "access.log")), "\n")
}
