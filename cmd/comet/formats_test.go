package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestFormats(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /config
		hold /push {
			field id typed
		}
		hold /jsonfirst {
			formats json text
		}
		hold /textonly {
			formats text
		}
		hold /jsononly {
			formats json
		}
	}`))
	comettest.Publish(t, s, "id=5")

	t.Run("text says YES on a wake and NO on a timeout", func(t *testing.T) {
		for query, want := range map[string]string{"id=4&format=text": "YES\n", "id=5&wait=0&format=text": "NO\n"} {
			a := comettest.Push(t, s, query)
			wantText(t, a, want)
			if !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("Content-Type is %q; want text/plain", a.Header.Get("Content-Type"))
			}
		}
	})

	t.Run("JSON has the cursor, the messages and a retry", func(t *testing.T) {
		for query, messages := range map[string][]string{"id=4&format=json": {"id=5"}, "id=5&wait=0&format=json": {}} {
			a := comettest.Push(t, s, query)
			wantTexts(t, a, messages...)
			if a.JSON.Cursor == "" || a.JSON.Cursor != a.Cursor() {
				t.Errorf("the cursor is %q in the body and %q in the header", a.JSON.Cursor, a.Cursor())
			}
			if a.JSON.Retry == nil || *a.JSON.Retry < 1000 || *a.JSON.Retry > 3000 {
				t.Errorf("retry is not between 1000 and 3000: %s", a.Body)
			}
			if string(a.JSON.Raw["messages"]) == "null" || a.JSON.Raw["messages"] == nil {
				t.Errorf("messages is not an array: %s", a.Body)
			}
		}
	})

	t.Run("a message has only the members it needs", func(t *testing.T) {
		a := comettest.Push(t, s, "id=4&format=json")
		for _, word := range []string{`"event"`, `"type"`, `"encoding"`} {
			if strings.Contains(a.Body, word) {
				t.Errorf("%s is there without need: %s", word, a.Body)
			}
		}
		if m := a.JSON.Messages[0]; m.Field != "id" || string(m.Data) != `"5"` || m.Cursor == "" || m.Time == "" {
			t.Errorf("got %s; want field, data, cursor and time", a.Body)
		}
	})

	t.Run("the format is chosen by format=, else by Accept, else the route's first", func(t *testing.T) {
		const text, json = "text/plain", "application/json"
		for _, c := range []struct{ path, format, accept, want string }{
			{"/push", "", "", text},
			{"/push", "json", "", json},
			{"/push", "text", "", text},
			{"/push", "text", json, text},
			{"/push", "json", text, json},
			{"/push", "", json, json},
			{"/push", "", "Application/JSON", json},
			{"/push", "", text, text},
			{"/push", "", "*/*", text},
			{"/push", "", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", text},
			{"/push", "", "text/html", text},
			{"/push", "", "text/plain;q=0.5, application/json", json},
			{"/push", "", "text/plain, application/json;q=0.5", text},
			{"/push", "", "application/json, text/plain, */*", json},
			{"/jsonfirst", "", "", json},
			{"/jsonfirst", "", "*/*", json},
			{"/jsonfirst", "", "text/html", json},
			{"/jsonfirst", "", text, text},
			{"/jsonfirst", "text", "", text},
			{"/textonly", "", "*/*", text},
			{"/jsononly", "", "", json},
		} {
			url := c.path + "?id=4"
			if c.format != "" {
				url += "&format=" + c.format
			}
			a := s.Do(t, request{URL: url, Header: map[string]string{"Accept": c.accept}})
			if a.Status != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), c.want) {
				t.Errorf("%s with Accept %q: got %.300s; want %s", url, c.accept, a, c.want)
			}
		}
	})

	t.Run("a format that is not offered is 406", func(t *testing.T) {
		for _, c := range []struct{ url, accept string }{
			{"/textonly?id=4&format=json", ""},
			{"/jsononly?id=4&format=text", ""},
			{"/textonly?id=4", "application/json"},
			{"/jsononly?id=4", "text/plain"},
			{"/push?id=4", "image/png"},
		} {
			a := s.Do(t, request{URL: c.url, Header: map[string]string{"Accept": c.accept}})
			if a.Status != 406 || strings.TrimSpace(a.Body) == "" {
				t.Errorf("%s with Accept %q: got %.300s; want 406 and a line", c.url, c.accept, a)
			}
		}
	})

	t.Run("an unknown format is 400", func(t *testing.T) {
		for _, format := range []string{"nonsense", "JSONx", "text/plain", "../text"} {
			wantStatus(t, comettest.Push(t, s, "id=4&format="+format), 400)
		}
	})
}

func TestRetryIsTheRoutes(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /config
		hold /push {
			retry 7s
		}
	}`))
	a := comettest.Push(t, s, "format=json&wait=0")
	if a.JSON == nil || a.JSON.Retry == nil || *a.JSON.Retry != 7000 {
		t.Errorf("got %s; want a retry of 7000", a)
	}
}

