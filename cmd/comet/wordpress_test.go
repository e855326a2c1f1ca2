package main_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestWordPress(t *testing.T) {
	blog := startWordPress(t)
	t.Run("shows a new comment on a page that is open", blog.shows)
	t.Run("takes a comment when there is no door", blog.takes)
	t.Run("shows a new post without the plugin", blog.showsUnchanged)
}

func (blog *wordpress) shows(t *testing.T) {
	browser := startBrowser(t)

	// "Hello world!", which has a comment already.
	ada := browser.open(t, "ada", desktop, blog.URL("/?p=1"))
	bob := browser.open(t, "bob", phone, blog.URL("/?p=1"))
	ada.call(t, "waitForSelector", "#comment-1")
	ada.call(t, "fill", "#comment", "what ada is writing")

	took := ada.comment(t, bob, "Bob", "Greetings from Bob.", "#comment-2")
	t.Logf("by the form: ada has the comment %s after bob's click", took)
	if got := ada.text(t, "#comment-2"); !strings.Contains(got, "Bob") || !strings.Contains(got, "Greetings from Bob.") {
		t.Errorf("ada: the comment is %q", got)
	}
	bob.call(t, "waitForSelector", "#comment-2")
	ada.screenshot(t, "wordpress-comment-desktop")
	bob.screenshot(t, "wordpress-comment-phone")

	// From now on both wait by a cursor.
	const field = "post/1"
	comettest.WaitSubscribers(t, blog.Server, field, 2)

	// An answer, with what WordPress leaves of it, goes below what it answers.
	at := ada.appearance(t, "#comment-2 #comment-3")
	began := time.Now()
	blog.comment(t, 1, 2, "Eve", `An answer. <img src=x onerror="window.bad=1"><script>window.bad=1</script><em>fine</em>`)
	t.Logf("by HTTP: ada has the comment %s after it was sent", ada.appeared(t, at).Sub(began))
	bob.call(t, "waitForSelector", "#comment-2 #comment-3")
	if got := ada.text(t, "#comment-3"); !strings.Contains(got, "An answer.") || !strings.Contains(got, "fine") {
		t.Errorf("ada: the answer is %q", got)
	}

	// One that is held is there when it is approved, and in its place.
	blog.comment(t, 1, 0, "Mallory", "For moderation.")
	at = ada.appearance(t, "#comment-5")
	blog.comment(t, 1, 0, "Bob", "After the one that is held.")
	ada.appeared(t, at)
	if ada.is(t, `document.querySelector('#comment-4')`) {
		t.Error("a comment that is not approved appeared")
	}
	at = ada.appearance(t, "#comment-4")
	blog.approve(t, 4)
	ada.appeared(t, at)
	var order []string
	ada.eval(t, `[...document.querySelectorAll('[id^="comment-"]')].map((e) => e.id).filter((id) => /^comment-\d+$/.test(id))`, &order)
	if got, want := fmt.Sprint(order), "[comment-1 comment-2 comment-3 comment-4 comment-5]"; got != want {
		t.Errorf("ada: the comments are %s; want %s, as WordPress has them", got, want)
	}

	// All that was on the page is still there.
	var draft string
	ada.eval(t, `document.querySelector('#comment').value`, &draft)
	if draft != "what ada is writing" {
		t.Errorf("ada's own comment is now %q", draft)
	}
	if ada.is(t, `window.bad`) {
		t.Error("a script in a comment ran")
	}
	if got, want := ada.text(t, ".wp-block-comments-title, .comments-title"), "5 responses"; !strings.Contains(got, want) {
		t.Errorf("ada: the title of the comments is %q; want %q in it", got, want)
	}

	// The first comment of a post makes the list, in which an older one has its place.
	post := blog.post(t, "Another post")
	carol := browser.open(t, "carol", desktop, blog.URL(fmt.Sprintf("/?p=%d", post)))
	at = carol.appearance(t, "#comment-7")
	blog.comment(t, post, 0, "Mallory", "For moderation, too.")
	blog.comment(t, post, 0, "Bob", "The first one.")
	carol.appeared(t, at)
	at = carol.appearance(t, "#comment-6")
	blog.approve(t, 6)
	carol.appeared(t, at)
	for _, pair := range [][2]string{{"#comment-6", "#comment-7"}, {"#comment-7", "#respond"}} {
		if !carol.is(t, fmt.Sprintf(`document.querySelector('%s').compareDocumentPosition(document.querySelector('%s'))
			& Node.DOCUMENT_POSITION_FOLLOWING`, pair[0], pair[1])) {
			t.Errorf("carol: %s is not above %s", pair[0], pair[1])
		}
	}
	if ada.is(t, `document.querySelector('#comment-6, #comment-7')`) {
		t.Error("ada has a comment of another post")
	}

	// A page that has all comments does not ask for itself again, though the one that
	// was published last is gone.
	blog.trash(t, 4)
	var address string
	ada.eval(t, "location.href", &address) // WordPress redirected her there
	comettest.WaitSubscribers(t, blog.Server, field, 2)
	dave := browser.open(t, "dave", desktop, address)
	comettest.WaitSubscribers(t, blog.Server, field, 3)
	if dave.is(t, `performance.getEntriesByType('resource').some((entry) => entry.name === location.href)`) {
		t.Error("a page that has all comments asks for itself again")
	}
	dave.call(t, "waitForSelector", "#comment-5")
	if dave.is(t, `document.querySelector('#comment-4')`) {
		t.Error("dave has a comment that is in the trash")
	}
}

