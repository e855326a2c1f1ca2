package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// adapt returns the JSON that a Caddyfile becomes, or the error that says what is
// wrong with it: when it is adapted, or when it is loaded.
func adapt(t *testing.T, text string) (string, error) {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	for _, w := range warnings {
		if w.Message != "Caddyfile input is not formatted; run 'caddy fmt --overwrite' to fix inconsistencies" {
			t.Errorf("warning: %s", w)
		}
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		return "", err
	}
	if err := caddy.Validate(&parsed); err != nil {
		return "", err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, config, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return pretty.String(), nil
}

func TestCaddyfilesBecomeWhatTheirGoldensSay(t *testing.T) {
	t.Setenv("COMET_TOKEN", "secret")
	goldens, err := filepath.Glob("../testdata/adapt/*.caddyfiletest")
	if err != nil || len(goldens) == 0 {
		t.Fatal("no goldens", err)
	}
	for _, golden := range goldens {
		name := strings.TrimSuffix(filepath.Base(golden), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			text, want, _ := strings.Cut(string(content), "----------\n")
			got, err := adapt(t, text)
			if (err != nil) != strings.HasPrefix(name, "error_") {
				t.Errorf("the error is %v", err)
			}
			if err != nil {
				got = err.Error()
			}
			if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
				t.Errorf("caddy fmt makes it\n%s", formatted)
			}
			if *update {
				if err := os.WriteFile(golden, []byte(text+"----------\n"+got+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
