package main_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

const (
	signingKey = "a key for tests, which all may know"
	oldKey     = "the key before that one"
)

// sign returns the query of a request that is signed.
func sign(key string, until time.Time, fields ...string) string {
	h := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(h, "%s\n%d", strings.Join(fields, "\n"), until.Unix())
	query := fmt.Sprintf("until=%d&sig=%s", until.Unix(), hex.EncodeToString(h.Sum(nil)))
	for _, name := range fields {
		query += "&field=" + escape(name)
	}
	return query
}

// signed is a site whose hold route asks for a signature.
func signed(options string) string {
	return comettest.Global("") + `http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold /push {
			field inbox/* news
			` + options + `
		}
		hold /open {
			field inbox/* news
		}
	}
}
`
}

func startSigned(t *testing.T, opts ...comettest.Option) *comettest.Server {
	t.Helper()
	opts = append(opts, comettest.Env("COMET_KEY", signingKey), comettest.Env("COMET_OLD_KEY", oldKey))
	return comettest.Start(t, signed("signed {env.COMET_KEY} {env.COMET_OLD_KEY}"), opts...)
}

func TestASignedRouteLetsWatchWhatWasSigned(t *testing.T) {
	t.Parallel()
	s := startSigned(t)
	comettest.Publish(t, s, "inbox/42=hello&inbox/43=secret&news=all")
	soon := time.Now().Add(time.Hour)
	good := sign(signingKey, soon, "inbox/42")
	wantTexts(t, comettest.Push(t, s, "format=json&wait=0&"+good), "inbox/42=hello")
	wantTexts(t, comettest.Push(t, s, "format=json&wait=0&"+sign(oldKey, soon, "inbox/42")), "inbox/42=hello")
	both := sign(signingKey, soon, "inbox/42", "news")
	wantTexts(t, comettest.Push(t, s, "format=json&wait=0&"+both), "inbox/42=hello", "news=all")
	for name, test := range map[string]struct{ query, reason string }{
		"nothing":          {"field=inbox/42", "until= is not a time"},
		"no field":         {strings.Replace(good, "field=", "x=", 1), "it names no field"},
		"another field":    {strings.Replace(good, "42", "43", 1), "is not that of the fields"},
		"one field more":   {good + "&field=inbox/43", "is not that of the fields"},
		"one field less":   {strings.TrimSuffix(both, "&field=news"), "is not that of the fields"},
		"another key":      {sign("another key of some length", soon, "inbox/42"), "is not that of the fields"},
		"another time":     {strings.Replace(good, "until=1", "until=2", 1), "is not that of the fields"},
		"no signature":     {good[:strings.Index(good, "&sig=")] + "&field=inbox/42", "sig= is not 64"},
		"a time that over": {sign(signingKey, time.Now().Add(-time.Second), "inbox/42"), "the signature was good until"},
		"what is not held": {sign(signingKey, soon, "secret"), ""},
	} {
		from := len(s.Logs())
		a := comettest.Push(t, s, "wait=0&"+test.query)
		wantStatus(t, a, 403)
		if test.reason != "" {
			if strings.Contains(a.Body, "key") || strings.Contains(a.Body, "fields") {
				t.Errorf("%s: the answer tells why: %s", name, a)
			}
			s.WaitLogFrom(t, from, test.reason)
		}
	}
}

func TestWhatWasSignedEndsWhenItIsOver(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startSigned(t, p.opts...)
			comettest.Publish(t, s, "inbox/42=0")
			start := time.Now()
			until := start.Add(3 * time.Second).Truncate(time.Second)
			query := sign(signingKey, until, "inbox/42")
			held := comettest.HoldOn(t, s, request{URL: s.URL("/push?after=now&" + query)}, "inbox/42")
			stream := openStream(t, plainWay(s), "/push?format=sse&after=now&"+query)
			wantText(t, comettest.Await(t, held), "NO\n")
			stream.wantCleanEnd(t)
			if early := time.Until(until); early > 0 {
				t.Errorf("they ended %s before it was over", early)
			}
			elapsed(t, "the end", start, 0, 15*time.Second)
			wantStatus(t, comettest.Push(t, s, query), 403)
		})
	}
}

func TestASignedStreamWatchesNoMore(t *testing.T) {
	t.Parallel()
	s := startSigned(t)
	query := sign(signingKey, time.Now().Add(time.Hour), "inbox/42", "news")
	stream := openStream(t, plainWay(s), "/push?format=ndjson&after=now&"+query)
	for _, path := range []string{"/push", "/open"} {
		a := s.Do(t, request{Method: "POST", URL: s.URL(path + "?session=" + stream.session), Type: "application/json", Body: `{"watch":["inbox/43"]}`})
		wantStatus(t, a, 403)
	}
	mustControl(t, s, stream.session, change{"unwatch": []string{"news"}})
	ws := openSocket(t, plainLink(t, s), "/push?after=now&"+query)
	ws.wantFrame(textFrame) // its session
	ws.send(final|textFrame, `{"watch":["inbox/43"]}`)
	for text := ""; !strings.Contains(text, `"status":403`); {
		if text = string(ws.wantFrame(textFrame)); strings.Contains(text, `"watch"`) {
			t.Fatalf("told %s", text)
		}
	}
	comettest.Publish(t, s, "inbox/43=secret&news=all&inbox/42=hello")
	ws.want("all", "hello")
	stream.want(t, "hello")
}

// One that is held goes on after a reload where it is signed as the route then asks.
func TestAReloadKeepsWhatIsSigned(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, signed(""), comettest.Env("COMET_KEY", signingKey))
	comettest.Publish(t, s, "inbox/42=0&inbox/43=0")
	good := comettest.HoldOn(t, s, request{URL: s.URL("/push?after=now&" + sign(signingKey, time.Now().Add(time.Hour), "inbox/42"))}, "inbox/42")
	bad := comettest.HoldOn(t, s, request{URL: s.URL("/push?after=now&field=inbox/43")}, "inbox/43")
	s.Reload(t, signed("signed {env.COMET_KEY}"))
	wantText(t, comettest.Await(t, bad), "NO\n")
	comettest.Publish(t, s, "inbox/42=hello")
	wantText(t, comettest.Await(t, good), "YES\n")
}

func TestAKeyThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]string{
		"signed {env.COMET_KEY_THAT_NOBODY_SET}": "is the variable set?",
		"signed short":                           "can be guessed",
	} {
		if r := comettest.Validate(t, signed(options)); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %+v; want %q", options, r, want)
		}
	}
}

func TestRecipesSign(t *testing.T) {
	t.Parallel()
	s := startSigned(t)
	comettest.Publish(t, s, "inbox/42=hello")
	for _, run := range [][]string{{"php", "sign.php"}, {"python3", "sign.py"}, {"node", "sign.mjs"}, {"sh", "sign.sh"}} {
		t.Run(run[1], func(t *testing.T) {
			findCommand(t, run[0])
			if run[0] == "sh" {
				findCommand(t, "openssl")
			}
			cmd := exec.Command(run[0], recipe(t, run[1]))
			cmd.Env = slices.Concat(os.Environ(), []string{"COMET_KEY=" + signingKey})
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			wantTexts(t, s.Do(t, request{URL: s.URL(strings.TrimSpace(string(out)) + "&format=json&wait=0")}), "inbox/42=hello")
		})
	}
}
