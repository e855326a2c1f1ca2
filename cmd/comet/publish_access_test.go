package main_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// forwarding are the headers that say that a request came through a proxy.
var forwarding = []string{
	"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Anything",
	"X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP",
	"CF-Connecting-IP", "CF-Ray", "Fastly-Client-IP",
}

// publishAs posts field=value in the form of a backend, with headers of its own.
func publishAs(t *testing.T, s *comettest.Server, path, field string, header map[string]string) comettest.Answer {
	t.Helper()
	return s.Do(t, request{URL: path, Type: comettest.FormType, Body: field + "=1", Header: header})
}

// wantRefused checks that a request was refused with status and left a log line.
func wantRefused(t *testing.T, s *comettest.Server, status int, do func() comettest.Answer) {
	t.Helper()
	before := len(s.Logs())
	a := do()
	wantStatus(t, a, status)
	if a.Status == status {
		s.WaitLogFrom(t, before, `"logger":"http.handlers.comet`)
	}
}

func TestOnlyThisMachinePublishes(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
:{$HTTP} {
	comet {
		publish /config
		hold /push {
			field id **
		}
	}
}`)

	t.Run("a loopback peer without forwarding headers publishes", func(t *testing.T) {
		wantText(t, publishAs(t, s, "/config", "mine", nil), "OK\n")
		wantValue(t, s, "mine", "1")
	})

	t.Run("a request with a forwarding header is refused and logged", func(t *testing.T) {
		for _, name := range forwarding {
			for _, value := range []string{"127.0.0.1", "10.1.2.3", "x"} {
				wantRefused(t, s, 403, func() comettest.Answer {
					return publishAs(t, s, "/config", "forwarded", map[string]string{name: value})
				})
			}
		}
		wantUnset(t, s, "forwarded")
	})

	t.Run("a forwarding header is one when it is empty", func(t *testing.T) {
		conn := s.RawConn(t)
		fmt.Fprintf(conn, "POST /config?field=forwarded HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For:\r\nContent-Length: 1\r\n\r\nx")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != 403 {
			t.Errorf("got %d; want 403", res.StatusCode)
		}
	})

	t.Run("a request of a page is refused and logged", func(t *testing.T) {
		for _, header := range []map[string]string{
			{"Origin": "https://evil.example"},
			{"Origin": "http://127.0.0.1"},
			{"Origin": s.URL("")},
			{"Origin": "null"},
			{"Sec-Fetch-Site": "cross-site"},
			{"Sec-Fetch-Site": "same-origin"},
			{"Sec-Fetch-Site": "same-site"},
		} {
			wantRefused(t, s, 403, func() comettest.Answer {
				return publishAs(t, s, "/config", "paged", header)
			})
			wantStatus(t, s.Do(t, request{URL: "/config?field=mine", Header: header}), 403)
		}
		wantUnset(t, s, "paged")
		wantStatus(t, publishAs(t, s, "/config", "typed-in", map[string]string{"Sec-Fetch-Site": "none"}), 200)
	})

	t.Run("a rebound host name is refused and logged", func(t *testing.T) {
		for _, host := range []string{"evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "mylocalhost"} {
			wantRefused(t, s, 403, func() comettest.Answer {
				return s.Do(t, request{URL: "/config", Host: host, Type: comettest.FormType, Body: "rebound=1"})
			})
		}
		wantUnset(t, s, "rebound")
	})

	t.Run("localhost and IP addresses are good host names", func(t *testing.T) {
		for _, host := range []string{"localhost", "LocalHost", "localhost:8080", "127.0.0.1", "127.0.0.1:99", "[::1]", "[::1]:99", "192.0.2.7"} {
			a := s.Do(t, request{URL: "/config", Host: host, Type: comettest.FormType, Body: "hosted=1"})
			if a.Status != 200 {
				t.Errorf("Host %s: got %s; want 200", host, a)
			}
		}
	})

	t.Run("the reason of a refusal is not told to the caller", func(t *testing.T) {
		a := publishAs(t, s, "/config", "x", map[string]string{"X-Forwarded-For": "10.0.0.1"})
		b := publishAs(t, s, "/config", "x", map[string]string{"Origin": "https://evil.example"})
		c := s.Do(t, request{URL: "/config", Host: "evil.example", Type: comettest.FormType, Body: "x=1"})
		if a.Body != b.Body || b.Body != c.Body {
			t.Errorf("refusals differ: %q, %q, %q", a.Body, b.Body, c.Body)
		}
	})

	t.Run("every method is refused alike", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
			wantStatus(t, s.Do(t, request{Method: method, URL: "/config?field=mine", Header: map[string]string{"Via": "1.1 x"}}), 403)
		}
		wantValue(t, s, "mine", "1")
	})

	t.Run("another address is refused and logged", func(t *testing.T) {
		address := otherAddress(t)
		wantRefused(t, s, 403, func() comettest.Answer {
			return s.Do(t, request{
				URL:  fmt.Sprintf("http://%s/config", net.JoinHostPort(address, fmt.Sprint(s.Port("HTTP")))),
				Type: comettest.FormType, Body: "far=1",
			})
		})
		wantUnset(t, s, "far")
	})
}

// otherAddress returns an address of this machine that is not a loopback one.
func otherAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Skipf("the addresses of this machine cannot be listed: %v", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback ones")
	return ""
}

func TestThisMachineIsNotWhatTrustedProxiesSay(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`servers {
		trusted_proxies static private_ranges 127.0.0.0/8
		trusted_proxies_strict
	}`)+`
http://127.0.0.1:{$HTTP} {
	comet
}`)
	wantStatus(t, publishAs(t, s, "/config", "id", nil), 200)
	for _, from := range []string{"127.0.0.1", "::1", "127.0.0.1, 127.0.0.1"} {
		wantStatus(t, publishAs(t, s, "/config", "id", map[string]string{"X-Forwarded-For": from}), 403)
	}
}

func TestAnAddressFromTheProxyProtocolIsNotThisMachine(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`servers :{$HTTP} {
		listener_wrappers {
			proxy_protocol {
				allow 127.0.0.0/8
			}
		}
	}`)+`
