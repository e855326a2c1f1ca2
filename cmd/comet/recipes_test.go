//go:build unix

package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// recipesRun are the files of testdata/recipes that a test here runs as they are.
var recipesRun = []string{
	"publish.sh", "comet.php", "post.php", "publish.mjs",
	"postgresql.sql", "postgresql.sh", "mariadb.sql", "mariadb.sh",
	"jquery.js", "jquery-use.js", "useComet.js",
	"htmx.html", "htmx-4.html", "htmx.sh", "turbo.html", "turbo-comet.html", "turbo.sh",
	"guestbook.caddyfile", "wiki.caddyfile", "blog.caddyfile", "follow.js", "touch.caddyfile",
	"cursor.php", "cursor.html", "ask.caddyfile", "may-watch.php", "sign.php", "sign.py", "sign.mjs", "sign.sh",
}

// recipesSite publishes to fields and lets a browser have the recipes.
var recipesSite = comettest.Global("comet {\n\t\tdrain 200ms\n\t}") + `http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold /push {
			field id news
			timeout 1s
			retry 300ms
		}
	}
	handle_path /recipes/* {
		root {$RECIPES:recipes}
		file_server
	}
	handle_path /node_modules/* {
		root {$NODE_MODULES:node_modules}
		file_server
	}
	handle {
		root pages
		file_server
	}
}
`

func recipe(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(testdataDir(t, "recipes"), name)
}

func testdataDir(t *testing.T, elements ...string) string {
	t.Helper()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(append([]string{root, "testdata"}, elements...)...)
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every snippet of docs/recipes.md is a file of testdata/recipes, each of these is
// in it, and those that no test runs are marked.
func TestRecipesPageShowsTheFilesThatAreRun(t *testing.T) {
	const mark = "*Not run by a test.*"
	page := readText(t, testdataDir(t, "..", "docs", "recipes.md"))
	left := map[string]string{} // text → name
	entries, err := os.ReadDir(testdataDir(t, "recipes"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		left[readText(t, recipe(t, entry.Name()))] = entry.Name()
	}
	for _, name := range recipesRun {
		if _, err := os.Stat(recipe(t, name)); err != nil {
			t.Error(err)
		}
	}
	snippets := regexp.MustCompile("(?s)\n```\\w+\n(.*?)```\n(\n[*][^\n]*)?").FindAllStringSubmatch(page, -1)
	for _, snippet := range snippets {
		name, ok := left[snippet[1]]
		if !ok {
			t.Errorf("no file of testdata/recipes is exactly\n%s", snippet[1])
			continue
		}
		delete(left, snippet[1])
		if run, marked := slices.Contains(recipesRun, name), strings.TrimSpace(snippet[2]) == mark; run == marked {
			t.Errorf("%s: run by a test: %t, marked as not run: %t", name, run, marked)
		}
	}
	for _, name := range left {
		t.Errorf("docs/recipes.md does not show %s as it is", name)
	}
}

func TestRecipeShellPublishes(t *testing.T) {
	findCommand(t, "curl")
	s := comettest.Start(t, recipesSite)
	script := strings.Replace(readText(t, recipe(t, "publish.sh")), "http://127.0.0.1:2080", s.URL(""), 1)
	if out, err := exec.Command("sh", "-c", script).Output(); err != nil || string(out) != "OK\n" {
		t.Errorf("%s: %q, %v; want OK", script, out, err)
	}
	wantValue(t, s, "id", "123")
	s.Stop(t)
	if err := exec.Command("sh", "-c", script).Run(); err == nil {
		t.Errorf("%s does not fail without a server", script)
	}
}

func TestRecipePHPPublishesAfterTheCommit(t *testing.T) {
	php := findCommand(t, "php")
	if out, err := exec.Command(php, "-m").Output(); err != nil || !bytes.Contains(out, []byte("pdo_sqlite")) {
		t.Skip("PHP has no pdo_sqlite here; testdata/setup installs it on Debian")
	}
	s := comettest.Start(t, recipesSite)
	dir := t.TempDir()
	run := func(door, code string) string {
		cmd := exec.Command(php, "-d", "error_log=", "-d", "log_errors=1", "-d", "display_errors=stderr", "-r", code)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "COMET_DOOR="+door)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", code, err, out)
		}
		return string(out)
	}
	post := fmt.Sprintf(`$_POST = ["text" => "hello"]; require %q;`, recipe(t, "post.php"))
	run("", `(new PDO("sqlite:messages.sqlite"))->exec("CREATE TABLE messages (id INTEGER PRIMARY KEY, text TEXT NOT NULL)");`)
	for _, id := range []string{"1", "2"} {
		if out := run(s.PublishURL, post); out != "" {
			t.Errorf("post.php says %q; want nothing", out)
		}
		wantValue(t, s, "id", id)
	}
	if out := run(s.URL2("/config"), post); !strings.Contains(out, "not published: ") || !strings.Contains(out, "refused") {
		t.Errorf("without a door post.php says %q; want why nothing is published", out)
	}
	if out := run(s.URL("/push"), post); !strings.Contains(out, "not published: ") || !strings.Contains(out, "405") {
		t.Errorf("with a wrong door post.php says %q; want why nothing is published", out)
	}
	run(s.PublishURL, fmt.Sprintf(`require %q; comet_publish(["id" => 9, "news" => "a&b=ü"]);`, recipe(t, "comet.php")))
	wantValue(t, s, "id", "9")
	wantValue(t, s, "news", "a&b=ü")
}

