package caddymodule

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImportsRunOneWay keeps the direction cmd → caddymodule → park, wire →
// store, and what the core may know: neither Caddy nor, in the store, HTTP.
func TestImportsRunOneWay(t *testing.T) {
	const module = "github.com/caddy-comet/caddy-comet"
	const inner = module + "/caddymodule/internal/"
	may := map[string][]string{ // of our own packages
		module + "/cmd/comet":       {module + "/caddymodule"},
		module + "/cmd/comet-bench": {},
		module + "/caddymodule":     {inner + "park", inner + "wire", inner + "store"},
		inner + "wire":              {inner + "store"},
		inner + "park":              {},
		inner + "store":             {},
	}
	outside := map[string]func(path string) bool{ // of all others
		inner + "wire": func(path string) bool {
			return isStandard(path) || path == "github.com/gobwas/ws" || path == "golang.org/x/net/http/httpguts"
		},
		inner + "park": func(path string) bool {
			return isStandard(path) && path != "net/http" || path == "golang.org/x/sys/unix"
		},
		inner + "store": func(path string) bool { return isStandard(path) && !strings.HasPrefix(path, "net") },
	}
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(p.ImportPath, "test") {
			continue // is imported by tests alone
		}
		own, known := may[p.ImportPath]
		if !known {
			t.Errorf("%s is not in this test: say what it may import", p.ImportPath)
			continue
		}
		seen++
		for _, path := range p.Imports {
			if strings.HasPrefix(path, module) {
				if !slices.Contains(own, path) {
					t.Errorf("%s imports %s", p.ImportPath, path)
				}
			} else if allowed := outside[p.ImportPath]; allowed != nil && !allowed(path) {
				t.Errorf("%s imports %s", p.ImportPath, path)
			}
		}
	}
	if seen != len(may) {
		t.Errorf("%d packages of %d", seen, len(may))
	}
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}