http://127.0.0.1:{$HTTP} {
	comet
}
http://127.0.0.1:{$DOOR} {
	comet
}`)
	conn := s.RawConn(t)
	fmt.Fprintf(conn, "PROXY TCP4 127.0.0.1 127.0.0.1 40000 80\r\n"+
		"POST /config?field=id HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n7")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 403 {
		t.Errorf("got %d; want 403", res.StatusCode)
	}
	a := s.Do(t, request{URL: s.DoorURL("/config?field=id")})
	wantStatus(t, a, 400) // still not set
}

func TestAUnixSocketPublishesOnlyWhenAllowed(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
http://one.test:{$HTTP} {
	bind unix/{$DIR}/one.sock
	comet
}
http://localhost:{$HTTP2ND} {
	bind unix/{$DIR}/two.sock
	comet {
		publish /config {
			allow unix
		}
	}
}`)
	through := func(socket string) *http.Client {
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.Dir, socket))
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	one := s.Do(t, request{URL: "http://one.test/config", Type: comettest.FormType, Body: "id=1", Client: through("one.sock")})
	wantStatus(t, one, 403)
	two := s.Do(t, request{URL: "http://localhost/config", Type: comettest.FormType, Body: "id=1", Client: through("two.sock")})
	wantStatus(t, two, 200)
}

