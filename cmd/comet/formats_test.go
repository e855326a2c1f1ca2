package main_test

import (
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
			{"/push?id=4", "text/event-stream"},
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
