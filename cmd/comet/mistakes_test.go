package main_test

import (
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestTheStartWarnsOfWhatIsMostLikelyAMistake(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config {
			max_body 1
		}
		hold /push {
			field id,news
		}
	}
	comet {
		store shop
		hold /shop
		hold /shop/*
	}
}`)
	for message, want := range map[string]string{
		"requests are held against a store that no route of this configuration publishes to":   "publish /config, with store shop, to a comet block that the backend reaches",
		"a field has a comma in its name: fields are separated by spaces, as in field id news": "id,news",
		"max_body has hardly room for a publication: is a unit missing, as in 1MiB?":           "1 B",
	} {
		lines := startLines(t, s, message)
		if len(lines) != 1 || lines[0]["level"] != "warn" {
			t.Errorf("%q is logged as %v; want one warning", message, lines)
			continue
		}
		said := false
		for _, v := range lines[0] {
			said = said || v == want
		}
		if !said {
			t.Errorf("%v does not say %q", lines[0], want)
		}
	}
}