func TestNamesOfTheSiteAreGoodHosts(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
http://app.test:{$HTTP}, http://www.app.test:{$HTTP} {
	comet
}`)
	for _, host := range []string{"app.test", "www.app.test", "APP.test", "app.test:8080"} {
		a := s.Do(t, request{URL: "/config", Host: host, Type: comettest.FormType, Body: "id=1"})
		if a.Status != 200 || a.Body != "OK\n" {
			t.Errorf("Host %s: got %s; want 200", host, a)
		}
	}
}

func TestAllowGoesByThePeer(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /local {
			allow 127.0.0.1
		}
		publish /net {
			allow 127.0.0.0/8
		}
		publish /private {
			allow 192.0.2.1 private_ranges
		}
		publish /elsewhere {
			allow 10.1.0.0/16 2001:db8::/32
		}
		publish /config
		hold /push
	}`))

	t.Run("an address, a network and private_ranges name who may", func(t *testing.T) {
		for _, path := range []string{"/local", "/net", "/private"} {
			wantStatus(t, publishAs(t, s, path, "id", nil), 200)
		}
	})
	t.Run("a list takes the place of this machine", func(t *testing.T) {
		wantRefused(t, s, 403, func() comettest.Answer { return publishAs(t, s, "/elsewhere", "id", nil) })
	})
	t.Run("a forged header opens nothing", func(t *testing.T) {
		for _, name := range forwarding {
			a := publishAs(t, s, "/elsewhere", "id", map[string]string{name: "10.1.2.3"})
			if a.Status != 403 {
				t.Errorf("%s: got %s; want 403", name, a)
			}
		}
	})
	t.Run("pages and rebound names are refused as well", func(t *testing.T) {
		wantStatus(t, publishAs(t, s, "/local", "id", map[string]string{"Origin": "https://evil.example"}), 403)
		wantStatus(t, publishAs(t, s, "/local", "id", map[string]string{"Sec-Fetch-Site": "same-origin"}), 403)
	})
}

