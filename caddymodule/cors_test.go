package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestOriginsStandForWhatBrowsersSend(t *testing.T) {
	for _, test := range []struct {
		origin   string
		matches  string
		rejected string
	}{
		{
			"https://app.example.com",
			"https://app.example.com HTTPS://App.Example.COM",
			"http://app.example.com https://app.example.com:8443 https://app.example.com.evil.example https://xapp.example.com https://example.com null",
		},
		{"HTTPS://App.Example.com:443", "https://app.example.com", "https://app.example.com:443"},
		{"http://app.example.com:0080", "http://app.example.com", ""},
		{"http://app.example.com:443", "http://app.example.com:443", "http://app.example.com"},
		{"http://localhost:3000", "http://localhost:3000", "http://localhost http://localhost:30000 https://localhost:3000"},
		{
			"https://*.example.com",
			"https://a.example.com https://a.b.example.com https://A.Example.com https://my_app.example.com",
			"https://example.com https://.example.com https://aexample.com http://a.example.com https://a.example.com:8443 " +
				"https://evil.example/.example.com https://evil.example:1.example.com https://a@b.example.com https://a.example.com.evil.example",
		},
		{"https://*.example.com:8443", "https://a.example.com:8443", "https://a.example.com https://example.com:8443"},
		{"https://bücher.example", "https://xn--bcher-kva.example", "https://bücher.example"},
		{"https://*.BÜCHER.example", "https://a.xn--bcher-kva.example", ""},
		{"http://127.0.0.1:8080", "http://127.0.0.1:8080", "http://127.0.0.1"},
		{"http://[2001:DB8:0::1]:8080", "http://[2001:db8::1]:8080", "http://[2001:db8::1]"},
		{"chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop", "chrome-extension://other"},
		{"capacitor://localhost", "capacitor://localhost", "http://localhost"},
		{"*", "https://a.example null http://[::1]:1", ""},
	} {
		c := CORS{Origins: []string{test.origin}}
		if err := c.provision(); err != nil {
			t.Errorf("%s: %v", test.origin, err)
			continue
		}
		for origin := range strings.FieldsSeq(test.matches) {
			if !c.allows(origin) {
				t.Errorf("%s does not allow %s", test.origin, origin)
			}
		}
		for origin := range strings.FieldsSeq(test.rejected) {
			if c.allows(origin) {
				t.Errorf("%s allows %s", test.origin, origin)
			}
		}
	}
}

func TestWhatIsNoOriginIsRefusedWithWhatToWrite(t *testing.T) {
	for origin, advice := range map[string]string{
		"app.example.com":                "write https://app.example.com",
		"*.example.com":                  "write https://*.example.com",
		"localhost:3000":                 "write https://localhost:3000",
		"https://app.example.com/":       "write https://app.example.com",
		"https://app.example.com/a/b?c":  "write https://app.example.com",
		"https://*.example.com:8443/":    "write https://*.example.com:8443",
		"null":                           "only *",
		"wss://app.example.com":          "write https://",
		"https://app.example.com:65536":  "more than 65535",
		"":                               "as in",
		"https://":                       "as in",
		"https://*":                      "as in",
		"https://*example.com":           "as in",
		"https://a.*.example.com":        "as in",
		"https://*.*.example.com":        "as in",
		"https://*.[::1]":                "as in",
		"https://[::1":                   "as in",
		"https://[1:2]":                  "as in",
		"https://ann@app.example.com":    "as in",
		"https://app.example.com:":       "as in",
		"https://app.example.com:a":      "as in",
		"https://app.example.com?a":      "as in",
		"https://app<.example.com":       "as in",
		"https://xn--\u00fc.example.com": "as in",
		"{env.ORIGIN}":                   "as in",
	} {
		if _, err := parseOrigin(origin); err == nil || !strings.Contains(err.Error(), advice) {
			t.Errorf("%q: the error is %v; want %q", origin, err, advice)
		}
	}
}

func TestCORSOfJSONIsChecked(t *testing.T) {
	for name, c := range map[string]CORS{
		"no origins":            {},
		"a bad origin":          {Origins: []string{"app.example.com"}},
		"an origin twice":       {Origins: []string{"https://a.example", "https://A.example:443"}},
		"credentials and *":     {Origins: []string{"https://a.example", "*"}, Credentials: true},
		"a negative max_age":    {Origins: []string{"*"}, MaxAge: -1},
		"an empty origin":       {Origins: []string{""}},
		"an origin with spaces": {Origins: []string{"https://a.example https://b.example"}},
	} {
		if err := c.provision(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// The whole of it is tested in cmd/comet; here is what is hard to see from outside.
func TestPreflightAnswersSayWhatTheRouteAllows(t *testing.T) {
	ask := func(c CORS, header map[string]string) http.Header {
		t.Helper()
		if err := c.provision(); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodOptions, "/push", nil)
		r.Header.Set("Origin", "https://a.example")
		r.Header.Set("Access-Control-Request-Method", "GET")
		for name, value := range header {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		if err := (&Hold{CORS: &c}).answerPreflight(w, r); err != nil || w.Code != http.StatusNoContent {
			t.Errorf("got %d, %v", w.Code, err)
		}
		return w.Header()
	}
	private := map[string]string{"Access-Control-Request-Private-Network": "true"}
	listed := []string{"https://a.example"}
	for _, test := range []struct {
		cors   CORS
		header map[string]string
		name   string
		want   string
	}{
		{CORS{Origins: listed}, nil, "Access-Control-Max-Age", "7200"},
		{CORS{Origins: listed, MaxAge: caddy.Duration(1)}, nil, "Access-Control-Max-Age", "1"},
		{CORS{Origins: listed}, private, "Access-Control-Allow-Private-Network", ""},
		{CORS{Origins: listed, PrivateNetwork: true}, nil, "Access-Control-Allow-Private-Network", ""},
		{CORS{Origins: listed, PrivateNetwork: true}, private, "Access-Control-Allow-Private-Network", "true"},
		{CORS{Origins: listed}, nil, "Access-Control-Expose-Headers", ""},
		{CORS{Origins: listed}, nil, "Access-Control-Allow-Credentials", ""},
		{CORS{Origins: listed, Credentials: true}, nil, "Access-Control-Allow-Credentials", "true"},
		{CORS{Origins: listed}, nil, "Vary", "Origin"},
		{CORS{Origins: []string{"*", "https://a.example"}}, nil, "Access-Control-Allow-Origin", "*"},
		{CORS{Origins: []string{"*"}}, nil, "Vary", ""},
	} {
		if got := ask(test.cors, test.header).Get(test.name); got != test.want {
			t.Errorf("%+v, asked with %v: %s is %q; want %q", test.cors, test.header, test.name, got, test.want)
		}
	}
}
