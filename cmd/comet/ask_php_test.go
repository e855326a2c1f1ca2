//go:build unix

package main_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// sessions is an application with PHP sessions, which decides by /may-watch.php of
// docs/recipes.md, in front of which the Caddyfile of that page stands.
type sessions struct {
	*application
	stopPHP func()
}

// askedFor is for how long the tests let a yes hold.
const askedFor = 2 * time.Second

func startSessions(t *testing.T) *sessions {
	t.Helper()
	fpm := findPHP(t, "session")
	code := t.TempDir()
	for name, text := range map[string]string{
		"index.php":     `<?php`,
		"may-watch.php": readText(t, recipe(t, "may-watch.php")),
		"login.php":     `<?php session_start(); $_SESSION['user'] = $_POST['user'];`,
		"logout.php":    `<?php session_start(); $_SESSION = []; session_destroy();`,
		"guest.php":     `<?php session_start(); header('Comet-Fields: visitor/' . session_id());`,
	} {
		if err := os.WriteFile(filepath.Join(code, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const host = "app.example.com"
	text := strings.NewReplacer("/srv/app", code, "for 10s", "for "+askedFor.String(), "comet {", `comet {
		hold /guest {
			field visitor/*
			ask /guest.php
		}`, host+" {", host+", https://localhost:{$HTTPS} {").Replace(readText(t, recipe(t, "ask.caddyfile")))
	s := &sessions{application: startApplicationBehind(t, code, host, text+door)}
	run(t, "chmod", "-R", "a+rX", s.dir)
	_, s.stopPHP = startPHP(t, fpm, s.dir, "php_admin_value[session.save_path] = "+s.give(t, "sessions"))
	return s
}

// login returns the cookie of a user who has logged in.
func (s *sessions) login(t *testing.T, name string) string {
	t.Helper()
	a := s.Do(t, request{URL: "/login.php", Type: comettest.FormType, Body: "user=" + name})
	wantStatus(t, a, 200)
	cookie, _, _ := strings.Cut(a.Header.Get("Set-Cookie"), ";")
	if cookie == "" {
		t.Fatalf("no session for %s: %s", name, a)
	}
	return cookie
}

// asked returns how often PHP was asked since the last call.
func (s *sessions) asked(t *testing.T) (n int) {
	t.Helper()
	file := filepath.Join(s.dir, "access.log")
	n = strings.Count(readText(t, file), "/may-watch.php")
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAPHPSessionDecidesWhoWatchesWhat(t *testing.T) {
	t.Parallel()
	s := startSessions(t)
	comettest.PublishAs(t, s.Server, "", comettest.FormType, "inbox/ada=0&inbox/bob=0")
	ada, bob := s.login(t, "ada"), s.login(t, "bob")
	if a := s.Do(t, request{URL: "/push"}); a.Status != 401 || a.Body != "Log in first.\n" || a.Header.Get("Set-Cookie") != "" {
		t.Errorf("without a session: %s", a)
	}
	if a := s.Do(t, request{URL: "/push?field=inbox/bob", Header: map[string]string{"Cookie": ada}}); a.Status != 403 {
		t.Errorf("the other's inbox: %s", a)
	}

	tell := func() {
		comettest.Publish(t, s.Server, "inbox/ada=for ada")
		comettest.Publish(t, s.Server, "inbox/bob=for bob")
	}
	poll := func(name, cookie string) <-chan comettest.Answer {
		return comettest.HoldOn(t, s.Server, request{URL: s.URL("/push?format=json&after=now"), Header: map[string]string{"Cookie": cookie}}, "inbox/"+name)
	}
	h2 := way{client: s.TLSClient(t, true), url: s.TLSURL}
	const stream = "/push?format=sse&after=now"
	hers, his := poll("ada", ada), poll("bob", bob)
	herEvents, hisEvents := openStream(t, plainWay(s.Server), stream, "Cookie: "+ada), openStream(t, h2, stream, "Cookie: "+bob)
	herSocket, hisSocket := openSocket(t, plainLink(t, s.Server), "/push?after=now", "Cookie: "+ada), openSocket(t, tlsLink(t, s.Server), "/push?after=now", "Cookie: "+bob)
	tell()
	wantTexts(t, comettest.Await(t, hers), "inbox/ada=for ada")
	wantTexts(t, comettest.Await(t, his), "inbox/bob=for bob")
	tell()
	for range 2 {
		herEvents.want(t, "for ada")
		hisEvents.want(t, "for bob")
		herSocket.want("for ada")
		hisSocket.want("for bob")
	}
}

func TestTwoHundredClientsOfASessionAreOnePHPRequest(t *testing.T) {
	t.Parallel()
	s := startSessions(t)
	comettest.Publish(t, s.Server, "inbox/ada=0")
	header := map[string]string{"Cookie": s.login(t, "ada")}
	const clients = 200
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 2*comettest.Deadline)
	defer cancel()
	start := time.Now()
	for range clients {
		all.Go(func() {
			if a := s.Try(ctx, request{URL: "/push?format=json&after=now", Header: header}); a.Err != nil || a.Status != 200 {
				t.Error(a)
			}
		})
	}
	comettest.WaitSubscribers(t, s.Server, "inbox/ada", clients)
	took := time.Since(start)
	comettest.Publish(t, s.Server, "inbox/ada=1")
	all.Wait()
	if asked, most := s.asked(t), 1+int(took/askedFor); asked > most || asked == 0 {
		t.Errorf("PHP was asked %d times in %s; want at most %d", asked, took, most)
	}
}

func TestWhoLogsOutIsRefusedInTime(t *testing.T) {
	t.Parallel()
	s := startSessions(t)
	comettest.Publish(t, s.Server, "inbox/ada=0")
	header := map[string]string{"Cookie": s.login(t, "ada")}
	poll := request{URL: "/push?wait=0", Header: header}
	wantStatus(t, s.Do(t, poll), 200)
	wantStatus(t, s.Do(t, request{URL: "/logout.php", Header: header}), 200)
	out := time.Now()
	time.Sleep(time.Until(out.Add(askedFor)))
	wantStatus(t, s.Do(t, poll), 401)
	// And who logs in again does not wait.
	wantStatus(t, s.Do(t, request{URL: "/login.php", Type: comettest.FormType, Body: "user=ada", Header: header}), 200)
	wantStatus(t, s.Do(t, poll), 200)

	s.stopPHP()
	time.Sleep(askedFor)
	if a := s.Do(t, poll); a.Status != 502 || a.Header.Get("Retry-After") == "" {
		t.Errorf("without PHP: %s", a)
	}
}

// A page of a static site may be the first that PHP hears of somebody.
func TestASessionThatPHPBeginsIsOfOneVisitor(t *testing.T) {
	t.Parallel()
	s := startSessions(t)
	var all sync.WaitGroup
	var known sync.Map
	for range 10 {
		all.Go(func() {
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Error(err)
				return
			}
			client := &http.Client{Transport: s.Client().Transport, Jar: jar}
			ctx, cancel := context.WithTimeout(t.Context(), comettest.Deadline)
			defer cancel()
			var fields []string
			for range 2 {
				a := s.Try(ctx, request{URL: "/guest?wait=0", Client: client})
				fields = append(fields, a.Header.Get("Comet-Field"))
				if a.Err != nil || a.Status != 200 {
					t.Error(a)
					return
				}
			}
			u, _ := url.Parse(s.URL("/"))
			cookies := jar.Cookies(u)
			if _, twice := known.LoadOrStore(fields[0], true); twice || len(cookies) != 1 || fields[0] != "visitor/"+cookies[0].Value || fields[1] != fields[0] {
				t.Errorf("a visitor with %v watches %q", cookies, fields)
			}
		})
	}
	all.Wait()
	if found, err := os.ReadDir(filepath.Join(s.dir, "sessions")); err != nil || len(found) != 10 {
		t.Errorf("PHP has %s", fmt.Sprint(found, err))
	}
}
