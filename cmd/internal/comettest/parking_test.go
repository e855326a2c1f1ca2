package comettest

import (
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestParkingIsPutIntoTheGlobalOptions(t *testing.T) {
	const sites = "comet.example.com {\n\tcomet {\n\t\thold /push\n\t}\n}\n"
	for name, c := range map[string]struct{ before, after string }{
		"into the comet block there": {
			"{\n\tadmin off\n\tcomet {\n\t\thistory 3\n\t}\n}\n" + sites,
			"{\n\tadmin off\n\tcomet {\n\t\tparking off\n\t\thistory 3\n\t}\n}\n" + sites,
		},
		"into a new one": {
			"{\n\tadmin off\n}\n" + sites,
			"{\n\tcomet {\n\t\tparking off\n\t}\n\tadmin off\n}\n" + sites,
		},
		"into new global options": {
			sites,
			"{\n\tcomet {\n\t\tparking off\n\t}\n}\n" + sites,
		},
		"beside the block of another store": {
			"{\n\tcomet shop {\n\t\thistory 3\n\t}\n}\n" + sites,
			"{\n\tcomet {\n\t\tparking off\n\t}\n\tcomet shop {\n\t\thistory 3\n\t}\n}\n" + sites,
		},
		"after the block of another store": {
			"{\n\tcomet shop {\n\t\thistory 3\n\t}\n\tcomet {\n\t\tdrain 1s\n\t}\n}\n" + sites,
			"{\n\tcomet shop {\n\t\thistory 3\n\t}\n\tcomet {\n\t\tparking off\n\t\tdrain 1s\n\t}\n}\n" + sites,
		},
		"into one that has no block": {
			"{\n\tcomet\n}\n" + sites,
			"{\n\tcomet {\n\t\tparking off\n\t}\n}\n" + sites,
		},
		"not into what is deeper": {
			"{\n\tservers {\n\t\tlistener_wrappers {\n\t\t\tcomet\n\t\t}\n\t}\n}\n" + sites,
			"{\n\tcomet {\n\t\tparking off\n\t}\n\tservers {\n\t\tlistener_wrappers {\n\t\t\tcomet\n\t\t}\n\t}\n}\n" + sites,
		},
		"not into a site named comet": {
			"comet {\n\trespond hello\n}\n",
			"{\n\tcomet {\n\t\tparking off\n\t}\n}\ncomet {\n\trespond hello\n}\n",
		},
		"not into one site without braces": {
			"comet.example.com\ncomet\n",
			"{\n\tcomet {\n\t\tparking off\n\t}\n}\ncomet.example.com\ncomet\n",
		},
		"below a comment": {
			"# {\n{\n\t# comet {\n\tcomet { # the store\n\t\tdrain 1s\n\t}\n}\n",
			"# {\n{\n\t# comet {\n\tcomet { # the store\n\t\tparking off\n\t\tdrain 1s\n\t}\n}\n",
		},
		"beside an option with an argument named so": {
			"{\n\temail comet\n\tadmin {$ADMIN}\n}\n",
			"{\n\tcomet {\n\t\tparking off\n\t}\n\temail comet\n\tadmin {$ADMIN}\n}\n",
		},
		"but not twice": {
			"{\n\tcomet {\n\t\tdrain 1s\n\t\tparking trim_tls\n\t}\n}\n",
			"{\n\tcomet {\n\t\tdrain 1s\n\t\tparking trim_tls\n\t}\n}\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := injectParking(c.before, "off")
			if got != c.after {
				t.Errorf("got\n%s\nwant\n%s", got, c.after)
			}
			if _, err := caddyfile.Parse("Caddyfile", []byte(got)); err != nil {
				t.Errorf("it cannot be parsed: %v", err)
			}
			if again := injectParking(got, "trim_tls"); again != got {
				t.Errorf("a second time changes it to\n%s", again)
			}
			if none := injectParking(c.before, ""); none != c.before {
				t.Errorf("no value changes it to\n%s", none)
			}
		})
	}
}
