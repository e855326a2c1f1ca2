package main_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// metrics returns the series of Comet, by their name and labels without the
// store.
func metrics(t *testing.T, s *comettest.Server) map[string]float64 {
	t.Helper()
	a := s.Do(t, comettest.Request{URL: fmt.Sprintf("http://127.0.0.1:%d/metrics", s.Port("ADMIN"))})
	if a.Status != 200 {
		t.Fatalf("the metrics: %s", a)
	}
	series := map[string]float64{}
	for line := range strings.Lines(a.Body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(name, "comet_") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for _, label := range []string{`,store="default"`, `store="default",`, `{store="default"}`} {
			name = strings.Replace(name, label, "", 1)
		}
		series[name] = n
	}
	return series
}

func wantMetrics(t *testing.T, s *comettest.Server, want map[string]float64) {
	t.Helper()
	var wrong string
	defer func() {
		if wrong != "" {
			t.Error(wrong)
		}
	}()
	comettest.Eventually(t, 5*time.Second, func() bool {
		got := metrics(t, s)
		wrong = ""
		for name, n := range want {
			if got[name] != n {
				wrong += fmt.Sprintf("%s is %v; want %v\n", name, got[name], n)
			}
		}
		return wrong == ""
	})
}

func TestMetricsAreExactAndLastOverReloads(t *testing.T) {
	t.Parallel()
	config := comettest.Global(`comet {
		history 2
		max_fields 5
	}`) + `http://:{$HTTP} {
	comet {
		publish /config {
			max_body 100
		}
		hold /push {
			field id news **
		}
		hold /gone
	}
}`
	s := comettest.Start(t, config)
	comettest.Publish(t, s, "id=1&news=22")
	comettest.Push(t, s, "id=0")                                                    // now
	comettest.Push(t, s, "id=1&wait=0")                                             // now
	comettest.Push(t, s, "after=first&wait=0")                                      // now
	comettest.Push(t, s, "after=other.1")                                           // missed
	comettest.Push(t, s, "id=1&wait=0.01")                                          // timeout
	s.Do(t, comettest.Request{URL: "/push?after=x"})                                // refused
	s.Do(t, comettest.Request{URL: "/push?format=nope"})                            // refused
	s.Do(t, comettest.Request{Method: "POST", URL: "/config", Body: "hi"})          // type
	s.Do(t, comettest.Request{URL: "/config", Type: comettest.FormType, Body: "x"}) // invalid
	s.Do(t, comettest.Request{URL: "/config", Type: comettest.FormType, Body: "id=" + strings.Repeat("x", 200)})
	s.Do(t, comettest.Request{URL: "/config", Type: comettest.FormType, Body: "id=2", Header: map[string]string{"Origin": "https://x.example"}})
	s.Do(t, comettest.Request{URL: "/config", Type: comettest.FormType, Body: "id=2", Header: map[string]string{"Via": "1.1 x"}})
	s.Do(t, comettest.Request{URL: "/config", Type: comettest.FormType, Body: "id=2", Host: "evil.example"})
	held := comettest.Hold(t, s, "id=1")
	gone := comettest.HoldRequest(t, s, comettest.Request{URL: "/gone?id=1"})
	before := map[string]float64{
		"comet_held_requests":                             2,
		`comet_hold_requests_total{outcome="now"}`:        3,
		`comet_hold_requests_total{outcome="missed"}`:     1,
		`comet_hold_requests_total{outcome="timeout"}`:    1,
		`comet_hold_requests_total{outcome="refused"}`:    2,
		`comet_publish_refused_total{reason="type"}`:      1,
		`comet_publish_refused_total{reason="invalid"}`:   1,
		`comet_publish_refused_total{reason="too_large"}`: 1,
		`comet_publish_refused_total{reason="page"}`:      1,
		`comet_publish_refused_total{reason="address"}`:   1,
		`comet_publish_refused_total{reason="host"}`:      1,
		"comet_published_messages_total":                  2,
		"comet_published_bytes_total":                     3,
		"comet_fields":                                    2,
		"comet_messages":                                  2,
	}
	wantMetrics(t, s, before)

	s.Reload(t, strings.Replace(config, "\t\thold /gone\n", "", 1))
	comettest.Await(t, gone)
	after := before
	after["comet_held_requests"] = 1
	after[`comet_hold_requests_total{outcome="gone"}`] = 1
	wantMetrics(t, s, after)
	comettest.Publish(t, s, "id=2")
	comettest.Await(t, held)
	comettest.Publish(t, s, "a=1&b=1&c=1&d=1&e=1") // five at most: two go
	wantMetrics(t, s, map[string]float64{
		"comet_held_requests":                       0,
		`comet_hold_requests_total{outcome="wake"}`: 1,
		"comet_wake_seconds_count":                  1,
		"comet_published_messages_total":            8,
		"comet_fields":                              5,
		"comet_messages":                            5,
		"comet_evicted_fields_total":                2,
	})
	if m := metrics(t, s); m["comet_memory_bytes"] <= 0 || m["comet_wake_seconds_sum"] <= 0 {
		t.Errorf("memory %v, wake %v", m["comet_memory_bytes"], m["comet_wake_seconds_sum"])
	}
}

func TestTheAccessLogTellsHowARequestWasHeld(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`http://127.0.0.1:{$HTTP} {
	log
`+open+`}`)
	comettest.Publish(t, s, "id=1")
	held := comettest.Hold(t, s, "id=1&field=id&field=news&mark=held")
	comettest.Publish(t, s, "id=2")
	comettest.Await(t, held)
	comettest.Push(t, s, "after=x&mark=refused")
	line := func(mark string) map[string]any {
		t.Helper()
		var found map[string]any
		comettest.Eventually(t, comettest.Deadline, func() bool {
			for text := range strings.Lines(s.Logs()) {
				if strings.Contains(text, "mark="+mark) && strings.Contains(text, "handled request") {
					return json.Unmarshal([]byte(text), &found) == nil
				}
			}
			return false
		}, "no line of the request marked", mark)
		return found
	}
	l := line("held")
	if l["comet_outcome"] != "wake" || fmt.Sprint(l["comet_field"]) != "[id news]" || l["status"] != 200.0 {
		t.Errorf("the line is %v", l)
	}
	if took, ok := l["comet_held"].(float64); !ok || took <= 0 || took > l["duration"].(float64) {
		t.Errorf("held for %v of %v", l["comet_held"], l["duration"])
	}
	if l := line("refused"); l["comet_outcome"] != "refused" || l["status"] != 400.0 {
		t.Errorf("the line is %v", l)
	}
	for text := range strings.Lines(s.Logs()) {
		if strings.Contains(text, `"level":"info"`) && strings.Contains(text, "comet") && strings.Contains(text, "uri") && !strings.Contains(text, "handled request") {
			t.Errorf("a line at info level for a request: %s", text)
		}
	}
}