func (blog *wordpress) takes(t *testing.T) {
	blog.put(t, "door.php", "<?php return 'http://127.0.0.1:1/config';")
	blog.comment(t, 1, 0, "Bob", "Taken all the same.")
	if page := blog.page(t, "/?p=1", nil); !strings.Contains(page, "Taken all the same.") {
		t.Error("the comment is not there")
	}
	const want = "is stored, but not published: http://127.0.0.1:1/config"
	log, err := os.ReadFile(filepath.Join(blog.dir, "error.log"))
	if err != nil || !strings.Contains(string(log), want) {
		t.Errorf("PHP's log does not have %q: %v\n%s", want, err, log)
	}
}

// wordpress is a blog with the plugin and a database of its own.
type wordpress struct{ *application }

func startWordPress(t *testing.T) *wordpress {
	t.Helper()
	fpm := findPHP(t, "mysqli")
	mariadbd := findCommand(t, "mariadbd")
	install := findCommand(t, "mariadb-install-db")
	blog := &wordpress{startApplication(t, "/usr/share/wordpress", "blog.example.com")}
	socket := blog.startMariaDB(t, mariadbd, install)
	blog.putPlugin(t, "wordpress/comet.php", "wp-content/mu-plugins/comet.php")
	blog.put(t, "door.php", "<?php return '"+blog.DoorURL("/config")+"';")
	blog.put(t, "site/wp-config.php", `<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'root');
define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:`+socket+`');
define('DB_CHARSET', 'utf8mb4');
define('COMET_DOOR', require '`+blog.dir+`/door.php');
define('DISABLE_WP_CRON', true);
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('WP_ACCESSIBLE_HOSTS', '127.0.0.1');
define('AUTOMATIC_UPDATER_DISABLED', true);
$table_prefix = 'wp_';
require ABSPATH . 'wp-settings.php';
`)
	// What the one who runs the blog set: anybody may comment, as often as he likes.
	blog.put(t, "site/wp-content/mu-plugins/settings.php", `<?php
add_filter('comment_flood_filter', '__return_false', 99);
add_filter('pre_comment_approved', fn ($approved, $comment)
    => str_contains($comment['comment_content'], 'moderation') ? 0 : 1, 99, 2);
add_filter('pre_wp_mail', '__return_true');
`)
	run(t, "chmod", "-R", "a+rX", blog.site)
	startPHP(t, fpm, blog.dir, "php_admin_value[opcache.revalidate_freq] = 0")
	answer := blog.Do(t, comettest.Request{
		Method: "POST", URL: blog.URL("/wp-admin/install.php?step=2"), Type: comettest.FormType,
		Body: url.Values{
			"weblog_title": {"A blog"}, "user_name": {"admin"}, "admin_email": {"admin@example.com"},
			"admin_password": {"admin"}, "admin_password2": {"admin"}, "pw_weak": {"on"}, "blog_public": {"0"},
		}.Encode(),
		Within: 2 * comettest.Deadline,
	})
	if answer.Status != 200 || !strings.Contains(answer.Body, "Success!") {
		t.Fatalf("WordPress was not installed: %s", answer)
	}
	return blog
}

