package main_test

import (
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestCometAloneServesItsClient(t *testing.T) {
	t.Parallel()
	// Neither what rewrites paths nor encode, wherever it stands, changes what is served.
	for _, around := range []string{"", "rewrite * /index.php?{query}\n", "encode\n"} {
		s := comettest.Start(t, site(around+"comet\nrespond \"app\""))
		for url, want := range map[string]string{
			"/comet.js":        "globalThis.Comet = Comet;\n})();\n",
			"/comet.js?module": "export { Comet, Comet as default };\n",
		} {
			a := s.Do(t, request{URL: url})
			wantStatus(t, a, 200)
			if !strings.HasSuffix(a.Body, want) || a.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
				t.Errorf("%q: %s is %s", around, url, a)
			}
			wantStatus(t, s.Do(t, request{URL: url, Header: map[string]string{"If-None-Match": a.Header.Get("Etag")}}), 304)
		}
		wantText(t, s.Do(t, request{URL: "/comet"}), "app")
	}
}
