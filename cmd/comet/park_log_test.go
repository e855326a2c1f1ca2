package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// logged is a site with every way to have its requests logged, and a user bob whose
// password is secret.
func logged(name string) string {
	return `
	log {
		output file {$DIR}/` + name + `.log
		format json
	}
	log ` + name + `_special {
		no_hostname
		output file {$DIR}/` + name + `_special.log
		format filter {
			request>headers>Cookie delete
			request>uri replace REPLACED
			resp_headers>Vary delete
			user_id hash
			request>remote_ip ip_mask 8
			comet_field delete
		}
	}
	log ` + name + `_console {
		no_hostname
		output file {$DIR}/` + name + `_console.log
		format console
	}
	@special query special=1
	log_name @special ` + name + `_special
	@console query console=1
	log_name @console ` + name + `_console
	log_append who {http.auth.user.id}
	log_append constant value
	log_append place {http.request.uri.query.field}
	log_skip /quiet
	@auth query auth=1
	basic_auth @auth {
		bob $2a$04$XtL.GVyTw9GMokLCYfH7eOPNLhxpNunGTGPlwonWwX/XxOSeW2Pju
	}
	header X-Site yes
	header >X-Later yes
	comet {
		publish /config
		hold /push {
			field id news **
		}
		hold /quiet {
			field id news **
		}
	}
	@late path /late
	handle @late {
		log_append answered {http.response.header.Comet-Field}
		log_append status {http.response.status}
		comet {
			hold /late {
				field id news **
			}
		}
	}
`
}

func startLogged(t *testing.T) pair {
	t.Helper()
	return startPair(t, comettest.Global("")+
		"http://127.0.0.1:{$HTTP} {\n"+logged("plain")+"\n}\n"+
		"https://localhost:{$HTTPS} {\n\ttls internal\n"+logged("TLS")+"\n}\n")
}

// logLines returns the lines of a log file with a text in them.
func logLines(t *testing.T, s *comettest.Server, file, text string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir, file+".log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, text) && strings.HasSuffix(line, "\n") { // else it is being written
			found = append(found, line)
		}
	}
	return found
}

// logLine waits for the one line with a text in it.
func logLine(t *testing.T, s *comettest.Server, file, text string) string {
	t.Helper()
	var found []string
	comettest.Eventually(t, 10*time.Second, func() bool {
		found = logLines(t, s, file, text)
		return len(found) > 0
	}, "no line with ", text, " in ", file)
	return found[0]
}

// flatten returns the members of a JSON object, those of its objects by their paths.
func flatten(t *testing.T, line string) map[string]string {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(line), &object); err != nil {
		t.Fatalf("the line %q: %v", line, err)
	}
	flat := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		if members, ok := v.(map[string]any); ok {
			for name, member := range members {
				walk(path+">"+name, member)
			}
			return
		}
		flat[path] = fmt.Sprint(v)
	}
	walk("", object)
	return flat
}

// Members of a line that differ between two requests that are alike.
var volatileMembers = []string{">ts", ">duration", ">comet_held", ">request>remote_port", ">resp_headers>Comet-Cursor"}

var volatileValue = regexp.MustCompile(`(fresh(/|%2F)|h3=":|127\.0\.0\.1:|localhost:)\d+`)

func settledLine(t *testing.T, line string) map[string]string {
	flat := flatten(t, line)
	for path, value := range flat {
		if slices.Contains(volatileMembers, path) {
			value = "ANY"
		}
		flat[path] = volatileValue.ReplaceAllString(value, "$1 ANY")
	}
	return flat
}

func difference(a, b map[string]string) string {
	var text strings.Builder
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		one, hasOne := a[path]
		two, hasTwo := b[path]
		if one != two || hasOne != hasTwo {
			fmt.Fprintf(&text, "%s: %q (there: %t), %q (there: %t)\n", path, one, hasOne, two, hasTwo)
		}
	}
	return text.String()
}

