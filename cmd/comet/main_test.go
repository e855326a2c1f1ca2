// These tests hold the contract of the project's design page, sections 2 to 4,
// against the real binary, from outside.
package main_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestMain(m *testing.M) { os.Exit(comettest.Main(m)) }

// site returns a configuration with one plain site that has body in it.
func site(body string) string {
	return comettest.Global("") + "http://127.0.0.1:{$HTTP} {\n" + body + "\n}\n"
}

// open is a site where everything may be watched and this machine publishes.
const open = `
	comet {
		publish /config
		hold /push {
			field id news **
		}
	}
`

// value returns what GET /config says of a field, and whether it has a value.
func value(t *testing.T, s *comettest.Server, field string) (string, bool) {
	t.Helper()
	a := s.Do(t, comettest.Request{URL: "/config?field=" + escape(field)})
	switch a.Status {
	case 200:
		return strings.TrimSuffix(a.Body, "\n"), true
	case 400:
		return "", false
	}
	t.Fatalf("GET /config?field=%s: got %s", field, a)
	return "", false
}

func wantValue(t *testing.T, s *comettest.Server, field, want string) {
	t.Helper()
	got, ok := value(t, s, field)
	if !ok || got != want {
		t.Errorf("the field %q has the value %.200q (set: %t); want %.200q", field, got, ok, want)
	}
}

func wantUnset(t *testing.T, s *comettest.Server, fields ...string) {
	t.Helper()
	for _, field := range fields {
		if got, ok := value(t, s, field); ok {
			t.Errorf("the field %q has the value %.200q; want none", field, got)
		}
	}
}

func wantStatus(t *testing.T, a comettest.Answer, want ...int) {
	t.Helper()
	if !slices.Contains(want, a.Status) {
		t.Errorf("got %.600s; want status %v", a, want)
	}
}

// wantTexts checks the messages of a JSON answer, as "field=data".
func wantTexts(t *testing.T, a comettest.Answer, want ...string) {
	t.Helper()
	if a.Status != 200 || a.JSON == nil {
		t.Fatalf("got %.600s; want 200 and JSON", a)
	}
	got := a.Texts()
	if len(got) != len(want) {
		t.Fatalf("got messages %.600q; want %.600q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got messages %.600q; want %.600q", got, want)
		}
	}
}

func wantText(t *testing.T, a comettest.Answer, want string) {
	t.Helper()
	if a.Status != 200 || a.Body != want {
		t.Errorf("got %.600s; want 200 %q", a, want)
	}
}

// now returns a cursor that is later than all that was published so far.
func now(t *testing.T, s *comettest.Server) string {
	t.Helper()
	a := s.Do(t, comettest.Request{URL: "/push?field=id&after=now&wait=0"})
	if a.Status != 200 || a.Cursor() == "" {
		t.Fatalf("no cursor: %s", a)
	}
	return a.Cursor()
}

// since returns the JSON answer of a plain poll for what fields got after cursor.
func since(t *testing.T, s *comettest.Server, cursor string, fields ...string) comettest.Answer {
	t.Helper()
	query := "format=json&wait=0&after=" + escape(cursor)
	for _, f := range fields {
		query += "&field=" + escape(f)
	}
	return comettest.Push(t, s, query)
}

func escape(s string) string { return url.QueryEscape(s) }

// readAnswer reads one answer to a GET from a connection.
func readAnswer(t *testing.T, conn net.Conn) comettest.Answer {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading an answer: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading an answer's body: %v", err)
	}
	return comettest.Answer{Status: res.StatusCode, Proto: res.Proto, Header: res.Header, Body: string(body), Close: res.Close}
}
