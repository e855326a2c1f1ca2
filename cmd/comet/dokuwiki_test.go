package main_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

const (
	// dokuwikiBar is what the plugin shows when a page was changed.
	dokuwikiBar = "#comet__status > div"

	// dokuwikiWaiting is how many clients wait beside the two browsers.
	dokuwikiWaiting = 200
)

func TestDokuWiki(t *testing.T) {
	wiki := startDokuWiki(t)
	t.Run("publishes what its readers may know", wiki.publishes)
	t.Run("tells who looks at a page that it was changed", wiki.tells)
	t.Run("serves its pages while two hundred wait", wiki.serves)
	t.Run("saves a page when there is no door", wiki.saves)
}

func (wiki *dokuwiki) tells(t *testing.T) {
	const id, field = "wiki:welcome", "page/wiki:welcome"
	browser := startBrowser(t)
	wiki.save(t, id, "The text of before.", "created")
	look := "/doku.php?id=" + id

	// Both are held by the cursor that came with the old message.
	ada := browser.open(t, "ada", desktop, wiki.URL(look))
	bob := browser.open(t, "bob", phone, wiki.URL(look))
	comettest.WaitSubscribers(t, wiki.Server, field, 2)
	wantNoBar(t, ada, "for a page that was not changed")
	wantNoBar(t, bob, "for a page that was not changed")

	// By XML-RPC: neither of them did it.
	atAda, atBob := ada.appearance(t, dokuwikiBar), bob.appearance(t, dokuwikiBar)
	began := time.Now()
	const summary = `a <b>bold</b> & "quoted" summary, ünï`
	wiki.save(t, id, "The text by XML-RPC.", summary)
	saved := time.Now()
	for p, at := range map[*page]<-chan browserReply{ada: atAda, bob: atBob} {
		shown := p.appeared(t, at)
		t.Logf("by XML-RPC: %s has the bar %s after the save began, which took %s", p.name, shown.Sub(began), saved.Sub(began))
		if got, want := p.text(t, dokuwikiBar+" p"), "This page was changed: “"+summary+"”"; got != want {
			t.Errorf("%s: the bar says %q; want %q", p.name, got, want)
		}
		if !p.is(t, `document.querySelector('#comet__status').getAttribute('role') === 'status'`) {
			t.Errorf("%s: the bar is no status", p.name)
		}
		if !p.is(t, `[...document.querySelectorAll('`+dokuwikiBar+` button')].every((button) => {
			const box = button.getBoundingClientRect();
			return box.width >= 44 && box.height >= 44 && box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
		})`) {
			t.Errorf("%s: the buttons are too small or out of sight", p.name)
		}
	}
	ada.screenshot(t, "dokuwiki-bar-desktop")
	bob.screenshot(t, "dokuwiki-bar-phone")

	for _, p := range []*page{ada, bob} {
		p.reload(t)
		if got := p.text(t, "#dokuwiki__content .page"); !strings.Contains(got, "The text by XML-RPC.") {
			t.Errorf("%s: after Reload the page is %q", p.name, got)
		}
	}
	comettest.WaitSubscribers(t, wiki.Server, field, 2)
	wantNoBar(t, ada, "after Reload")
	wantNoBar(t, bob, "after Reload")

	// By the form: Bob did it.
	bob.call(t, "goto", wiki.URL(look+"&do=edit"))
	bob.call(t, "fill", "#wiki__text", "The text by the form.")
	bob.call(t, "fill", "#edit__summary", "by the form")
	atAda = ada.appearance(t, dokuwikiBar)
	began = time.Now()
	bob.call(t, "click", "#edbtn__save")
	t.Logf("by the form: ada has the bar %s after bob's click", ada.appeared(t, atAda).Sub(began))
	if got := bob.text(t, "#dokuwiki__content .page"); !strings.Contains(got, "The text by the form.") {
		t.Errorf("bob: after the save the page is %q", got)
	}
	comettest.WaitSubscribers(t, wiki.Server, field, 2)
	wantNoBar(t, bob, "for what he did himself")

	// Not now, and then once more.
	ada.call(t, "click", dokuwikiBar+" button >> nth=1")
	wantNoBar(t, ada, "after Not now")
	atAda = ada.appearance(t, dokuwikiBar)
	wiki.save(t, id, "The text of later.", "later")
	ada.appeared(t, atAda)
	ada.reload(t)

	// A page that nobody sees does not wait, and goes on from where it was.
	comettest.WaitSubscribers(t, wiki.Server, field, 2)
	wantNoBar(t, ada, "after Reload")
	ada.hide(t, true)
	comettest.WaitSubscribers(t, wiki.Server, field, 1)
	wiki.save(t, id, "The text of meanwhile.", "meanwhile")
	comettest.WaitSubscribers(t, wiki.Server, field, 1)
	wantNoBar(t, ada, "while nobody sees the page")
	atAda = ada.appearance(t, dokuwikiBar)
	ada.hide(t, false)
	ada.appeared(t, atAda)

	// An old revision stays what it is.
	bob.call(t, "goto", wiki.URL(look+"&rev=1"))
	if bob.is(t, `document.querySelector('#comet__status')`) {
		t.Error("an old revision waits to be told of changes")
	}
}