func TestTheAccessLogTellsOfAParkedRequestWhatItTellsOfAny(t *testing.T) {
	t.Parallel()
	p := startLogged(t)
	count := 0
	for _, l := range links {
		for _, variant := range []struct{ name, query, file string }{
			{"the site's log", "", ""},
			{"a user", "auth=1", ""},
			{"a log with filters", "special=1", "_special"},
		} {
			for _, c := range scenarios {
				count++
				tag := fmt.Sprintf("tag=%d.", count)
				t.Run(fmt.Sprintf("%s, %s, %s", c.name, variant.name, l.name), func(t *testing.T) {
					if strings.HasPrefix(variant.query, "auth") && !strings.Contains(c.text, "Authorization") {
						c.text = strings.Replace(c.text, "\r\nHost: ", "\r\nAuthorization: Basic Ym9iOnNlY3JldA==\r\nHost: ", 1)
					}
					file := l.name + variant.file
					// What is filtered out cannot be looked for: a header tells it apart.
					c.text = strings.Replace(c.text, "\r\nHost: ", "\r\nX-Tag: "+tag+"\r\nHost: ", 1)
					var settled [2]map[string]string
					for i, s := range p {
						conn := l.dial(t, s)
						_, body := c.play(t, s, conn, variant.query, func() {
							if early := logLines(t, s, file, tag); len(early) > 0 {
								t.Errorf("%s there is a line before the answer: %s", pairNames[i], early[0])
							}
						})
						line := logLine(t, s, file, tag)
						settled[i] = settledLine(t, line)
						if c.method != "HEAD" {
							if size := settled[i][">size"]; size != fmt.Sprint(len(body)) {
								t.Errorf("%s the size is %s; the body has %d bytes", pairNames[i], size, len(body))
							}
						}
						if strings.Contains(c.text, "format=json") || c.name == "one with many headers" {
							settled[i][">size"] = "ANY" // times and positions differ in length
							settled[i][">resp_headers>Content-Length"] = "ANY"
						}
						if strings.Contains(variant.query, "special") {
							settled[i][">user_id"] = "ANY"
						}
						conn.Close()
					}
					if d := difference(settled[0], settled[1]); d != "" {
						t.Errorf("the line differs, %s and %s:\n%s", pairNames[0], pairNames[1], d)
					}
					want := map[string]string{"wake": "wake", "timeout": "timeout", "ended": "ended"}[c.answer]
					status := "200"
					if c.name == "a timeout of raw" {
						status = "204"
					}
					if got := settled[1][">comet_outcome"]; want != "" && (got != want || settled[1][">status"] != status) {
						t.Errorf("the line tells the outcome %q and status %s; want %q and %s", got, settled[1][">status"], want, status)
					}
				})
			}
		}
	}
	for i, s := range p {
		for _, l := range links {
			for n := 1; n <= count; n++ {
				tag := fmt.Sprintf("tag=%d.", n)
				if all := slices.Concat(logLines(t, s, l.name, tag), logLines(t, s, l.name+"_special", tag)); len(all) > 1 {
					t.Errorf("%s there are %d lines of one request:\n%s", pairNames[i], len(all), strings.Join(all, ""))
				}
			}
		}
	}
}