func TestRecipeNodePublishes(t *testing.T) {
	node := findCommand(t, "node", "nodejs")
	s := comettest.Start(t, recipesSite)
	run := func(door string) string {
		cmd := exec.Command(node, "--input-type=module", "-e",
			"import { publish } from "+strconv.Quote("file://"+recipe(t, "publish.mjs"))+"; await publish({ id: 123, news: 'a&b=ü' });")
		cmd.Env = append(os.Environ(), "COMET_DOOR="+door)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("publish.mjs: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := run(s.PublishURL); out != "" {
		t.Errorf("publish.mjs says %q; want nothing", out)
	}
	wantValue(t, s, "id", "123")
	wantValue(t, s, "news", "a&b=ü")
	for door, want := range map[string]string{s.URL2("/config"): "ECONNREFUSED", s.URL("/push"): "405"} {
		if out := run(door); !strings.Contains(out, "not published: ") || !strings.Contains(out, want) {
			t.Errorf("with %s publish.mjs says %q; want %q in it", door, out, want)
		}
	}
}

func TestRecipePostgreSQLPublishesWhatIsCommitted(t *testing.T) {
	psql := findCommand(t, "psql")
	findCommand(t, "curl")
	s := comettest.Start(t, recipesSite)
	port := startPostgreSQL(t, s.Port("DOOR"))
	arguments := []string{"-h", "127.0.0.1", "-p", port, "-U", "postgres", "-d", "postgres"}
	query := func(text string) {
		t.Helper()
		cmd := exec.Command(psql, append(arguments, "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-")...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
	}
	query("create table messages (id int primary key, body text not null);\n" + readText(t, recipe(t, "postgresql.sql")))
	query("insert into messages values (1, 'before anybody listens');")
	startScript(t, s.PublishURL, recipe(t, "postgresql.sh"), arguments...)
	waitValue(t, s, "id", "1")
	start := now(t, s)

	query("insert into messages values (2, 'two'); begin; insert into messages values (3, 'three'), (4, 'four'); commit;")
	query("begin; insert into messages values (5, 'five'); rollback; insert into messages values (6, 'six');")
	waitValue(t, s, "id", "6")
	wantTexts(t, since(t, s, start, "id"), "id=2", "id=3", "id=4", "id=6")

	// What is notified while Comet is away is published when it is back.
	s.Stop(t)
	stranger, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(s.Port("HTTP")))
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		close(refused) // and a second time fails
	})}
	go server.Serve(stranger)
	query("insert into messages values (7, 'seven');")
	select {
	case <-refused:
	case <-time.After(comettest.Deadline):
		t.Error("the script publishes nothing")
	}
	ctx, cancel := context.WithTimeout(t.Context(), comettest.Deadline)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	s.Restart(t)
	waitValue(t, s, "id", "7")

	// What is notified while nobody listens is lost, but not what it is about.
	query(`begin; insert into messages values (8, 'eight');
		select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend';
		select pg_sleep(0.1); commit;`)
	waitValue(t, s, "id", "8")
	query("insert into messages values (9, 'nine');")
	waitValue(t, s, "id", "9")
}

