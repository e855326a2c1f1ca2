package main_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// startLines returns the lines of a server's log that have that message, when it has
// started.
func startLines(t *testing.T, s *comettest.Server, message string) []map[string]any {
	t.Helper()
	s.WaitLog(t, "serving initial configuration")
	var found []map[string]any
	for line := range strings.Lines(s.Logs()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

func TestTheStartTellsOfSitesAndTheirStores(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold *
	}
}
http://127.0.0.1:{$HTTP2ND} {
	@late query late=1
	comet {
		store shop
		publish /config
		hold @late
	}
	comet {
		hold /push
	}
}`)
	text := func(v any) string {
		b, _ := json.Marshal(v)
		return string(b)
	}
	var got []string
	for _, line := range startLines(t, s, "site") {
		got = append(got, text(line["publish"])+text(line["hold"])+text(line["stores"]))
	}
	slices.Sort(got)
	want := []string{
		`["/config by this machine"]["(matcher) on id","/push on id"]["shop","default"]`,
		`["/config by this machine"]["* on id"]null`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("the log tells %q; want %q", got, want)
	}
	if strings.Contains(s.Logs(), "publishes to") || strings.Contains(s.Logs(), "max_body") {
		t.Error("it warns of what is right")
	}
}
