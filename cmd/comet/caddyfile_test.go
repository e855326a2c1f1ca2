package main_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestTheVersionSaysBoth(t *testing.T) {
	t.Parallel()
	r := comettest.Run(t, nil, "version")
	if r.Code != 0 || !strings.Contains(r.Stdout, "v2.") || !strings.Contains(strings.ToLower(r.Stdout), "comet") {
		t.Errorf("exit code %d: %q %q; want the versions of Caddy and of Comet", r.Code, r.Stdout, r.Stderr)
	}
}

func TestCometAloneIsAWorkingConfiguration(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site("comet\nrespond \"app\""))
	wantText(t, comettest.Push(t, s, "id=0&wait=0"), "NO\n")
	wantText(t, s.Do(t, request{URL: "/"}), "app")
	comettest.Publish(t, s, "id=1")
	wantText(t, comettest.Push(t, s, "id=0"), "YES\n")
	held := comettest.Hold(t, s, "id=1")
	comettest.Publish(t, s, "id=2")
	wantText(t, comettest.Await(t, held), "YES\n")
	wantText(t, s.Do(t, request{URL: "/config?field=id"}), "2\n")
	wantStatus(t, comettest.Push(t, s, "field=news"), 403)
	wantStatus(t, publishAs(t, s, "/config", "id", map[string]string{"X-Forwarded-For": "127.0.0.1"}), 403)
}

func TestWithABlockOnlyWhatItListsExists(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$DOOR} {
	comet {
		publish /config
	}
	respond "door"
}
http://127.0.0.1:{$HTTP} {
	comet {
		hold /push
	}
	respond "app"
}`)
	s.PublishURL = s.DoorURL("/config")
	wantText(t, s.Do(t, request{URL: s.DoorURL("/push?id=0")}), "door")
	wantText(t, s.Do(t, request{URL: s.DoorURL("/comet.js")}), "door")
	wantText(t, s.Do(t, request{URL: "/config?field=id"}), "app")
	wantText(t, s.Do(t, request{URL: "/config", Type: comettest.FormType, Body: "id=1"}), "app")
	wantText(t, s.Do(t, request{URL: "/comet.js"}), "app")

	// And the two are on one store.
	comettest.Publish(t, s, "id=1")
	held := comettest.Hold(t, s, "id=1")
	comettest.Publish(t, s, "id=2")
	wantText(t, comettest.Await(t, held), "YES\n")
}

func TestStoresAreApart(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`comet {
		history 10 1h
	}
	comet second {
		history 10 1h
	}`)+`