func (wiki *dokuwiki) publishes(t *testing.T) {
	const id, field = "wiki:open", "page/wiki:open"
	wiki.save(t, id, "Hello.", `a "summary", ünï`)
	var message struct {
		ID, Summary string
		Revision    int64
	}
	published := wiki.Do(t, comettest.Request{URL: wiki.DoorURL("/config?field=" + escape(field))})
	if err := json.Unmarshal([]byte(published.Body), &message); err != nil {
		t.Fatalf("published was %s: %v", published, err)
	}
	age := time.Since(time.Unix(message.Revision, 0))
	if message.ID != id || message.Summary != `a "summary", ünï` || age < -time.Second || age > time.Minute {
		t.Errorf("published was %+v", message)
	}
	if got := wiki.watches(t, id, nil); got != field {
		t.Errorf("the page watches %q; want %q", got, field)
	}

	// The same text again is no change.
	before := nowOf(t, wiki.Server, field)
	wiki.save(t, id, "Hello.", "the same")
	if after := nowOf(t, wiki.Server, field); after != before {
		t.Error("a save that changed nothing was published")
	}

	// A page that is not for everybody.
	admin := map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:admin"))}
	wiki.saveAs(t, admin, "private:plan", "Secret.", "secret")
	if value, ok := doorValue(t, wiki.Server, "page/private:plan"); ok {
		t.Errorf("everybody is told of a private page: %s", value)
	}
	private := wiki.watches(t, "private:plan", admin)
	if !regexp.MustCompile(`^page/private:plan~[0-9a-f]{32}$`).MatchString(private) {
		t.Errorf("a reader of a private page watches %q", private)
	}
	if value, ok := doorValue(t, wiki.Server, private); !ok || !strings.Contains(value, `"secret"`) {
		t.Errorf("its readers are told %q", value)
	}
	if page := wiki.page(t, "/doku.php?id=private:plan", nil); strings.Contains(page, private) {
		t.Error("the field of a private page is told to everybody")
	}

	// From outside nobody publishes, and only pages may be watched.
	wantStatus(t, wiki.Do(t, comettest.Request{URL: "/push?wait=0&field=id"}), 403)
	if a := wiki.Do(t, comettest.Request{Method: "POST", URL: wiki.URL("/config"), Type: comettest.FormType, Body: "id=1"}); a.Body == "OK\n" {
		t.Error("the site publishes for everybody")
	}
}

func (wiki *dokuwiki) serves(t *testing.T) {
	const id, field = "wiki:busy", "page/wiki:busy"
	browser := startBrowser(t)
	wiki.save(t, id, "The text of before.", "created")
	ada := browser.open(t, "ada", desktop, wiki.URL("/doku.php?id="+id))
	bob := browser.open(t, "bob", desktop, wiki.URL("/doku.php?id="+id))
	comettest.WaitSubscribers(t, wiki.Server, field, 2)

	// After a save DokuWiki makes the page anew for some requests.
	saved := time.Now()
	for time.Since(saved) < 2*time.Second {
		wiki.pageTimes(t, id, 1)
	}
	// Idle and not idle in turns, so that what else the machine does falls on both.
	var idle, held []time.Duration
	rounds, pages := 4, 25
	if testing.Short() {
		rounds = 1
	}
	var crowd *waiting
	for round := range rounds {
		idle = append(idle, wiki.pageTimes(t, id, pages)...)
		crowd = wiki.wait(t, field, dokuwikiWaiting)
		comettest.WaitSubscribers(t, wiki.Server, field, dokuwikiWaiting+2)
		held = append(held, wiki.pageTimes(t, id, pages)...)
		if n, _ := comettest.Subscribers(t, wiki.Server, field); n != dokuwikiWaiting+2 {
			t.Errorf("after %d pages %d wait; want %d", pages, n, dokuwikiWaiting+2)
		}
		if round < rounds-1 {
			crowd.leave()
			comettest.WaitSubscribers(t, wiki.Server, field, 2)
		}
	}
	t.Logf("a page, with %d PHP workers: median %s idle, %s while %d wait: %.2f times as long (%d pages each)",
		phpWorkers, median(idle), median(held), dokuwikiWaiting, float64(median(held))/float64(median(idle)), len(idle))

	var bars []time.Duration
	var want []string
	for i := range 5 {
		atAda, atBob := ada.appearance(t, dokuwikiBar), bob.appearance(t, dokuwikiBar)
		summary := fmt.Sprintf("save %d", i+1)
		want = append(want, summary)
		began := time.Now()
		wiki.save(t, id, "The text of "+summary, summary)
		bars = append(bars, ada.appeared(t, atAda).Sub(began), bob.appeared(t, atBob).Sub(began))
		comettest.WaitSubscribers(t, wiki.Server, field, dokuwikiWaiting+2)
		for _, p := range []*page{ada, bob} {
			p.call(t, "click", dokuwikiBar+" button >> nth=1")
		}
	}
	t.Logf("from the start of a save to the bar, while %d wait: %s", dokuwikiWaiting, bars)
	for _, told := range crowd.leave() {
		if !slices.Equal(told, want) {
			t.Errorf("one who waited was told %q; want %q", told, want)
		}
	}
}