// startRaw starts two servers with the formats raw and jsonp, and a route for each
// status that a timeout of raw may have.
func startRaw(t *testing.T) pair {
	t.Helper()
	body := `
	header >X-Type {http.response.header.Content-Type}
	comet {
		publish /config
		hold /push {
			field id **
			formats text json raw jsonp
		}`
	for _, status := range rawTimeouts {
		body += fmt.Sprintf(`
		hold /raw%d {
			field id **
			formats raw
			raw_timeout %[1]d
		}`, status)
	}
	return startPair(t, both("", body+"\n\t}\n"))
}

var rawTimeouts = []int{200, 204, 304, 408}

func TestRawIsAMessageAsItWasPublished(t *testing.T) {
	t.Parallel()
	for i, s := range startRaw(t) {
		overBoth(t, s, "raw, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			l := dial()
			for n, m := range []struct{ sent, data, want string }{
				{"image/png", "\x89PNG\r\n\x00\xff", "image/png"},
				{"text/html; charset=utf-8", "<b>", "text/html; charset=utf-8"},
				{"application/json", "{\"a\":\n1}", "application/json"},
				{"", "plain", "text/plain; charset=utf-8"},
				{"text/plain", "", "text/plain"},
				{"a/b", strings.Repeat("large\n", 100_000), "a/b"},
			} {
				l.get("/push?format=raw&after=now&field=" + field)
				comettest.WaitSubscribers(t, s, field, 1)
				published := comettest.PublishAs(t, s, "field="+field, m.sent, m.data)
				held := l.answer()
				l.get("/push?format=raw&last=1&field=" + field)
				for how, a := range map[string]comettest.Answer{"held": held, "at once": l.answer()} {
					if a.Status != 200 || a.Body != m.data || a.Header.Get("Content-Type") != m.want || a.Cursor() != published.Cursor() || a.Missed() {
						t.Errorf("message %d, %s: got %.300s; want %s %.100q", n, how, a, m.want, m.data)
					}
					if a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("Comet-Field") != field || a.Header.Get("X-Type") != m.want {
						t.Errorf("message %d, %s: the header is %v", n, how, a.Header)
					}
				}
			}
		})

		overBoth(t, s, "one after the other, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			l := dial()
			l.get("/push?format=raw&after=now&wait=0&field=" + field)
			cursor := l.answer().Cursor()
			for n := range 3 {
				comettest.Publish(t, s, fmt.Sprintf("%s=%d&%[1]s/more=%[2]d", field, n))
			}
			for n := range 6 {
				l.get("/raw204?field=" + field + "&field=" + field + "/more&after=" + cursor)
				cursor = l.wantBody(fmt.Sprint(n / 2)).Cursor()
			}
		})

		overBoth(t, s, "a gap, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			l := dial()
			l.get("/push?format=raw&field="+field, "Last-Event-ID: unreadable")
			if a := l.wantBody("0"); !a.Missed() {
				t.Errorf("the gap is not told: %s", a)
			}
			l.get("/push?format=raw&after=now&field=" + field)
			comettest.WaitSubscribers(t, s, field, 1)
			wantStatus(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=" + field}), 200)
			if a := l.wantBody(""); !a.Missed() || a.Cursor() == "" {
				t.Errorf("the gap is not told: %s", a)
			}
		})

		overBoth(t, s, "timeouts, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			l := dial()
			for _, status := range rawTimeouts {
				for _, wait := range []string{"0", "0.1"} {
					l.get(fmt.Sprintf("/raw%d?after=now&wait=%s&field=%s", status, wait, field))
					a := l.answer()
					if a.Status != status || a.Body != "" || a.Cursor() == "" || a.Close || a.Header.Get("Content-Type") != "" || a.Missed() {
						t.Errorf("after %s: got %s; want %d and nothing in it", wait, a, status)
					}
					_, hasLength := a.Header["Content-Length"]
					if hasBody := status != 204 && status != 304; hasLength != hasBody {
						t.Errorf("after %s, %d: the header is %v", wait, status, a.Header)
					}
				}
			}
			l.hold(s, field) // the connection goes on
			l.wake(s, field, "1")
		})

		t.Run("HEAD, HTTP/2 and HTTP/3, "+pairNames[i], func(t *testing.T) {
			field := freshField(t, s)
			a := s.Do(t, request{Method: "HEAD", URL: "/push?format=raw&field=" + field})
			if a.Status != 200 || a.Header.Get("Content-Length") != "1" || a.Body != "" {
				t.Errorf("HEAD: got %s", a)
			}
			for proto, client := range map[string]*http.Client{"HTTP/2.0": s.TLSClient(t, true), "HTTP/3.0": s.HTTP3Client(t)} {
				for _, status := range rawTimeouts {
					a := s.Do(t, request{URL: s.TLSURL(fmt.Sprintf("/raw%d?after=now&wait=0.05&field=%s", status, field)), Client: client})
					if a.Status != status || a.Proto != proto || a.Body != "" {
						t.Errorf("got %s %s; want %s %d", a.Proto, a, proto, status)
					}
				}
				wantText(t, s.Do(t, request{URL: s.TLSURL("/raw304?field=" + field), Client: client}), "0")
			}
		})
	}
}

