package main_test

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// The applications of docs/applications.md are Debian's, unmodified, each with its
// plugin in testdata and with its Caddyfile of that page.

// application is where one lives during a test.
type application struct {
	*comettest.Server
	dir    string   // of its own, which its PHP may read
	site   string   // the document root
	oldnew []string // what a Caddyfile has for it, and what it has here
}

// startApplication copies an application, and starts comet in front of a PHP that
// is yet to be started. The test is skipped when the application is not there.
func startApplication(t *testing.T, installed, host string) *application {
	t.Helper()
	return startApplicationBehind(t, installed, host, documentedSite(t, host), "http://127.0.0.1:2080", "http://127.0.0.1:{$DOOR}")
}

// startApplicationBehind is startApplication with another Caddyfile, and with more
// replacements in it.
func startApplicationBehind(t *testing.T, installed, host, caddyfile string, oldnew ...string) *application {
	t.Helper()
	if _, err := os.Stat(filepath.Join(installed, "index.php")); err != nil {
		t.Skipf("no %s here; testdata/setup installs it on Debian", filepath.Base(installed))
	}
	// PHP does not run as the user who tests, so what it reads is for everybody.
	dir, err := os.MkdirTemp("", "comet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &application{dir: dir, site: filepath.Join(dir, "site")}
	// With what its links lead to: Debian spreads it over the system.
	run(t, "cp", "-RL", installed, a.site)
	a.oldnew = []string{
		host, "http://127.0.0.1:{$HTTP}",
		installed, a.site,
		"/run/php/php-fpm.sock", phpSocket(dir),
	}
	a.Server = comettest.Start(t, a.configured(t, caddyfile, oldnew...))
	a.PublishURL = a.DoorURL("/config")
	return a
}

// configured returns a Caddyfile for where the application is, with more replacements
// in it.
func (a *application) configured(t *testing.T, caddyfile string, oldnew ...string) string {
	t.Helper()
	oldnew = append(oldnew, a.oldnew...)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(caddyfile, oldnew[i]) {
			t.Fatalf("the Caddyfile has no %s:\n%s", oldnew[i], caddyfile)
		}
	}
	return comettest.Global("") + strings.NewReplacer(oldnew...).Replace(caddyfile)
}

// documentedSite returns the Caddyfile in docs/applications.md that has a host in
// it.
func documentedSite(t *testing.T, host string) string {
	t.Helper()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "applications.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```caddyfile\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if strings.Contains(block[1], host) {
			return block[1]
		}
	}
	t.Fatalf("docs/applications.md has no Caddyfile of %s", host)
	return ""
}

// put writes a file of the application.
func (a *application) put(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(a.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// putPlugin copies what is in testdata to a place in the document root.
func (a *application) putPlugin(t *testing.T, source, place string) {
	t.Helper()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	place = filepath.Join(a.site, place)
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "-R", filepath.Join(root, "testdata", source), place)
	run(t, "chmod", "-R", "a+rX", place)
}

// give makes a folder of the application that its servers may write into.
func (a *application) give(t *testing.T, path string) string {
	t.Helper()
	path = filepath.Join(a.dir, path)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if name := unprivileged(); name != "" {
		run(t, "chown", "-R", name, path)
	}
	return path
}

// page asks for a page and returns its text. The test fails when it is not there.
func (a *application) page(t *testing.T, path string, header map[string]string) string {
	t.Helper()
	answer := a.Do(t, comettest.Request{URL: a.URL(path), Header: header})
	wantStatus(t, answer, 200)
	return answer.Body
}

// xmlrpc calls a method of the application's XML-RPC, with parameters as XML, and
// returns the answer's XML. The test fails when it is a fault.
func (a *application) xmlrpc(t *testing.T, path, method, params string, header map[string]string) string {
	t.Helper()
	answer := a.Do(t, comettest.Request{
		URL: a.URL(path), Type: "text/xml", Header: header,
		Body: `<?xml version="1.0"?><methodCall><methodName>` + method + `</methodName><params>` + params + `</params></methodCall>`,
	})
	if answer.Status != 200 || !strings.Contains(answer.Body, "<methodResponse>") || strings.Contains(answer.Body, "<fault>") {
		t.Fatalf("%s: %s", method, answer)
	}
	return answer.Body
}

// run runs a command that ends.
func run(t *testing.T, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", command, args, err, out)
	}
}

// median returns the middle one.
func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.SortedFunc(slices.Values(all), cmp.Compare)
	return sorted[len(sorted)/2]
}