// waiting are clients that follow a page as its script does.
type waiting struct {
	cancel  context.CancelFunc
	clients sync.WaitGroup
	told    [][]string // the summaries that each was told
}

func (wiki *dokuwiki) wait(t *testing.T, field string, n int) *waiting {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &waiting{cancel: cancel, told: make([][]string, n)}
	t.Cleanup(func() { c.leave() })
	cursor := nowOf(t, wiki.Server, field)
	for i := range n {
		c.clients.Go(func() {
			for after := cursor; ctx.Err() == nil; {
				a := wiki.Try(ctx, comettest.Request{URL: "/push?format=json&field=" + escape(field) + "&after=" + escape(after)})
				if a.Err != nil || a.JSON == nil {
					if ctx.Err() == nil {
						t.Errorf("one who waits got %s", a)
					}
					return
				}
				for _, m := range a.JSON.Messages {
					var data struct{ Summary string }
					if err := json.Unmarshal(m.Data, &data); err != nil {
						t.Errorf("one who waits was told %s: %v", m.Data, err)
					}
					c.told[i] = append(c.told[i], data.Summary)
				}
				after = a.JSON.Cursor
			}
		})
	}
	return c
}

// leave ends all of them and returns what they were told.
func (c *waiting) leave() [][]string {
	c.cancel()
	c.clients.Wait()
	return c.told
}

