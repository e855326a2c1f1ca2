package main_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// What docs/troubleshooting.md shows of curl is what it says.
func TestTheCommandsOfTroubleshooting(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl here")
	}
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := comettest.Start(t, comettest.Global("")+`
http://app.example.com:{$HTTP} {
	redir https://app.example.com{uri} 308
}
http://app.example.com:{$HTTP2ND} {
	comet {
		publish /config {
			allow 10.1.0.0/16
		}
		hold /push
	}
	header /pusch Content-Type "text/html; charset=utf-8"
	respond "<!doctype html>"
}
http://127.0.0.1:{$DOOR} {
	comet {
		publish /config
	}
}`)
	s.PublishURL = s.DoorURL("/config")
	comettest.Publish(t, s, "id=500")
	port := func(name string) string { return strconv.Itoa(s.Port(name)) }
	resolve := "curl"
	for _, name := range []string{"HTTP", "HTTP2ND"} {
		resolve += " --resolve app.example.com:" + port(name) + ":127.0.0.1"
	}
	local := strings.NewReplacer(
		"curl ", resolve+" ",
		"https://app.example.com/", "http://app.example.com:"+port("HTTP2ND")+"/",
		"http://app.example.com/", "http://app.example.com:"+port("HTTP")+"/",
		"http://127.0.0.1:2080/", s.DoorURL("/"),
	)
	// Somebody writes all the while, so that what is held comes back.
	ctx, cancel := context.WithTimeout(t.Context(), 3*comettest.Deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s.Try(ctx, request{URL: s.PublishURL, Type: comettest.FormType, Body: "id=500"})
			pause(ctx, comettest.Deadline/100)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })

	ran := 0
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	for _, block := range blocks {
		for _, shown := range strings.Split(block[1], "$ ")[1:] {
			command, output, _ := strings.Cut(shown, "\n")
			if !strings.HasPrefix(command, "curl ") || output == "" {
				continue // it needs what is not here, or shows nothing
			}
			ran++
			out, err := exec.CommandContext(ctx, "sh", "-c", local.Replace(command)).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", command, err, out)
				continue
			}
			want := "^" + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(output)), `\.\.\.`, `(?s:.*)`) + `\s*$`
			if got := strings.ReplaceAll(string(out), "\r", ""); !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("%s\nsays %q; want what is shown, %q", command, got, output)
			}
		}
	}
	if ran < 8 {
		t.Errorf("%d commands were run; want all that show what they say", ran)
	}
}

// The reasons for refusals that docs/troubleshooting.md lists are those of the log.
func TestTheReasonsOfTroubleshooting(t *testing.T) {
	t.Parallel()
	root, err := comettest.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := comettest.Start(t, comettest.Global("")+`
:{$HTTP} {
	comet {
		publish /config
		publish /listed {
			allow 10.1.0.0/16
		}
		publish /token {
			token secret
		}
	}
}`)
	refused := []request{
		{URL: "/config", Header: map[string]string{"X-Forwarded-For": "192.0.2.7"}},
		{URL: "/config", Header: map[string]string{"Origin": "https://evil.example"}},
		{URL: "/config", Host: "evil.example"},
		{URL: "/listed"},
		{URL: "/token"},
		{URL: "/token", Header: map[string]string{"Authorization": "Bearer wrong"}},
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		// As a script on this machine does that goes by the machine's name.
		if ip, ok := address.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			refused = append(refused, request{URL: fmt.Sprintf("http://%s:%d/config", ip.IP, s.Port("HTTP"))})
			break
		}
	}
	for _, r := range refused {
		before := len(s.Logs())
		r.Type, r.Body = comettest.FormType, "id=1"
		wantStatus(t, s.Do(t, r), 401, 403)
		line := s.WaitLogFrom(t, before, "refused to publish")
		found := regexp.MustCompile(`"reason":"((?:[^"\\]|\\.)*)"`).FindStringSubmatch(line)
		if found == nil {
			t.Errorf("no reason in %s", line)
			continue
		}
		reason := strings.ReplaceAll(found[1], `\"`, `"`)
		listed := false
		for _, code := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(page), -1) {
			pattern := strings.ReplaceAll(regexp.QuoteMeta(code[1]), `\.\.\.`, `.+`)
			listed = listed || regexp.MustCompile("^"+pattern+"$").MatchString(reason)
		}
		if !listed {
			t.Errorf("docs/troubleshooting.md does not list %q", reason)
		}
	}
}
