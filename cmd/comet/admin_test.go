package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// admin asks the admin API and decodes what it says.
func admin(t *testing.T, s *comettest.Server, method, path string, status int) map[string]any {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", s.Port("ADMIN"), path), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var v map[string]any
	if err := json.NewDecoder(response.Body).Decode(&v); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if response.StatusCode != status {
		t.Fatalf("%s %s: got %d, %v; want %d", method, path, response.StatusCode, v, status)
	}
	return v
}

func list(t *testing.T, v map[string]any, name string) []map[string]any {
	t.Helper()
	var l []map[string]any
	for _, e := range v[name].([]any) {
		l = append(l, e.(map[string]any))
	}
	return l
}

func names(l []map[string]any) string {
	var b []string
	for _, e := range l {
		b = append(b, e["field"].(string))
	}
	return strings.Join(b, " ")
}

func TestTheAdminAPITellsWhatThereIsAndWhoIsHeld(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`comet {
		history 3
		max_held 500
	}`)+`http://127.0.0.1:{$HTTP} {`+open+`}`)
	comettest.Publish(t, s, "id=1&id=2&news=hi&quiet=x")
	one := comettest.Hold(t, s, "field=news&after=now")
	two := comettest.Hold(t, s, "field=news&field=id&after=now")

	stores := list(t, admin(t, s, "GET", "/comet/", 200), "stores")
	if len(stores) != 1 || stores[0]["store"] != "default" || stores[0]["held"] != 2.0 || stores[0]["fields"] != 3.0 ||
		stores[0]["messages"] != 4.0 || stores[0]["published_messages"] != 4.0 || stores[0]["published_bytes"] != 5.0 {
		t.Errorf("the stores are %v", stores)
	}
	limits := stores[0]["limits"].(map[string]any)
	if limits["history"] != 3.0 || limits["max_held"] != 500.0 || limits["history_age"] != "1h0m0s" {
		t.Errorf("the limits are %v", limits)
	}
	if v := admin(t, s, "GET", "/comet/default", 200); v["cursor"] != stores[0]["cursor"] {
		t.Errorf("one store is %v", v)
	}

	for query, want := range map[string]string{
		"": "news id quiet", "?sort=watchers": "news id quiet", "?sort=rate": "id news quiet", "?sort=name": "id news quiet",
		"?sort=name&limit=1&offset=1": "news", "?limit=0": "", "?offset=99": "",
	} {
		v := admin(t, s, "GET", "/comet/default/fields"+query, 200)
		if got := names(list(t, v, "fields")); got != want || v["total"] != 3.0 {
			t.Errorf("fields%s are %s of %v; want %s of 3", query, got, v["total"], want)
		}
	}
	id := admin(t, s, "GET", "/comet/default/fields?field=id&last=1", 200)
	kept := list(t, id, "kept")
	if id["watchers"] != 1.0 || id["messages"] != 2.0 || len(kept) != 1 || kept[0]["data"] != "2" {
		t.Errorf("one field is %v", id)
	}

	v := admin(t, s, "GET", "/comet/default/held?field=id", 200)
	held := list(t, v, "held")
	if len(held) != 1 || v["total"] != 1.0 {
		t.Fatalf("held on id are %v", v)
	}
	h := held[0]
	if fmt.Sprint(h["fields"]) != "[news id]" || h["route"] != "/push" || !strings.HasPrefix(h["remote_addr"].(string), "127.0.0.1:") ||
		h["client_ip"] != "127.0.0.1" || h["protocol"] != "HTTP/1.1" || h["format"] != "text" ||
		!strings.Contains(h["site"].(string), fmt.Sprint(s.Port("HTTP"))) {
		t.Errorf("a held request is %v", h)
	}
	if _, err := time.Parse(time.RFC3339Nano, h["since"].(string)); err != nil {
		t.Error(err)
	}
	if l := list(t, admin(t, s, "GET", "/comet/default/held?limit=1&offset=1", 200), "held"); len(l) != 1 || l[0]["id"] != h["id"] {
		t.Errorf("the second page is %v", l)
	}

	admin(t, s, "DELETE", fmt.Sprintf("/comet/default/held?id=%v", h["id"]), 200)
	if a := comettest.Await(t, two); a.Status != 200 || a.Body != "NO\n" {
		t.Errorf("the ended request got %s", a)
	}
	admin(t, s, "DELETE", "/comet/default/fields?field=news", 200)
	if a := comettest.Await(t, one); a.Status != 200 || !a.Missed() {
		t.Errorf("the watcher of a deleted field got %s", a)
	}
	wantUnset(t, s, "news")

	for path, status := range map[string]int{
		"GET /comet/nope": 404, "GET /comet/default/nope": 404, "POST /comet/": 405, "PUT /comet/default/held": 405,
		"GET /comet/default/fields?sort=size": 400, "GET /comet/default/fields?limit=x": 400, "GET /comet/default/fields?limit=5000": 400,
		"GET /comet/default/fields?field=nope": 404, "DELETE /comet/default/fields": 400,
		"DELETE /comet/default/held": 400, "DELETE /comet/default/held?id=999": 404,
	} {
		method, path, _ := strings.Cut(path, " ")
		if v := admin(t, s, method, path, status); v["error"] == "" {
			t.Errorf("%s %s: %v", method, path, v)
		}
	}
}