func (wiki *dokuwiki) saves(t *testing.T) {
	const id = "wiki:alone"
	wiki.configure(t, "http://127.0.0.1:1/config")
	wiki.save(t, id, "Saved all the same.", "")
	if page := wiki.page(t, "/doku.php?id="+id, nil); !strings.Contains(page, "Saved all the same.") {
		t.Error("the page was not saved")
	}
	logs, err := filepath.Glob(filepath.Join(wiki.dir, "data", "log", "error", "*.log"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("logs of errors: %q, %v; want one", logs, err)
	}
	if text, err := os.ReadFile(logs[0]); err != nil || !strings.Contains(string(text), "comet: "+id+" is saved, but not published") {
		t.Errorf("the log of errors has %q, %v", text, err)
	}
}

// dokuwiki is a wiki with the plugin, where everybody may write but in private:*.
type dokuwiki struct{ *application }

func startDokuWiki(t *testing.T) *dokuwiki {
	t.Helper()
	fpm := findPHP(t, "xml")
	wiki := &dokuwiki{startApplication(t, "/usr/share/dokuwiki", "wiki.example.com")}
	wiki.putPlugin(t, "dokuwiki/comet", "lib/plugins/comet")
	wiki.setUp(t, fpm)
	return wiki
}

// setUp makes the wiki's data, and starts its PHP.
func (wiki *dokuwiki) setUp(t *testing.T, fpm string) {
	t.Helper()
	// What an administrator sets, and Debian's scripts. Debian keeps it elsewhere.
	run(t, "cp", "-R", "/etc/dokuwiki", filepath.Join(wiki.dir, "conf"))
	for _, link := range []string{"users.auth.php", "acl.auth.php"} {
		if err := os.Remove(filepath.Join(wiki.dir, "conf", link)); err != nil {
			t.Fatal(err)
		}
	}
	wiki.configure(t, wiki.DoorURL("/config"))
	const password = "21232f297a57a5a743894a0e4a801fc3" // "admin" in MD5, the quickest of those that DokuWiki reads
	wiki.put(t, "conf/users.auth.php", "admin:"+password+":Admin:admin@example.com:admin,user\n")
	wiki.put(t, "conf/acl.auth.php", "* @ALL 8\nprivate:* @ALL 0\nprivate:* @user 8\n")
	wiki.put(t, "prepend.php", "<?php define('DOKU_MAIN_CONF', '"+wiki.dir+"/conf/'); define('DOKU_CONF', DOKU_MAIN_CONF);\n")
	for name := range strings.FieldsSeq("attic cache index locks log media media_attic media_meta meta pages tmp") {
		wiki.give(t, "data/"+name)
	}
	run(t, "chmod", "-R", "a+rX", wiki.dir)
	wiki.give(t, "data")
	startPHP(t, fpm, wiki.dir,
		"php_admin_value[auto_prepend_file] = "+wiki.dir+"/prepend.php",
		"php_admin_value[opcache.revalidate_freq] = 0")
}

// configure writes the settings, with the door where the plugin publishes.
func (wiki *dokuwiki) configure(t *testing.T, door string) {
	t.Helper()
	wiki.put(t, "conf/local.php", `<?php
$conf['title'] = 'A wiki';
$conf['useacl'] = 1;
$conf['superuser'] = '@admin';
$conf['savedir'] = '`+wiki.dir+`/data';
$conf['remote'] = 1;
$conf['remoteuser'] = '';
$conf['updatecheck'] = 0;
$conf['plugin']['comet']['door'] = '`+door+`';
`)
}

// save saves a page by XML-RPC, as anybody.
func (wiki *dokuwiki) save(t *testing.T, id, text, summary string) {
	t.Helper()
	wiki.saveAs(t, nil, id, text, summary)
}

func (wiki *dokuwiki) saveAs(t *testing.T, header map[string]string, id, text, summary string) {
	t.Helper()
	answer := wiki.xmlrpc(t, "/lib/exe/xmlrpc.php", "wiki.putPage", fmt.Sprintf(`
		<param><value><string>%s</string></value></param>
		<param><value><string>%s</string></value></param>
		<param><value><struct><member><name>sum</name><value><string>%s</string></value></member></struct></value></param>`,
		html.EscapeString(id), html.EscapeString(text), html.EscapeString(summary)), header)
	if !strings.Contains(answer, "<boolean>1</boolean>") {
		t.Fatalf("the page %s was not saved: %s", id, answer)
	}
}

// watches returns the field that a page's script watches.
func (wiki *dokuwiki) watches(t *testing.T, id string, header map[string]string) string {
	t.Helper()
	found := regexp.MustCompile(`const page = (\{.*\});`).FindStringSubmatch(wiki.page(t, "/doku.php?id="+id, header))
	if found == nil {
		t.Fatalf("the page %s has no script of the plugin", id)
	}
	var page struct{ Field string }
	if err := json.Unmarshal([]byte(found[1]), &page); err != nil {
		t.Fatal(err)
	}
	return page.Field
}

// pageTimes asks for a page n times and returns how long each took.
func (wiki *dokuwiki) pageTimes(t *testing.T, id string, n int) (took []time.Duration) {
	t.Helper()
	for range n {
		start := time.Now()
		wiki.page(t, "/doku.php?id="+id, nil)
		took = append(took, time.Since(start))
	}
	return took
}

// reload uses the bar's button and waits for the page that comes.
func (p *page) reload(t *testing.T) {
	t.Helper()
	p.call(t, "evaluate", "window.old = true")
	p.call(t, "click", dokuwikiBar+" button >> nth=0")
	p.call(t, "waitForFunction", "!window.old && document.readyState === 'complete'")
}

// hide makes the page believe that it is hidden, as that of a tab behind another, or seen.
func (p *page) hide(t *testing.T, hidden bool) {
	t.Helper()
	p.call(t, "evaluate", fmt.Sprintf(`Object.defineProperty(document, 'hidden', { value: %t, configurable: true }),
		document.dispatchEvent(new Event('visibilitychange'))`, hidden))
}

func wantNoBar(t *testing.T, p *page, when string) {
	t.Helper()
	if p.is(t, `document.querySelector('`+dokuwikiBar+`')`) {
		t.Errorf("%s has a bar %s: %q", p.name, when, p.text(t, dokuwikiBar))
	}
}

// nowOf returns a cursor that is later than all that was published so far, for a
// route that lets field be watched.
func nowOf(t *testing.T, s *comettest.Server, field string) string {
	t.Helper()
	a := comettest.Push(t, s, "after=now&wait=0&format=json&field="+escape(field))
	if a.Status != 200 || a.Cursor() == "" {
		t.Fatalf("no cursor: %s", a)
	}
	return a.Cursor()
}

// doorValue returns what the door says of a field, and whether it has a value.
func doorValue(t *testing.T, s *comettest.Server, field string) (string, bool) {
	t.Helper()
	a := s.Do(t, comettest.Request{URL: s.DoorURL("/config?field=" + escape(field))})
	return a.Body, a.Status == 200
}