http://127.0.0.1:{$HTTP} {
	comet
}
http://127.0.0.1:{$HTTP2ND} {
	comet {
		store second
		publish /config
		hold /push
	}
}
http://127.0.0.1:{$DOOR} {
	comet {
		store second
		publish /config
	}
}`)
	comettest.Publish(t, s, "id=1")
	wantStatus(t, s.Do(t, request{URL: s.URL2("/config?field=id")}), 400)
	wantStatus(t, s.Do(t, request{URL: s.DoorURL("/config"), Type: comettest.FormType, Body: "id=2"}), 200)
	wantText(t, s.Do(t, request{URL: s.URL2("/config?field=id")}), "2\n")
	wantText(t, s.Do(t, request{URL: "/config?field=id"}), "1\n")
}

// A path matches as the client sent it or as it now is, so that what an
// application does to its URLs neither hides comet nor breaks it.
func TestRouting(t *testing.T) {
	t.Parallel()
	const comet = `
	comet {
		publish /config
		hold /push
	}`
	for _, c := range []struct {
		name, site   string
		push, config string
		app          string
		host         string
	}{
		{name: "try_files does not hide it", push: "/push", config: "/config", app: "/any", site: comet + `
	root {$DIR}/site
	try_files {path} /index.txt
	file_server`},
		{name: "rewrite does not hide it", push: "/push", config: "/config", app: "/any", site: `
	rewrite * /index.txt` + comet + `
	respond "app"`},
		{name: "rewrite leads to it", push: "/old/push", config: "/old/config", app: "/any", site: `
	rewrite /old/push /push
	rewrite /old/config /config` + comet + `
	respond "app"`},
		{name: "uri strip_prefix leads to it", push: "/api/push", config: "/api/config", app: "/any", site: `
	uri strip_prefix /api` + comet + `
	respond "app"`},
		{name: "handle_path leads to it", push: "/api/push", config: "/api/config", app: "/any", site: `
	handle_path /api/* {` + comet + `
	}
	handle {
		respond "app"
	}`},
		{name: "handle_path does not hide it", push: "/api/push", config: "/api/config", app: "/any", site: `
	handle_path /api/* {
		comet {
			publish /api/config
			hold /api/push
		}
	}
	respond "app"`},
		{name: "a catch-all handle does not swallow it", push: "/push", config: "/config", app: "/any", site: comet + `
	handle {
		respond "app"
	}`},
		{name: "several handles do not swallow it", push: "/push", config: "/config", app: "/any", site: comet + `
	handle /p* {
		respond "wrong"
	}
	handle_path /c* {
		respond "wrong"
	}
	handle {
		respond "app"
	}`},
		{name: "respond does not swallow it", push: "/push", config: "/config", app: "/any", site: `
	respond "app"` + comet},
		{name: "it stands in route", push: "/push", config: "/config", app: "/any", site: `
	route {` + comet + `
		respond "app"
	}`},
		{name: "it stands in handle", push: "/push", config: "/config", app: "/any", site: `
	handle {` + comet + `
		respond "app"
	}`},
		{name: "redir of other paths does not matter", push: "/push", config: "/config", app: "/any", site: comet + `
	redir /gone /any
	respond "app"`},
		{name: "named matchers", push: "/wait", config: "/say", app: "/push", site: `
	@waits {
		path /wait
		method GET HEAD
	}
	@says path /say
	comet {
		publish @says
		hold @waits
	}
	respond "app"`},
		{name: "path matchers with a star", push: "/push/anything", config: "/config/x", app: "/any", site: `
	comet {
		publish /config/*
		hold /push/*
	}
	respond "app"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := comettest.Start(t, site(c.site), comettest.Env("NAME", c.name))
			root := filepath.Join(s.Dir, "site")
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "index.txt"), []byte("app"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.HoldURL, s.PublishURL = s.URL(c.push), s.URL(c.config)
			comettest.Publish(t, s, "id=1")
			wantText(t, comettest.Push(t, s, "id=0"), "YES\n")
			held := comettest.Hold(t, s, "id=1")
			comettest.Publish(t, s, "id=2")
			wantText(t, comettest.Await(t, held), "YES\n")
			wantText(t, s.Do(t, request{URL: c.app}), "app")
		})
	}
}

func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
http://a.test:{$HTTP}, http://b.test:{$HTTP} {
	comet {
		publish /config
		hold /push
	}
	respond "ab"
}
http://c.test:{$HTTP} {
	respond "c"
}
http://d.test:{$HTTP} {
	comet {
		hold /push
	}
	respond "d"
}`)
	for i, host := range []string{"a.test", "b.test"} {
		a := s.Do(t, request{URL: "/config", Host: host, Type: comettest.FormType, Body: fmt.Sprintf("id=%d", i)})
		wantText(t, a, "OK\n")
		wantText(t, s.Do(t, request{URL: "/push?format=text&id=-1", Host: host}), "YES\n")
	}
	wantText(t, s.Do(t, request{URL: "/push", Host: "c.test"}), "c")
	wantText(t, s.Do(t, request{URL: "/push?id=0", Host: "d.test"}), "YES\n")
	wantText(t, s.Do(t, request{URL: "/config", Host: "d.test"}), "d")
}

// The Caddyfiles that people have in front of their applications, with Comet's block
// put into them: /push and /config are Comet's, the rest is the application's.
func TestTheCaddyfilesOfApplications(t *testing.T) {
	t.Parallel()
	php, upstream := startApplications(t)
	const comet = `
	comet {
		publish /config
		hold /push
	}
`
	// What an application is to answer, by method and URL.
	spa := map[string]string{"GET /": "index", "GET /deep/link?x=1": "index", "GET /app.js": "js"}
	phpApp := map[string]string{
		"GET /": "php index.php /", "GET /deep/link?x=1": "php index.php /deep/link?x=1",
		"GET /info.php?x=1": "php info.php /info.php?x=1", "POST /save?x=1": "php index.php /save?x=1 body",
		"GET /app.js": "js", "POST /pushy": "php index.php /pushy body", "GET /config.php": "php config.php /config.php",
	}
	proxied := map[string]string{
		"GET /": "app /", "GET /deep/link?x=1": "app /deep/link?x=1", "POST /save": "app /save body",
		"GET /pushy": "app /pushy", "PUT /configure": "app /configure body",
	}
	for _, c := range []struct {
		name, site string // with the lines of one site, or with sites of their own
		hosts      []string
		push       string // default: /push
		config     string
		app        map[string]string
	}{
		{name: "a single-page application", app: spa, site: comet + `
	root {$DIR}/public
	encode
	try_files {path} /index.html
	file_server`},
		{name: "a single-page application with a rewrite of what is no file", app: spa, site: comet + `
	root {$DIR}/public
	@missing not file {path} {path}/
	rewrite @missing /index.html
	file_server`},
		{name: "a single-page application with an API", site: comet + `
	encode
	handle /api/* {
		reverse_proxy {$UPSTREAM}
	}
	handle {
		root {$DIR}/public
		try_files {path} /index.html
		file_server
	}`, app: map[string]string{
			"GET /": "index", "GET /deep/link": "index", "GET /app.js": "js", "POST /api/push": "app /api/push body", "GET /api/config": "app /api/config",
		}},
		{name: "an API without its prefix, and comet in the API's block", push: "/api/push", config: "/api/config", site: `
	handle_path /api/* {` + comet + `
		reverse_proxy {$UPSTREAM}
	}
	handle {
		root {$DIR}/public
		try_files {path} /index.html
		file_server
	}`, app: map[string]string{"GET /": "index", "GET /push": "index", "GET /config": "index", "POST /api/save": "app /save body"}},
		{name: "an application behind reverse_proxy", app: proxied, site: comet + `
	encode
	reverse_proxy {$UPSTREAM}`},
		{name: "reverse_proxy with error pages of the site", app: proxied, site: comet + `
	reverse_proxy {$UPSTREAM}
	handle_errors {
		respond "error page"
	}`},
		{name: "php_fastcgi", app: phpApp, site: comet + `
	root {$DIR}/public
	encode
	php_fastcgi {$FPM}
	file_server`},
		{name: "php_fastcgi in a catch-all", app: phpApp, site: comet + `
	root {$DIR}/public
	handle /assets/* {
		file_server
	}
	handle {
		php_fastcgi {$FPM}
		file_server
	}`},
		{name: "php_fastcgi, written out", app: phpApp, site: comet + `
	root {$DIR}/public
	route {
		@canonicalPath {
			file {path}/index.php
			not path */
		}
		redir @canonicalPath {http.request.orig_uri.path}/ 308
		@indexFiles file {
			try_files {path} {path}/index.php index.php
			try_policy first_exist_fallback
			split_path .php
		}
		rewrite @indexFiles {file_match.relative}
		@phpFiles path *.php
		reverse_proxy @phpFiles {$FPM} {
			transport fastcgi {
				split .php
			}
		}
	}
	file_server`},
		{name: "php_server, written out, with comet behind its rewrites", app: phpApp, site: `
	root {$DIR}/public
	encode zstd gzip
	route {
		@canonicalPath {
			file {path}/index.php
			not path */
		}
		redir @canonicalPath {http.request.orig_uri.path}/ 308
		@indexFiles file {
			try_files {path} {path}/index.php index.php
			split_path .php
		}
		rewrite @indexFiles {file_match.relative}` + comet + `
		@phpFiles path *.php
		reverse_proxy @phpFiles {$FPM} {
			transport fastcgi {
				split .php
			}
		}
		file_server
	}`},
		{name: "a front controller by try_files", app: map[string]string{
			"GET /": "php index.php /", "POST /save?x=1": "php index.php /save?x=1 body", "GET /app.js": "js",
		}, site: comet + `
	root {$DIR}/public
	@hidden path /.* /vendor/*
	respond @hidden 404
	try_files {path} /index.php?{query}
	php_fastcgi {$FPM}
	file_server`},
		{name: "an application below a path", push: "/app/push", config: "/app/config", app: map[string]string{
			"GET /app/": "php index.php /app/", "GET /app/deep/link": "php index.php /app/deep/link", "GET /": "landing", "GET /push": "landing",
		}, site: `
	redir /app /app/
	handle_path /app/* {` + comet + `
		root {$DIR}/public
		php_fastcgi {$FPM}
		file_server
	}
	handle {
		respond "landing"
	}`},
		{name: "comet in route, before the catch-all", app: proxied, site: `
	route {` + comet + `
		reverse_proxy {$UPSTREAM}
	}`},
		{name: "comet in a handle of its paths", app: proxied, site: `
	@comet path /push /config
	handle @comet {` + comet + `
	}
	handle {
		reverse_proxy {$UPSTREAM}
	}`},
		{name: "a snippet", app: proxied, site: `
	import live
	reverse_proxy {$UPSTREAM}`},
		{name: "a named route", app: proxied, site: `
	invoke comet-routes
	reverse_proxy {$UPSTREAM}`},
		{name: "a named route in route and handle", app: proxied, site: `
	route {
		invoke comet-routes
		handle {
			reverse_proxy {$UPSTREAM}
		}
	}`},
		{name: "hosts of one site", app: proxied, hosts: []string{"a.test", "b.test", "www.b.test"}, site: `
http://a.test:{$HTTP}, http://*.test:{$HTTP}, http://www.b.test:{$HTTP} {` + comet + `
	reverse_proxy {$UPSTREAM}
}`},
		{name: "hosts by matchers", app: proxied, hosts: []string{"a.app.test", "b.app.test"}, site: `
http://*.app.test:{$HTTP} {
	@a host a.app.test
	handle @a {` + comet + `
		reverse_proxy {$UPSTREAM}
	}
	handle {` + comet + `
		reverse_proxy {$UPSTREAM}
	}
}`},
		{name: "sites that invoke one named route", app: proxied, hosts: []string{"a.test", "b.test"}, site: `
http://a.test:{$HTTP} {
	invoke comet-routes
	reverse_proxy {$UPSTREAM}
}
http://b.test:{$HTTP} {
	invoke comet-routes
	reverse_proxy {$UPSTREAM}
}`},
		{name: "a site for any host", app: proxied, hosts: []string{"127.0.0.1", "localhost"}, site: `
http://:{$HTTP} {` + comet + `
	reverse_proxy {$UPSTREAM}
}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := comettest.Global("") + `
(live) {` + comet + `}
&(comet-routes) {` + comet + `}
http://127.0.0.1:{$DOOR} {
	comet {
		publish /config
	}
}
`
			if c.hosts == nil {
				c.hosts = []string{""}
				c.site = "http://127.0.0.1:{$HTTP} {" + c.site + "\n}\n"
			}
			s := comettest.Start(t, config+c.site, comettest.Env("FPM", php), comettest.Env("UPSTREAM", upstream))
			s.PublishURL = s.DoorURL("/config")
			writePublic(t, s.Dir)
			push, publish := cmp.Or(c.push, "/push"), cmp.Or(c.config, "/config")
			for i, host := range c.hosts {
				t.Run(cmp.Or(host, "as it is"), func(t *testing.T) {
					id := 10 * i
					say := func() {
						t.Helper()
						id++
						a := s.Do(t, request{URL: publish, Host: host, Type: comettest.FormType, Body: fmt.Sprintf("id=%d", id)})
						wantText(t, a, "OK\n")
					}
					say()
					wantText(t, s.Do(t, request{URL: publish + "?field=id", Host: host}), fmt.Sprintf("%d\n", id))
					wantText(t, s.Do(t, request{URL: push + "?id=-1", Host: host}), "YES\n")
					held := comettest.HoldRequest(t, s, request{URL: fmt.Sprintf("%s?format=json&id=%d", push, id), Host: host})
					say()
					wantTexts(t, comettest.Await(t, held), fmt.Sprintf("id=%d", id))
					a := s.Do(t, request{URL: push + "?field=hidden", Host: host})
					wantStatus(t, a, 403)
					if !strings.Contains(a.Body, "hidden") {
						t.Errorf("a field that is not offered: got %s; want Comet's own line", a)
					}

					for ask, want := range c.app {
						method, url, _ := strings.Cut(ask, " ")
						r := request{Method: method, URL: url, Host: host}
						if method != "GET" {
							r.Type, r.Body = "text/plain", "body"
						}
						if a := s.Do(t, r); a.Status != 200 || a.Body != want {
							t.Errorf("%s: got %d %q; want %q", ask, a.Status, a.Body, want)
						}
					}
				})
			}
		})
	}
}

// startApplications returns the addresses of two applications, one for FastCGI and one
// for HTTP. Each answers with what it was asked.
func startApplications(t *testing.T) (php, upstream string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	answer := func(w http.ResponseWriter, r *http.Request, who, uri string) {
		body, _ := io.ReadAll(r.Body) // cut off: the answer shows it
		fmt.Fprint(w, strings.TrimSpace(who+" "+uri+" "+string(body)))
	}
	go func() {
		_ = fcgi.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // until it is closed
			env := fcgi.ProcessEnv(r)
			answer(w, r, "php "+filepath.Base(env["SCRIPT_FILENAME"]), r.URL.RequestURI())
		}))
	}()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, "app", r.RequestURI)
	}))
	t.Cleanup(server.Close)
	return listener.Addr().String(), strings.TrimPrefix(server.URL, "http://")
}

// writePublic makes the public folder of an application in dir.
func writePublic(t *testing.T, dir string) {
	t.Helper()
	public := filepath.Join(dir, "public")
	if err := os.Mkdir(public, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"index.html": "index", "app.js": "js", "index.php": "<?php", "info.php": "<?php", "config.php": "<?php",
	} {
		if err := os.WriteFile(filepath.Join(public, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAuthenticationAndHeadersApply(t *testing.T) {
	t.Parallel()
	// The password is "secret".
	s := comettest.Start(t, site(`
	header X-Site yes
	header -Server
	encode {
		minimum_length 1
	}
	comet {
		publish /config
		hold /push {
			field id **
		}
		hold /mine {
			field inbox/{http.auth.user.id}
		}
	}
	@private path /mine*
	basic_auth @private {
		ann $2a$04$ORIHEHJuiqRVZSqS2raEB.mJJufH2xK2uk16.8NdYfhmvKKJfyZLC
	}
	respond "app"`))

	t.Run("header applies to it", func(t *testing.T) {
		comettest.Publish(t, s, "id=1")
		for _, r := range []request{{URL: "/push?id=0"}, {URL: "/push?id=1&wait=0"}, {URL: "/config?field=id"}, {URL: "/config"}} {
			a := s.Do(t, r)
			if a.Header.Get("X-Site") != "yes" || a.Header.Get("Server") != "" {
				t.Errorf("%s: got %s; want X-Site and no Server", r.URL, a)
			}
		}
	})
	t.Run("encode does not", func(t *testing.T) {
		comettest.PublishAs(t, s, "field=id", "text/plain", strings.Repeat("x", 10_000))
		a := s.Do(t, request{URL: "/push?format=json&id=0", Header: map[string]string{"Accept-Encoding": "gzip"}})
		wantStatus(t, a, 200)
		if got := a.Header.Get("Content-Encoding"); got != "" {
			t.Errorf("Content-Encoding is %q", got)
		}
	})
	t.Run("authentication applies to it", func(t *testing.T) {
		wantStatus(t, s.Do(t, request{URL: "/mine?wait=0"}), http.StatusUnauthorized)
		ann := map[string]string{"Authorization": "Basic YW5uOnNlY3JldA=="}
		wantFields(t, s.Do(t, request{URL: "/mine?wait=0", Header: ann}), "inbox/ann")
		wantStatus(t, s.Do(t, request{URL: "/mine?wait=0&field=inbox/bob", Header: ann}), http.StatusForbidden)
	})
}

func TestTheDirectiveExpandsToRoutesOfItsHandlers(t *testing.T) {
	t.Parallel()
	r := comettest.Adapt(t, comettest.Global(`comet {
		history 10 1h
	}
	comet second {
		max_held 5
	}`)+`
http://127.0.0.1:{$HTTP} {
	comet
	respond "app"
}`)
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	var config struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &config); err != nil {
		t.Fatal(err)
	}
	if config.Apps["comet"] == nil {
		t.Error("there is no app comet")
	}
	for _, handler := range []string{"comet_hold", "comet_publish"} {
		if !strings.Contains(string(config.Apps["http"]), `"`+handler+`"`) {
			t.Errorf("there is no handler %s", handler)
		}
	}
}

func TestTheWholeExampleIsAdapted(t *testing.T) {
	t.Parallel()
	r := comettest.Validate(t, comettest.Global(`comet {                          # optional. comet NAME { ... } may repeat
		history 1000 1h
		field_idle 30d
		max_fields 1M
		max_memory 256MiB
		max_held 1M
		max_held_per_client 20k
		drain 4s
	}
	comet NAME {
	}`)+`
http://127.0.0.1:2080 {
	comet {
		publish /config
	}
}
http://app.example.com {
	comet {
		store NAME
		publish /config {
			allow 10.1.0.0/16 private_ranges
			token {env.COMET_TOKEN}
			max_body 1MiB
		}
		hold /push {
			field id news board/*
			timeout 90s-110s
			formats text json
			retry 1s-3s
		}
	}
	respond "app"
}`)
	// The token is not set, which may be an error of its own.
	if r.Code != 0 && !strings.Contains(r.Stderr, "token") {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
}

func TestMistakesNameFileAndLine(t *testing.T) {
	t.Parallel()
	// Each with its mistake on the line that has @@ at its end.
	for name, caddyfile := range map[string]string{
		"an unknown option of the store":   "{\n comet {\n  nonsense 1 @@\n }\n}\n:80 {\n comet\n}\n",
		"an unknown option of a site":      ":80 {\n comet {\n  nonsense @@\n }\n}\n",
		"an unknown option of publish":     ":80 {\n comet {\n  publish /config {\n   nonsense @@\n  }\n }\n}\n",
		"an unknown option of hold":        ":80 {\n comet {\n  hold /push {\n   nonsense @@\n  }\n }\n}\n",
		"two publish on one path":          ":80 {\n comet {\n  publish /config\n  publish /config @@\n }\n}\n",
		"a matcher on the directive":       ":80 {\n comet /push @@\n}\n",
		"a named matcher on the directive": ":80 {\n @m path /x\n comet @m { @@\n  publish /config\n }\n}\n",
		"a star on the directive":          ":80 {\n comet * @@\n}\n",
		"publish without a matcher":        ":80 {\n comet {\n  publish @@\n }\n}\n",
		"hold without a matcher":           ":80 {\n comet {\n  hold @@\n }\n}\n",
		"an unknown matcher":               ":80 {\n comet {\n  hold @nobody @@\n }\n}\n",
		"a bad count":                      "{\n comet {\n  max_fields many @@\n }\n}\n:80 {\n comet\n}\n",
		"a negative count":                 "{\n comet {\n  max_held -1 @@\n }\n}\n:80 {\n comet\n}\n",
		"a bad size":                       "{\n comet {\n  max_memory lots @@\n }\n}\n:80 {\n comet\n}\n",
		"a bad history":                    "{\n comet {\n  history much @@\n }\n}\n:80 {\n comet\n}\n",
		"a bad age":                        "{\n comet {\n  history 10 long @@\n }\n}\n:80 {\n comet\n}\n",
		"a bad duration":                   "{\n comet {\n  drain soon @@\n }\n}\n:80 {\n comet\n}\n",
		"a negative duration":              "{\n comet {\n  drain -1s @@\n }\n}\n:80 {\n comet\n}\n",
		"a bad idle time":                  "{\n comet {\n  field_idle 30 @@\n }\n}\n:80 {\n comet\n}\n",
		"a bad count a client":             "{\n comet {\n  max_held_per_client x @@\n }\n}\n:80 {\n comet\n}\n",
		"a bad body size":                  ":80 {\n comet {\n  publish /config {\n   max_body big @@\n  }\n }\n}\n",
		"a bad address":                    ":80 {\n comet {\n  publish /config {\n   allow 10.1.0.0/99 @@\n  }\n }\n}\n",
		"a bad word for an address":        ":80 {\n comet {\n  publish /config {\n   allow everybody @@\n  }\n }\n}\n",
		"no address":                       ":80 {\n comet {\n  publish /config {\n   allow @@\n  }\n }\n}\n",
		"no token":                         ":80 {\n comet {\n  publish /config {\n   token @@\n  }\n }\n}\n",
		"an empty token":                   ":80 {\n comet {\n  publish /config {\n   token \"\" @@\n  }\n }\n}\n",
		"a bad timeout":                    ":80 {\n comet {\n  hold /push {\n   timeout never @@\n  }\n }\n}\n",
		"a timeout range turned round":     ":80 {\n comet {\n  hold /push {\n   timeout 110s-90s @@\n  }\n }\n}\n",
		"half a timeout range":             ":80 {\n comet {\n  hold /push {\n   timeout 90s- @@\n  }\n }\n}\n",
		"a bad retry":                      ":80 {\n comet {\n  hold /push {\n   retry 3s-1s @@\n  }\n }\n}\n",
		"an unknown format":                ":80 {\n comet {\n  hold /push {\n   formats text nonsense @@\n  }\n }\n}\n",
		"no format":                        ":80 {\n comet {\n  hold /push {\n   formats @@\n  }\n }\n}\n",
		"no field":                         ":80 {\n comet {\n  hold /push {\n   field @@\n  }\n }\n}\n",
		"an empty field":                   ":80 {\n comet {\n  hold /push {\n   field \"\" @@\n  }\n }\n}\n",
		"a field that cannot be":           ":80 {\n comet {\n  hold /push {\n   field a\x01b @@\n  }\n }\n}\n",
		"a bad glob":                       ":80 {\n comet {\n  hold /push {\n   field a***b @@\n  }\n }\n}\n",
		"too many arguments":               ":80 {\n comet {\n  publish /config /other @@\n }\n}\n",
		"too many values":                  "{\n comet {\n  max_held 5 6 @@\n }\n}\n:80 {\n comet\n}\n",
	} {
		t.Run(name+" is an error that names file and line", func(t *testing.T) {
			before, _, found := strings.Cut(caddyfile, " @@")
			if !found {
				t.Fatal("no line is marked")
			}
			line := strings.Count(before, "\n") + 1
			r := comettest.Adapt(t, strings.Replace(caddyfile, " @@", "", 1))
			if r.Code == 0 {
				t.Fatalf("it is taken: %s", r.Stdout)
			}
			if want := fmt.Sprintf("Caddyfile:%d", line); !strings.Contains(r.Stderr, want) {
				t.Errorf("the error does not name %s: %s", want, lastLine(r.Stderr))
			}
		})
	}
}

func TestAMatcherOnTheDirectiveIsToldWhereItGoes(t *testing.T) {
	t.Parallel()
	r := comettest.Adapt(t, ":80 {\n\tcomet /push\n}\n")
	if !strings.Contains(r.Stderr, "hold") && !strings.Contains(r.Stderr, "publish") {
		t.Errorf("the error does not say where a matcher goes: %s", lastLine(r.Stderr))
	}
}

func TestAStoreThatNobodyDescribedIsMadeOrRefusedWithItsName(t *testing.T) {
	t.Parallel()
	r := comettest.Validate(t, site("comet {\n\tstore elsewhere\n\tpublish /config\n}"))
	if r.Code != 0 && !strings.Contains(r.Stderr, "elsewhere") {
		t.Errorf("the error does not name the store: %s", lastLine(r.Stderr))
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}