func TestTheAccessLogHasEachParkedRequestOnce(t *testing.T) {
	t.Parallel()
	p := startLogged(t)
	for i, s := range p {
		overBoth(t, s, "one line each, after its answer, with its time and user, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			name := map[bool]string{true: "plain", false: "TLS"}[strings.HasSuffix(t.Name(), "plain")]
			l := dial()
			for n := range 3 {
				tag := fmt.Sprintf("tag=%s-%d.", field, n)
				start := time.Now()
				l.get(holdOn(field)+"&auth=1&"+tag, "Authorization: Basic Ym9iOnNlY3JldA==")
				comettest.WaitSubscribers(t, s, field, 1)
				held := time.Now()
				for time.Since(held) < 200*time.Millisecond {
					comettest.Subscribers(t, s, field)
					time.Sleep(20 * time.Millisecond)
				}
				if early := logLines(t, s, name, tag); len(early) > 0 {
					t.Fatalf("there is a line before the answer: %s", early[0])
				}
				least := time.Since(held)
				a := l.wake(s, field, fmt.Sprint(n))
				most := time.Since(start) + 50*time.Millisecond
				var line struct {
					Ts, Duration, Held float64
					Status, Size       int
					User               string `json:"user_id"`
					Who                string
					Fields             []string `json:"comet_field"`
					CometHeld          float64  `json:"comet_held"`
				}
				text := logLine(t, s, name, tag)
				if err := json.Unmarshal([]byte(text), &line); err != nil {
					t.Fatal(err)
				}
				if line.Duration < least.Seconds() || line.Duration > most.Seconds() || line.CometHeld < least.Seconds() || line.CometHeld > most.Seconds() {
					t.Errorf("it was held for %s to %s; the line has %s", least, most, text)
				}
				if line.Status != 200 || line.Size != len(a.Body) || line.User != "bob" || line.Who != "bob" || !slices.Equal(line.Fields, []string{field}) {
					t.Errorf("the line is %s", text)
				}
				if at := time.UnixMilli(int64(line.Ts * 1000)); at.Before(held.Add(least-10*time.Millisecond)) || at.After(time.Now().Add(time.Second)) {
					t.Errorf("the line is of %s; it was answered at %s", at, time.Now())
				}
			}
			// What comes later on this connection is logged once too, and by then all is.
			l.get("/config?field=" + field + "&tag=" + field + "-last.")
			l.answer()
			logLine(t, s, name, "tag="+field+"-last.")
			if all := logLines(t, s, name, "tag="+field+"-"); len(all) != 4 {
				t.Errorf("there are %d lines; want 4:\n%s", len(all), strings.Join(all, ""))
			}
		})

		overBoth(t, s, "none of a path that is skipped, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			name := map[bool]string{true: "plain", false: "TLS"}[strings.HasSuffix(t.Name(), "plain")]
			l := dial()
			l.get("/quiet?format=json&after=now&field=" + field + "&tag=" + field + "-quiet.")
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, "1")
			l.get(holdOn(field) + "&tag=" + field + "-loud.")
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, "2")
			logLine(t, s, name, "tag="+field+"-loud.")
			if all := logLines(t, s, name, "tag="+field+"-quiet."); len(all) > 0 {
				t.Errorf("there is a line: %s", all)
			}
		})

		overBoth(t, s, "one line of a client that left, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			name := map[bool]string{true: "plain", false: "TLS"}[strings.HasSuffix(t.Name(), "plain")]
			for n, leave := range []func(*link){func(l *link) { l.Close() }, (*link).reset, func(l *link) { _ = l.tcp().CloseWrite() }} {
				tag := fmt.Sprintf("tag=%s-%d.", field, n)
				l := dial()
				l.get(holdOn(field) + "&" + tag)
				comettest.WaitSubscribers(t, s, field, 1)
				leave(l)
				if line := flatten(t, logLine(t, s, name, tag)); line[">comet_outcome"] != "left" {
					t.Errorf("the line is %v", line)
				}
			}
			if all := logLines(t, s, name, "tag="+field+"-"); len(all) != 3 {
				t.Errorf("there are %d lines; want 3:\n%s", len(all), strings.Join(all, ""))
			}
		})

		overBoth(t, s, "in a log for the console too, "+pairNames[i], func(t *testing.T, dial func() *link, field string) {
			name := map[bool]string{true: "plain", false: "TLS"}[strings.HasSuffix(t.Name(), "plain")]
			l := dial()
			l.get(holdOn(field) + "&console=1&tag=" + field + ".")
			comettest.WaitSubscribers(t, s, field, 1)
			l.wake(s, field, "1")
			line := logLine(t, s, name+"_console", "tag="+field+".")
			for _, want := range []string{"handled request", `"status": 200`, `"comet_outcome": "wake"`, "http.log.access." + name + "_console"} {
				if !strings.Contains(line, want) {
					t.Errorf("there is no %s in %s", want, line)
				}
			}
		})
	}
}

// What log_append takes from the answer is known only when there is one.
func TestTheAccessLogHasWhatLogAppendTakesFromTheAnswerOfAParkedRequest(t *testing.T) {
	t.Parallel()
	p := startLogged(t)
	for _, l := range links {
		t.Run(l.name, func(t *testing.T) {
			var settled [2]map[string]string
			for i, s := range p {
				field := freshField(t, s)
				conn := l.dial(t, s)
				conn.get("/late?format=json&after=now&field=" + field + "&tag=" + field + ".")
				comettest.WaitSubscribers(t, s, field, 1)
				conn.wake(s, field, "1")
				settled[i] = settledLine(t, logLine(t, s, l.name, "tag="+field+"."))
				for _, any := range []string{">size", ">resp_headers>Content-Length", ">request>uri", ">comet_field"} {
					settled[i][any] = "ANY"
				}
				if got := settled[i][">answered"]; !strings.HasPrefix(got, "fresh") {
					t.Errorf("%s log_append was given %q", pairNames[i], got)
				}
			}
			if d := difference(settled[0], settled[1]); d != "" {
				t.Errorf("the line differs, %s and %s:\n%s", pairNames[0], pairNames[1], d)
			}
		})
	}
}

// A log that samples or is written by a module that ends with the configuration is the
// one of the configuration that the request came to, also after a reload.
func TestTheAccessLogOfAParkedRequestIsWrittenAfterAReload(t *testing.T) {
	t.Parallel()
	config := func(round int) string {
		return comettest.Global("") + "http://127.0.0.1:{$HTTP} {\n" + logged("plain") + fmt.Sprintf("\theader X-Round %d\n}\n", round)
	}
	s := comettest.Start(t, config(0))
	for round := range 3 {
		field := freshField(t, s)
		l := plainLink(t, s)
		l.get(holdOn(field) + "&tag=" + field + ".")
		comettest.WaitSubscribers(t, s, field, 1)
		s.Reload(t, config(round+1))
		l.wake(s, field, "1")
		line := flatten(t, logLine(t, s, "plain", "tag="+field+"."))
		if line[">status"] != "200" || line[">comet_outcome"] != "wake" {
			t.Errorf("the line is %v", line)
		}
	}
}
