package main_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestProtocolsAreAlike(t *testing.T) {
	t.Parallel()
	const body = `
	comet {
		publish /config
		hold /push {
			field id news **
		}
	}
`
	config := func(more string) string {
		return comettest.Global("comet {\n\t\thistory 3 1h\n\t\tdrain 1s\n\t}") +
			"http://127.0.0.1:{$HTTP} {\n" + body + "}\n" +
			"https://localhost:{$HTTPS} {\n\ttls internal\n" + body + more + "}\n"
	}
	s := comettest.Start(t, config(""))
	protocols := []struct {
		name, proto string
		url         func(string) string
		client      func() *http.Client
	}{
		{"HTTP/1.1", "HTTP/1.1", s.URL, func() *http.Client { return &http.Client{Transport: &http.Transport{}} }},
		{"HTTP/1.1 over TLS", "HTTP/1.1", s.TLSURL, func() *http.Client { return s.TLSClient(t, false) }},
		{"HTTP/2", "HTTP/2.0", s.TLSURL, func() *http.Client { return s.TLSClient(t, true) }},
		{"HTTP/3", "HTTP/3.0", s.TLSURL, func() *http.Client { return s.HTTP3Client(t) }},
	}
	for i, p := range protocols {
		field := fmt.Sprintf("proto/%d", i)
		client := p.client()
		get := func(query string) request {
			return request{URL: p.url("/push?field=" + field + "&" + query), Client: client}
		}
		publish := func(value string) {
			t.Helper()
			wantText(t, s.Do(t, request{URL: p.url("/config"), Client: client, Type: comettest.FormType, Body: field + "=" + value}), "OK\n")
		}

		t.Run(p.name+" publishes, holds and wakes", func(t *testing.T) {
			publish("1")
			held := comettest.HoldOn(t, s, get(field+"=1"), field)
			publish("2")
			a := comettest.Await(t, held)
			if wantText(t, a, "YES\n"); a.Proto != p.proto {
				t.Errorf("it spoke %s; want %s", a.Proto, p.proto)
			}
			wantText(t, s.Do(t, request{URL: p.url("/config?field=" + field), Client: client}), "2\n")
		})
		t.Run(p.name+" has the headers of every answer", func(t *testing.T) {
			for _, query := range []string{"wait=0&" + field + "=2", field + "=0", "format=json"} {
				a := s.Do(t, get(query))
				if wantStatus(t, a, 200); a.Cursor() == "" || a.Header.Get("Cache-Control") != "no-store" ||
					!strings.Contains(a.Header.Get("Vary"), "Accept") || a.Header.Get("X-Content-Type-Options") != "nosniff" ||
					a.Header.Get("Comet-Field") != field {
					t.Errorf("a header is missing: %s", a)
				}
			}
		})
		t.Run(p.name+" goes on by cursor and tells gaps", func(t *testing.T) {
			a := s.Do(t, get("format=json&wait=0"))
			wantTexts(t, a, field+"=2")
			publish("3")
			wantTexts(t, s.Do(t, get("format=json&after="+escape(a.Cursor()))), field+"=3")
			for _, v := range []string{"4", "5", "6"} {
				publish(v)
			}
			b := s.Do(t, get("format=json&after="+escape(a.Cursor())))
			if wantTexts(t, b, field+"=4", field+"=5", field+"=6"); !b.Missed() || !b.JSON.Missed {
				t.Errorf("got %s; want a gap", b)
			}
		})
		t.Run(p.name+" has the same errors", func(t *testing.T) {
			wantStatus(t, s.Do(t, request{URL: p.url("/config"), Client: client}), 400)
			wantStatus(t, s.Do(t, request{URL: p.url("/push?format=x"), Client: client}), 400)
			wantStatus(t, s.Do(t, request{URL: p.url("/push"), Method: "POST", Client: client}), 405)
			wantStatus(t, s.Do(t, request{URL: p.url("/config"), Method: "PATCH", Client: client}), 405)
			wantStatus(t, s.Do(t, request{
				URL: p.url("/config"), Client: client, Type: comettest.FormType, Body: "x=1",
				Header: map[string]string{"Origin": "https://evil.example"},
			}), 403)
			wantStatus(t, s.Do(t, request{
				URL: p.url("/config?field=" + field), Client: client, Reader: strings.NewReader(strings.Repeat("x", 1<<20+1)),
			}), 413)
		})
		t.Run(p.name+" does not hold HEAD", func(t *testing.T) {
			a := s.Do(t, request{Method: "HEAD", URL: p.url("/push?field=" + field + "&after=now"), Client: client})
			wantStatus(t, a, 200)
		})
		t.Run(p.name+" holds several at once", func(t *testing.T) {
			var held []<-chan comettest.Answer
			for range 10 {
				held = append(held, comettest.HoldOn(t, s, get("format=json&after=now"), field))
			}
			publish("7")
			for _, h := range held {
				wantTexts(t, comettest.Await(t, h), field+"=7")
			}
		})
		t.Run(p.name+" forgets a client that leaves", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go s.Try(ctx, get("after=now"))
			comettest.WaitSubscribers(t, s, field, 1)
			cancel()
			comettest.WaitSubscribers(t, s, field, 0)
		})
		t.Run(p.name+" is not cut by a reload", func(t *testing.T) {
			held := comettest.HoldOn(t, s, request{URL: get("format=json&after=now").URL, Client: p.client()}, field)
			s.Reload(t, config("\theader X-Round "+fmt.Sprint(i)+"\n"))
			comettest.Publish(t, s, field+"=8")
			wantTexts(t, comettest.Await(t, held), field+"=8")
			client = p.client()
		})
	}

	t.Run("HTTP/1.0 is answered and closed", func(t *testing.T) {
		comettest.Publish(t, s, "old=1")
		ask := func(query string) comettest.Answer {
			conn := s.RawConn(t)
			fmt.Fprintf(conn, "GET /push?field=old&%s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", query)
			if strings.Contains(query, "after=now") {
				comettest.WaitSubscribers(t, s, "old", 1)
				comettest.Publish(t, s, "old=2")
			}
			a := readAnswer(t, conn)
			if n, err := conn.Read(make([]byte, 1)); err == nil || n > 0 {
				t.Errorf("the connection is not closed: %d bytes, %v", n, err)
			}
			return a
		}
		wantText(t, ask("old=0"), "YES\n")
		wantText(t, ask("old=1&wait=0"), "NO\n")
		wantText(t, ask("after=now"), "YES\n")
	})

	t.Run("an exit answers every protocol", func(t *testing.T) {
		comettest.Publish(t, s, "bye=1")
		var held []<-chan comettest.Answer
		for _, p := range protocols {
			held = append(held, comettest.HoldOn(t, s, request{URL: p.url("/push?field=bye&bye=1"), Client: p.client()}, "bye"))
		}
		if err := s.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for i, h := range held {
			t.Log(protocols[i].name)
			wantText(t, comettest.Await(t, h), "NO\n")
		}
		s.WaitExit(t)
	})
}