func TestAllowGoesByTheClientBehindTrustedProxies(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`servers {
		trusted_proxies static 127.0.0.0/8
		trusted_proxies_strict
	}`)+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config {
			allow 10.1.0.0/16
		}
	}
}`)
	for from, status := range map[string]int{
		"10.1.2.3":                   200,
		"203.0.113.9, 10.1.2.3":      200, // what the client said before the proxy's word
		"10.1.2.3, 203.0.113.9":      403, // forged, then the proxy's word
		"203.0.113.9":                403,
		"10.1.2.3, 8.8.8.8, 8.8.4.4": 403,
	} {
		a := publishAs(t, s, "/config", "id", map[string]string{"X-Forwarded-For": from})
		if a.Status != status {
			t.Errorf("X-Forwarded-For %s: got %s; want %d", from, a, status)
		}
	}
	wantStatus(t, publishAs(t, s, "/config", "id", nil), 403) // the proxy itself
}

func TestAllowBehindLaxTrustedProxiesIsAConfigurationError(t *testing.T) {
	t.Parallel()
	r := comettest.Validate(t, comettest.Global(`servers {
		trusted_proxies static private_ranges
	}`)+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config {
			allow 10.1.0.0/16
		}
	}
}`)
	if r.Code == 0 || !strings.Contains(r.Stderr, "trusted_proxies_strict") {
		t.Errorf("exit code %d: %s; want an error that names trusted_proxies_strict", r.Code, r.Stderr)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
:{$HTTP} {
	comet {
		publish /token {
			token {env.COMET_TEST_TOKEN} second-secret
		}
		publish /both {
			allow 10.1.0.0/16
			token first-secret
		}
		publish /here {
			allow 127.0.0.1
			token first-secret
		}
		publish /config
		hold /push {
			field id **
		}
	}
}`, comettest.Env("COMET_TEST_TOKEN", "first-secret"))
	bearer := func(token string) map[string]string { return map[string]string{"Authorization": "Bearer " + token} }

	t.Run("any of several tokens publishes", func(t *testing.T) {
		for _, token := range []string{"first-secret", "second-secret"} {
			wantText(t, publishAs(t, s, "/token", "any", bearer(token)), "OK\n")
		}
	})
	t.Run("a missing or wrong token is 401 with WWW-Authenticate, and logged", func(t *testing.T) {
		for _, header := range []map[string]string{
			nil, bearer("wrong"), bearer(""), bearer("first-secre"), bearer("first-secrets"), bearer("FIRST-SECRET"),
			bearer("first-secret second-secret"), bearer("{env.COMET_TEST_TOKEN}"),
			{"Authorization": "first-secret"},
			{"Authorization": "Basic first-secret"},
		} {
			wantRefused(t, s, 401, func() comettest.Answer {
				a := publishAs(t, s, "/token", "none", header)
				if !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("WWW-Authenticate is %q; want Bearer", a.Header.Get("WWW-Authenticate"))
				}
				return a
			})
		}
		wantUnset(t, s, "none")
	})
	t.Run("secrets are not logged", func(t *testing.T) {
		if strings.Contains(s.Logs(), "first-secret") {
			t.Error("the log has a token in it")
		}
	})
	t.Run("with a token and no allow it may come from anywhere", func(t *testing.T) {
		header := bearer("first-secret")
		header["X-Forwarded-For"] = "203.0.113.9"
		wantStatus(t, publishAs(t, s, "/token", "anywhere", header), 200)
		a := s.Do(t, request{URL: "/token", Host: "any.example", Type: comettest.FormType, Body: "anywhere=2", Header: header})
		wantStatus(t, a, 200)
	})
	t.Run("with a token a page may publish", func(t *testing.T) {
		header := bearer("first-secret")
		header["Origin"] = "https://app.example"
		header["Sec-Fetch-Site"] = "cross-site"
		wantStatus(t, publishAs(t, s, "/token", "page", header), 200)
	})
	t.Run("with both a token and allow both must be right", func(t *testing.T) {
		wantStatus(t, publishAs(t, s, "/both", "both", bearer("first-secret")), 403)
		wantStatus(t, publishAs(t, s, "/here", "both", bearer("wrong")), 401)
		wantStatus(t, publishAs(t, s, "/here", "both", bearer("first-secret")), 200)
	})
	t.Run("reading and deleting want the token too", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "DELETE", "PUT", "PATCH"} {
			wantStatus(t, s.Do(t, request{Method: method, URL: "/token?field=any"}), 401)
		}
		wantText(t, s.Do(t, request{URL: "/token?field=any", Header: bearer("second-secret")}), "1\n")
	})
	t.Run("refusals have a cursor and no-store, and problem+json when asked", func(t *testing.T) {
		a := publishAs(t, s, "/token", "none", map[string]string{"Accept": "application/json"})
		if a.Cursor() == "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("got %s; want Comet-Cursor and no-store", a)
		}
		if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("got %s; want application/problem+json", a)
		}
	})
}

// An empty token would be met by an empty Authorization header.
func TestATokenThatExpandsToNothingOpensNothing(t *testing.T) {
	t.Parallel()
	config := site(`
	comet {
		publish /config {
			token {env.NOT_SET_ANYWHERE}
		}
		hold /push
	}`)
	if r := comettest.Validate(t, config); r.Code != 0 {
		return // refusing to start is the better answer
	}
	s := comettest.Start(t, config)
	for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer {env.NOT_SET_ANYWHERE}"} {
		wantStatus(t, publishAs(t, s, "/config", "id", map[string]string{"Authorization": auth}), 401)
	}
}

func TestMaxBodyIsTheRoutes(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /config {
			max_body 2KiB
		}
		hold /push
	}`))
	wantStatus(t, s.Do(t, request{URL: "/config?field=id", Type: "text/plain", Body: strings.Repeat("x", 2048)}), 200)
	wantStatus(t, s.Do(t, request{URL: "/config?field=id", Type: "text/plain", Body: strings.Repeat("x", 2049)}), 413)
}

// What a site opens is what an operator must be able to read in one place.
func TestAtStartALogLineASiteSaysWhoMayPublishAndWhatIsHeld(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$DOOR} {
	comet {
		publish /door-path
	}
}
http://127.0.0.1:{$HTTP} {
	comet {
		publish /listed {
			allow 10.1.0.0/16
		}
		hold /held {
			field id board/*
		}
	}
}`)
	s.WaitLog(t, "/door-path")
	line := s.WaitLog(t, "/listed")
	for _, want := range []string{"10.1.0.0/16", "/held", "board/*"} {
		if !strings.Contains(line, want) {
			t.Errorf("the site's line says nothing of %s: %s", want, line)
		}
	}
	limits := 0
	for l := range strings.Lines(s.Logs()) {
		if strings.Contains(l, "max_fields") || strings.Contains(l, "max_memory") || strings.Contains(l, "max_held") {
			limits++
		}
	}
	if limits != 1 {
		t.Errorf("%d log lines tell the limits in force; want 1", limits)
	}
}
