package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// TestEveryCaddyfileInTheDocsIsAdapted keeps the examples from rotting.
func TestEveryCaddyfileInTheDocsIsAdapted(t *testing.T) {
	t.Setenv("COMET_TOKEN", "secret")
	t.Setenv("COMET_KEY", "the key of the examples")
	examples := map[string]string{}
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	for _, path := range []string{"../Caddyfile.example", "../testdata/php/Caddyfile"} {
		examples[path] = read(path)
	}
	// The commented site of the example, too.
	commented := regexp.MustCompile(`(?m)^#(app\.example\.com \{|\t.*|\})$`).FindAllStringSubmatch(examples["../Caddyfile.example"], -1)
	var site strings.Builder
	for _, line := range commented {
		if !strings.HasPrefix(line[1], "\tgo run") && !strings.HasPrefix(line[1], "\tcurl") {
			site.WriteString(line[1] + "\n")
		}
	}
	examples["the commented site"] = site.String()
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
	for _, path := range append(docs, "../README.md") {
		for i, found := range fence.FindAllStringSubmatch(read(path), -1) {
			examples[fmt.Sprintf("example %d of %s", i+1, path)] = found[1]
		}
	}
	if len(examples) < 8 {
		t.Errorf("only %d examples were found", len(examples))
	}
	door := regexp.MustCompile(`(?ms)^http://127\.0\.0\.1:\S*2080\S* \{.*?^\}`)
	doors := 0
	for name, text := range examples {
		for _, block := range door.FindAllString(text, -1) {
			doors++
			if !strings.Contains(block, "\trespond 404\n") {
				t.Errorf("%s: a wrong path at the door would be 200, with nothing in it:\n%s", name, block)
			}
		}
		if text == "" {
			t.Errorf("%s is empty", name)
		}
		if _, err := adapt(t, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
			t.Errorf("%s: caddy fmt makes it\n%s", name, formatted)
		}
	}
	if doors < 6 {
		t.Errorf("only %d doors were found", doors)
	}
}
