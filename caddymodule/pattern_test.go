package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestPatternsStandForTheNamesTheyShould(t *testing.T) {
	for _, test := range []struct {
		pattern  string
		matches  string
		rejected string
	}{
		{"id", "id", "ID idx xid i"},
		{"board/*", "board/1 board/", "board board/1/2 xboard/1"},
		{"*", "id é", "a/b"},
		{"**", "id a/b /", ""},
		{"a/**/z", "a/b/z a/b/c/z a//z", "a/z a/b"},
		{"a*b*c", "abc aXbYc abbcc", "ab aXb/c ac"},
		{"***x", "", ""},
		{"inbox/{user}", "inbox/42", "inbox/{user} inbox/ inbox/421"},
		{"{user}/*", "42/x", "41/x 42"},
	} {
		p, err := parsePattern(test.pattern)
		if err != nil {
			if test.matches != "" {
				t.Errorf("%s: %v", test.pattern, err)
			}
			continue
		}
		repl := caddy.NewReplacer()
		repl.Set("user", "42")
		expanded, err := p.expand(repl)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		for name := range strings.FieldsSeq(test.matches) {
			if !expanded.matches(name) {
				t.Errorf("%s does not match %s", test.pattern, name)
			}
		}
		for name := range strings.FieldsSeq(test.rejected) {
			if expanded.matches(name) {
				t.Errorf("%s matches %s", test.pattern, name)
			}
		}
	}
}

func TestAPlaceholderIsLiteralTextOrAnError(t *testing.T) {
	p, err := parsePattern("inbox/{user}")
	if err != nil {
		t.Fatal(err)
	}
	repl := caddy.NewReplacer()
	for value, ok := range map[string]bool{"42": true, "a*": true, "{x}": true, "": false, "a/b": false, "a\nb": false, "\xff": false} {
		repl.Set("user", value)
		expanded, err := p.expand(repl)
		if (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
		if ok && (!expanded.isPlain() || expanded.name() != "inbox/"+value || expanded.matches("inbox/ab")) {
			t.Errorf("%q became %q", value, expanded.name())
		}
	}
	if p[1].text != "{user}" {
		t.Error("expanding changed the pattern")
	}
}

func TestAHostilePatternTakesNoLongerThanItsSize(t *testing.T) {
	p, err := parsePattern(strings.Repeat("*a", 100) + "b")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if p.matches(strings.Repeat("a", 255)) {
		t.Error("it matches")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestForwardingHeadersAreKnown(t *testing.T) {
	for name, forwarded := range map[string]bool{
		"Forwarded": true, "Via": true, "X-Forwarded-For": true, "X-Forwarded-Anything": true, "X-Real-IP": true,
		"X-Client-IP": true, "X-Cluster-Client-IP": true, "True-Client-IP": true, "CF-Connecting-IP": true, "CF-Ray": true,
		"Fastly-Client-IP": true, "X-Forwarded": false, "Cfx": false, "Accept": false,
	} {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
		r.Header.Set(name, "x")
		if got := forwardingHeader(r) != ""; got != forwarded {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestDurationsCountsAndSizesAreReadStrictly(t *testing.T) {
	for s, want := range map[string]string{"90s-110s": "1m30s-1m50s", "90s": "1m30s", "1d": "24h0m0s", "0s-1s": "0s-1s"} {
		if r, err := ParseDurationRange(s); err != nil || r.String() != want {
			t.Errorf("%s: %v, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "-", "5", "5s-", "-5s", "5s-4s", "1s-2s-3s"} {
		if r, err := ParseDurationRange(s); err == nil {
			t.Errorf("%q: %v", s, r)
		}
	}
	r := DurationRange{time.Second, 3 * time.Second}
	for range 100 {
		if d := r.pick(); d < r.Min || d > r.Max {
			t.Fatalf("picked %v", d)
		}
	}
	for s, want := range map[string]int{"0": 0, "500": 500, "20k": 20_000, "1M": 1_000_000, "1.5k": 1500} {
		if n, err := parseCount(s); err != nil || n != want {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "-1", "1.5", "1MiB", "k", "1e99", "NaN", "5 apples"} {
		if n, err := parseCount(s); err == nil {
			t.Errorf("%q: %d", s, n)
		}
	}
}