func TestJSONPCallsAFunctionWithTheJSON(t *testing.T) {
	t.Parallel()
	for i, s := range startRaw(t) {
		overBoth(t, s, pairNames[i], func(t *testing.T, dial func() *link, field string) {
			l := dial()
			call := func(a comettest.Answer, name string) *comettest.Body {
				t.Helper()
				text, starts := strings.CutPrefix(a.Body, "/**/"+name+"(")
				text, ends := strings.CutSuffix(text, ");")
				body := new(comettest.Body)
				if err := json.Unmarshal([]byte(text), body); err != nil || !starts || !ends || a.Status != 200 {
					t.Fatalf("got %s, %v; want a call of %s", a, err, name)
				}
				if a.Header.Get("Content-Type") != "application/javascript; charset=utf-8" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("the header is %v", a.Header)
				}
				if body.Cursor != a.Cursor() || body.Retry == nil {
					t.Errorf("got %s; want its cursor and retry in the object", a)
				}
				return body
			}
			target := "/push?format=jsonp&after=now&field=" + field + "&callback="
			const data = `{"</script>":"<!-- \u2028 & é"}`
			for _, name := range []string{"f", "jQuery36_1", "a.b.$c"} {
				l.get(target + name)
				comettest.WaitSubscribers(t, s, field, 1)
				comettest.PublishAs(t, s, "field="+field, "application/json", data)
				a := l.answer()
				body := call(a, name)
				var got, want map[string]string
				if err := json.Unmarshal([]byte(data), &want); err != nil {
					t.Fatal(err)
				}
				if len(body.Messages) != 1 || json.Unmarshal(body.Messages[0].Data, &got) != nil || !maps.Equal(got, want) {
					t.Errorf("got %s; want a message %s", a, data)
				}
				if strings.ContainsAny(a.Body, "<>&\u2028") {
					t.Errorf("what HTML or JavaScript may take amiss is not escaped: %s", a.Body)
				}
			}
			l.get(target + "f&wait=0.05")
			if body := call(l.answer(), "f"); len(body.Messages) != 0 || body.Missed {
				t.Errorf("a timeout: %+v", body)
			}
			l.get("/push?format=jsonp&callback=f&field="+field, "Last-Event-ID: unreadable")
			if body := call(l.answer(), "f"); !body.Missed || len(body.MissedFields) != 1 || body.MissedFields[0] != field {
				t.Errorf("a gap: %+v", body)
			}
			l.get("/push?after=now&callback=g&wait=0&field="+field, "Accept: application/javascript")
			call(l.answer(), "g")
			for _, name := range []string{"", "alert(1)//", "a.if", "1", strings.Repeat("x", 129), "%3C/script%3E"} {
				l.get(target + name)
				if a := l.answer(); a.Status != 400 || !strings.Contains(a.Body, "callback") || strings.Contains(a.Header.Get("Content-Type"), "javascript") {
					t.Errorf("callback=%s: got %s; want 400", name, a)
				}
			}
		})
	}
}