func TestRecipeMariaDBPublishesWhatIsCommitted(t *testing.T) {
	mariadb := findCommand(t, "mariadb")
	findCommand(t, "curl")
	socket := startMariaDB(t)
	s := comettest.Start(t, recipesSite)
	arguments := []string{"--no-defaults", "--user=root", "--socket=" + socket, "shop"}
	query := func(text string) string {
		t.Helper()
		cmd := exec.Command(mariadb, append([]string{"--no-defaults", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"}, arguments[1:]...)...)
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
		return string(out)
	}
	empty := func() error {
		cmd := exec.Command(recipe(t, "mariadb.sh"), arguments...)
		cmd.Env = append(os.Environ(), "COMET_DOOR="+s.PublishURL)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if len(out) > 0 {
			t.Errorf("mariadb.sh says %q; want nothing", out)
		}
		return nil
	}
	left := func() string { return strings.TrimSpace(query("select count(*) from comet_outbox")) }
	query("create table messages (id int primary key, body text not null) engine=innodb;\n" + readText(t, recipe(t, "mariadb.sql")))
	start := now(t, s)
	if err := empty(); err != nil {
		t.Fatalf("an empty outbox: %v", err)
	}
	query(`insert into messages values (1, 'one');
		start transaction; insert into messages values (2, 'two'), (3, 'three'); rollback;
		start transaction; insert into messages values (4, 'four'); commit;
		insert into comet_outbox (field, data) values ('news', 'ü "\\ \n\t\' <&');`)
	if err := empty(); err != nil {
		t.Fatal(err)
	}
	a := since(t, s, start, "id", "news")
	wantTexts(t, a, "id=1", "id=4", "news=ü \"\\ \n\t' <&")
	if got := left(); got != "0" {
		t.Errorf("%s rows are left in the outbox; want none", got)
	}

	// More than fit into one request, while Comet is away, and then when it is back.
	query("insert into comet_outbox (field, data) select 'id', 10 + seq from seq_1_to_250;")
	s.Stop(t)
	if err := empty(); err == nil {
		t.Error("mariadb.sh has nothing to complain of without a server")
	}
	if got := left(); got != "250" {
		t.Errorf("%s rows are left in the outbox; want all 250", got)
	}
	s.Restart(t)
	if err := empty(); err != nil {
		t.Fatal(err)
	}
	want := []string{}
	for i := 11; i <= 260; i++ {
		want = append(want, "id="+strconv.Itoa(i))
	}
	wantTexts(t, since(t, s, a.Cursor(), "id"), want...)
	if got := left(); got != "0" {
		t.Errorf("%s rows are left in the outbox; want none", got)
	}
}

// The pages note what they are told, and when they ask.
const (
	jQueryPage = `<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<script src="/node_modules/jquery-VERSION/dist/jquery.js"></script>
<script src="/recipes/jquery.js"></script>
<script>
	var told = [], asked = [];
	$(document).ajaxSend(function () { asked.push(performance.now()); });
	comet(['id', 'news'], function (message) {
		told.push(message.field + '=' + message.data);
		if (message.data === 'bad') throw new Error('a page that fails');
	}, function (fields) { told.push('missed ' + fields); });
</script>
`
	jQueryUsePage = `<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<ul id="news"></ul>
<script src="/node_modules/jquery-3.7/dist/jquery.js"></script>
<script src="/recipes/jquery.js"></script>
<script src="/recipes/jquery-use.js"></script>
`
	reactPage = `<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<div id="root"></div>
<script>
	// The packages of React are CommonJS, which browsers do not load.
	window.process = { env: { NODE_ENV: 'development' } };
	const modules = {};
	function require(name) {
		if (modules[name]) return modules[name].exports;
		const module = modules[name] = { exports: {} };
		const request = new XMLHttpRequest();
		request.open('GET', '/node_modules/' + name.split('/')[0] + '/cjs/' + name.replace('/', '-') + '.development.js', false);
		request.send();
		new Function('module', 'exports', 'require', request.responseText)(module, module.exports, require);
		return module.exports;
	}
	var React = require('react'), createRoot = require('react-dom/client').createRoot;
	var told = [], asked = [];
	const plainFetch = window.fetch;
	window.fetch = (...args) => { asked.push(performance.now()); return plainFetch(...args); };
</script>
<script type="importmap">{ "imports": { "react": "/react.js" } }</script>
<script type="module">
	import { useComet } from '/recipes/useComet.js';

	function Messages({ fields }) {
		const [count, setCount] = React.useState(0);
		useComet(fields, (message) => {
			setCount(count + 1); // renders anew, with other functions
			told.push(message.field + '=' + message.data);
			if (message.data === 'bad') throw new Error('a page that fails');
		}, { onMissed: (fields) => told.push('missed ' + fields) });
		return React.createElement('output', null, count);
	}
	const root = createRoot(document.querySelector('#root'));
	window.render = (fields) => root.render(React.createElement(React.StrictMode, null,
		fields && React.createElement(Messages, { fields })));
	render(['id', 'news']);
</script>
`
	reactModule = "export const { useEffect, useRef } = window.React;\n"
)

func TestRecipesForBrowsersFollowFields(t *testing.T) {
	b := startBrowser(t)
	modules := testdataDir(t, "browser", "node_modules")
	for _, name := range []string{"jquery-1.12", "jquery-3.7", "react", "react-dom"} {
		if _, err := os.Stat(filepath.Join(modules, name)); err != nil {
			t.Skipf("no %s in testdata/browser/node_modules; testdata/setup installs it", name)
		}
	}
	s := comettest.Start(t, recipesSite,
		comettest.Env("RECIPES", testdataDir(t, "recipes")), comettest.Env("NODE_MODULES", modules))
	if err := os.Mkdir(filepath.Join(s.Dir, "pages"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"jquery-1.12.html": strings.Replace(jQueryPage, "VERSION", "1.12", 1),
		"jquery-3.7.html":  strings.Replace(jQueryPage, "VERSION", "3.7", 1),
		"use.html":         jQueryUsePage,
		"react.html":       reactPage,
		"react.js":         reactModule,
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, "pages", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	comettest.Publish(t, s, "id=1")
	var pages []*page
	for _, name := range []string{"jquery-1.12", "jquery-3.7", "react"} {
		pages = append(pages, b.open(t, name, desktop, s.URL("/"+name+".html")))
	}
	told := func(p *page) (told []string) {
		t.Helper()
		p.eval(t, "told", &told)
		return told
	}
	waitTold := func(want ...string) {
		t.Helper()
		for _, p := range pages {
			end := time.Now().Add(comettest.Deadline)
			for !slices.Equal(told(p), want) {
				if time.Now().After(end) {
					t.Fatalf("%s is told %q; want %q", p.name, told(p), want)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	if got := pages[0].is(t, "$.fn.jquery === '1.12.4'") && pages[1].is(t, "$.fn.jquery === '3.7.1'"); !got {
		t.Error("the pages do not have jQuery 1.12 and 3.7")
	}

	waitTold("id=1")
	comettest.WaitSubscribers(t, s, "id", len(pages))
	comettest.Publish(t, s, "id=2&news=a&id=3")
	comettest.Publish(t, s, "news=bad&id=4&id=4")
	want := []string{"id=1", "id=2", "news=a", "id=3", "news=bad", "id=4", "id=4"}
	waitTold(want...)

	// While the server is away they ask now and then; afterwards they go on where they were.
	s.Stop(t)
	var before int
	for _, p := range pages {
		p.eval(t, "asked.length", &before)
		comettest.Eventually(t, comettest.Deadline, func() bool { return p.is(t, fmt.Sprintf("asked.length >= %d", before+3)) },
			p.name, " does not ask again")
		var shortest float64
		p.eval(t, fmt.Sprintf("Math.min(...asked.slice(%d).map((at, i, all) => i ? at - all[i - 1] : Infinity))", before), &shortest)
		if shortest < 140 {
			t.Errorf("%s asks after %.0f ms though the last answer was a failure; want half of retry at least", p.name, shortest)
		}
	}
	s.Restart(t)
	comettest.Publish(t, s, "id=5")
	want = append(want, "id=5")
	waitTold(want...)

	// Their cursors are worth nothing after a crash, and they are told.
	s.Kill(t)
	s.Restart(t)
	for _, p := range pages {
		comettest.Eventually(t, comettest.Deadline, func() bool {
			got := told(p)
			return len(got) > len(want) && slices.Equal(got[:len(want)], want) && strings.HasPrefix(got[len(want)], "missed ")
		}, p.name, " is told of no gap")
	}

	// The page that shows news begins anew after a gap.
	use := b.open(t, "use", desktop, s.URL("/use.html"))
	shows := func(want string) {
		t.Helper()
		use.call(t, "waitForFunction", "document.querySelector('#news')?.textContent === "+strconv.Quote(want))
	}
	shows("bad")
	comettest.Publish(t, s, "news=b&news=c")
	shows("cbbad")
	s.Kill(t)
	s.Restart(t)
	shows("bad")
	use.call(t, "goto", "about:blank")

	// The hook follows the fields that it is given, and ends with its component.
	comettest.Publish(t, s, "id=6&news=b")
	comettest.WaitSubscribers(t, s, "id", len(pages))
	comettest.WaitSubscribers(t, s, "news", len(pages))
	react := pages[2]
	last := func(want string) {
		t.Helper()
		comettest.Eventually(t, comettest.Deadline, func() bool { return slices.Equal(told(react)[max(0, len(told(react))-1):], []string{want}) },
			"the last that the component is told is not ", want)
	}
	last("news=b")
	react.call(t, "evaluate", "render(['news']), told.length = 0")
	last("news=b") // the present state of other fields
	comettest.WaitSubscribers(t, s, "id", len(pages)-1)
	comettest.Publish(t, s, "id=7&news=c")
	last("news=c")
	if got := told(react); !slices.Equal(got, []string{"news=b", "news=c"}) {
		t.Errorf("the component is told %q; want what is published to news alone", got)
	}
	comettest.WaitSubscribers(t, s, "news", len(pages))
	react.call(t, "evaluate", "render(null), told.length = 0")
	comettest.WaitSubscribers(t, s, "news", len(pages)-1)
	comettest.Publish(t, s, "news=d")
	comettest.WaitSubscribers(t, s, "news", len(pages)-1)
	if got := told(react); len(got) > 0 {
		t.Errorf("a component that is gone is told %q", got)
	}
}

// waitValue waits until a field has that value.
func waitValue(t *testing.T, s *comettest.Server, field, want string) {
	t.Helper()
	comettest.Eventually(t, comettest.Deadline, func() bool {
		got, ok := value(t, s, field)
		return ok && got == want
	}, "the field ", field, " does not become ", want)
}

// startScript runs a recipe that ends only when it is told to, with the test.
func startScript(t *testing.T, door, path string, args ...string) {
	t.Helper()
	var said output
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "COMET_DOOR="+door)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // all that it started
		_ = cmd.Wait()                                      // the exit code is that of a process told to end
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(path), said.String())
		}
	})
}

// database is the folder of a database server, which belongs to the user it runs as.
type database struct {
	dir string
	as  []string // what a command begins with, to run as that user
}

// newDatabase makes the folder. A root has to be somebody else to run a database.
func newDatabase(t *testing.T, name string) database {
	t.Helper()
	dir, err := os.MkdirTemp("", name+"-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := database{dir: dir}
	if os.Geteuid() != 0 {
		return d
	}
	account, err := user.Lookup(name)
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		t.Skipf("no user %s here to run the database as", name)
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	d.as = []string{findCommand(t, "setpriv"), "--reuid=" + account.Uid, "--regid=" + account.Gid, "--clear-groups"}
	return d
}

// run runs a command to its end.
func (d database) run(t *testing.T, args ...string) {
	t.Helper()
	args = append(slices.Clone(d.as), args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = d.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// serve runs a server until the end of the test, and returns when it is ready.
func (d database) serve(t *testing.T, ready func() bool, args ...string) {
	t.Helper()
	// The shell ends the server when its input ends: with the test, or with the
	// test's process, whatever becomes of that.
	shell := []string{"sh", "-c", `"$@" & read -r _; kill "$!"; wait`, "sh"}
	args = slices.Concat(shell, d.as, args)
	cmd := exec.Command(args[0], args[1:]...)
	var said output
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, &said, &said
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		_ = cmd.Wait() // the exit code is that of a process told to end
		if t.Failed() {
			t.Logf("%s said:\n%s", args[len(shell)+len(d.as)], said.String())
		}
	})
	comettest.Eventually(t, comettest.Deadline, ready, args[len(shell)+len(d.as)], " does not answer: ", said.String())
}

// startPostgreSQL runs a PostgreSQL of the test's own and returns its port.
func startPostgreSQL(t *testing.T, free int) string {
	t.Helper()
	var initdb, postgres string
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(found) > 0 { // Debian's; the pattern is good
		initdb = found[len(found)-1]
		postgres = filepath.Join(filepath.Dir(initdb), "postgres")
	} else {
		initdb, postgres = findCommand(t, "initdb"), findCommand(t, "postgres")
	}
	psql := findCommand(t, "psql")
	d := newDatabase(t, "postgres")
	data := filepath.Join(d.dir, "data")
	d.run(t, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-N", "--no-instructions")
	port := strconv.Itoa(free)
	d.serve(t, func() bool {
		return exec.Command(psql, "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-Xc", "select 1").Run() == nil
	}, postgres, "-D", data, "-c", "port="+port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+d.dir, "-c", "fsync=off")
	return port
}

// startMariaDB runs a MariaDB of the test's own, with the database shop, and
// returns its socket.
func startMariaDB(t *testing.T) string {
	t.Helper()
	install, server, client := findCommand(t, "mariadb-install-db"), findCommand(t, "mariadbd"), findCommand(t, "mariadb")
	d := newDatabase(t, "mysql")
	data, socket := filepath.Join(d.dir, "data"), filepath.Join(d.dir, "my.sock")
	d.run(t, install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	d.serve(t, func() bool {
		return exec.Command(client, "--no-defaults", "--user=root", "--socket="+socket, "-e", "create database if not exists shop").Run() == nil
	}, server, "--no-defaults", "--datadir="+data, "--socket="+socket, "--skip-networking", "--innodb-flush-log-at-trx-commit=0")
	return socket
}