// startMariaDB runs a MariaDB with an empty database and returns its socket.
func (blog *wordpress) startMariaDB(t *testing.T, mariadbd, install string) (socket string) {
	t.Helper()
	data := blog.give(t, "mariadb")
	socket = filepath.Join(data, "my.sock")
	options := []string{"--no-defaults", "--datadir=" + data}
	if name := unprivileged(); name != "" {
		options = append(options, "--user="+name)
	}
	run(t, install, append(options, "--auth-root-authentication-method=normal", "--skip-test-db")...)
	blog.put(t, "init.sql", "CREATE DATABASE IF NOT EXISTS wordpress;\n")
	startDaemon(t, filepath.Join(blog.dir, "mariadb.log"), mariadbd, append(options,
		"--socket="+socket, "--skip-networking", "--init-file="+filepath.Join(blog.dir, "init.sql"),
		"--innodb-flush-log-at-trx-commit=0", "--skip-log-bin")...)
	awaitSocket(t, socket)
	return socket
}

// comment sends a comment as the form does, as an answer when parent is not 0.
func (blog *wordpress) comment(t *testing.T, post, parent int, author, text string) {
	t.Helper()
	answer := blog.Do(t, comettest.Request{
		URL: blog.URL("/wp-comments-post.php"), Type: comettest.FormType,
		Body: url.Values{
			"comment_post_ID": {fmt.Sprint(post)}, "comment_parent": {fmt.Sprint(parent)},
			"author": {author}, "email": {strings.ToLower(author) + "@example.com"}, "comment": {text},
		}.Encode(),
	})
	wantStatus(t, answer, 200, 302)
}

// approve approves a comment that is held, as the administrator.
func (blog *wordpress) approve(t *testing.T, comment int) {
	t.Helper()
	blog.xmlrpc(t, "/xmlrpc.php", "wp.editComment", fmt.Sprintf(`%s<param><value><int>%d</int></value></param>
		<param><value><struct><member><name>status</name><value><string>approve</string></value></member></struct></value></param>`,
		wordpressAdmin, comment), nil)
}

// trash puts a comment into the trash, as the administrator.
func (blog *wordpress) trash(t *testing.T, comment int) {
	t.Helper()
	blog.xmlrpc(t, "/xmlrpc.php", "wp.deleteComment",
		fmt.Sprintf(`%s<param><value><int>%d</int></value></param>`, wordpressAdmin, comment), nil)
}

// post publishes a post, as the administrator, and returns its number.
func (blog *wordpress) post(t *testing.T, title string) (id int) {
	t.Helper()
	answer := blog.xmlrpc(t, "/xmlrpc.php", "wp.newPost", wordpressAdmin+`<param><value><struct>
		<member><name>post_title</name><value><string>`+title+`</string></value></member>
		<member><name>post_content</name><value><string>A text.</string></value></member>
		<member><name>post_status</name><value><string>publish</string></value></member>
		<member><name>comment_status</name><value><string>open</string></value></member>
	</struct></value></param>`, nil)
	found := regexp.MustCompile(`<string>(\d+)</string>`).FindStringSubmatch(answer)
	if found == nil {
		t.Fatalf("the new post has no number: %s", answer)
	}
	if _, err := fmt.Sscan(found[1], &id); err != nil {
		t.Fatal(err)
	}
	return id
}

// wordpressAdmin are the parameters that come first in a call: the blog, the user
// and the password.
const wordpressAdmin = `<param><value><int>1</int></value></param>
	<param><value><string>admin</string></value></param><param><value><string>admin</string></value></param>`

// comment has another visitor send the form, and returns how long after the click
// what a selector finds is there.
func (p *page) comment(t *testing.T, by *page, author, text, selector string) time.Duration {
	t.Helper()
	by.call(t, "fill", "#author", author)
	by.call(t, "fill", "#email", strings.ToLower(author)+"@example.com")
	by.call(t, "fill", "#comment", text)
	at := p.appearance(t, selector)
	began := time.Now()
	by.call(t, "click", "#submit")
	return p.appeared(t, at).Sub(began)
}
