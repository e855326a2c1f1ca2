package main_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// cometFields returns the fields that Comet-Field names, however it lists them and
// whether or not it escapes what cannot stand in a header.
func cometFields(a comettest.Answer) []string {
	var fields []string
	for _, line := range a.Header.Values("Comet-Field") {
		for f := range strings.SplitSeq(line, ",") {
			f = strings.TrimSpace(f)
			if plain, err := url.PathUnescape(f); err == nil {
				f = plain
			}
			fields = append(fields, f)
		}
	}
	slices.Sort(fields)
	return fields
}

func wantFields(t *testing.T, a comettest.Answer, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := cometFields(a); !slices.Equal(got, want) {
		t.Errorf("Comet-Field is %q; want %q (%.300s)", got, want, a)
	}
}

func TestWhatIsWatched(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /config
		hold /push {
			field id news after wait last format wrap callback event retry token sig until _own comet_own board/* deep/** a*z
		}
		hold /globs {
			field board/* deep/**
		}
		hold /default
		hold /inbox {
			field inbox/{query.who} plain
		}
	}`))

	t.Run("field= names what is watched", func(t *testing.T) {
		wantFields(t, comettest.Push(t, s, "field=news&wait=0"), "news")
		wantFields(t, comettest.Push(t, s, "field=news&field=board/1&wait=0"), "news", "board/1")
		wantFields(t, comettest.Push(t, s, "field=news&id=5&wait=0"), "news")
	})

	t.Run("without field= the plain names in the query are watched", func(t *testing.T) {
		wantFields(t, comettest.Push(t, s, "id=122&wait=0"), "id")
		wantFields(t, comettest.Push(t, s, "news=x&wait=0"), "news")
		wantFields(t, comettest.Push(t, s, "news=x&id=122&wait=0"), "id", "news")
		wantFields(t, comettest.Push(t, s, "news=x&unheard-of=7&wait=0"), "news")
		wantFields(t, comettest.Push(t, s, "board/1=x&wait=0"), "id") // globs are not names
		wantFields(t, comettest.Push(t, s, "field=board/1&board/1=x&wait=0"), "board/1")
	})

	t.Run("with neither the first plain name is watched", func(t *testing.T) {
		wantFields(t, comettest.Push(t, s, "wait=0"), "id")
		wantFields(t, s.Do(t, request{URL: "/default?wait=0"}), "id")
	})

	t.Run("with only globs something must be named", func(t *testing.T) {
		wantStatus(t, s.Do(t, request{URL: "/globs?wait=0"}), 400)
		wantFields(t, s.Do(t, request{URL: "/globs?field=board/1&wait=0"}), "board/1")
	})

	t.Run("64 fields are watched and more are not", func(t *testing.T) {
		query := "wait=0"
		for i := range 64 {
			query += fmt.Sprintf("&field=board/%d", i)
		}
		a := comettest.Push(t, s, query)
		if wantStatus(t, a, 200); len(cometFields(a)) != 64 {
			t.Errorf("%d fields are watched; want 64", len(cometFields(a)))
		}
		wantStatus(t, comettest.Push(t, s, query+"&field=id"), 400)
	})

	t.Run("reserved words of the query are watched only by field=", func(t *testing.T) {
		for _, name := range []string{
			"after", "wait", "last", "format", "wrap", "callback", "event", "retry", "token", "sig", "until", "_own", "comet_own",
		} {
			a := comettest.Push(t, s, name+"=1&wait=0")
			if a.Status == 200 {
				wantFields(t, a, "id")
			}
			wantFields(t, comettest.Push(t, s, "field="+name+"&wait=0"), name)
		}
	})

	t.Run("a star stands for anything but a slash, two for anything", func(t *testing.T) {
		for field, good := range map[string]bool{
			"board/1": true, "board/x y": true, "board/1/2": false, "board": false, "boards/1": false,
			"deep/1": true, "deep/1/2/3": true, "deep": false,
			"abcz": true, "a/z": false, "abc": false,
			"board/*": true, "deep/**": true, "*": false, "**": false, "i*": false, "ID": false,
		} {
			a := comettest.Push(t, s, "wait=0&field="+escape(field))
			if !good {
				if wantStatus(t, a, 403); !strings.Contains(a.Body, field) {
					t.Errorf("the 403 for %q does not say what to add: %q", field, a.Body)
				}
				continue
			}
			wantFields(t, a, field)
		}
	})

	t.Run("clients name fields, never globs", func(t *testing.T) {
		comettest.Publish(t, s, "board/*=0")
		held := comettest.Hold(t, s, "format=json&after=now&field=board/*")
		comettest.Publish(t, s, "board/1=wrong")
		comettest.Publish(t, s, "board/*=right")
		wantTexts(t, comettest.Await(t, held), "board/*=right")
	})

	t.Run("one field outside the list refuses all", func(t *testing.T) {
		wantStatus(t, comettest.Push(t, s, "wait=0&field=id&field=secret"), 403)
	})

	t.Run("a name that cannot be is an error", func(t *testing.T) {
		for _, name := range []string{"deep/a%0Ab", "deep/%FF", "deep/" + strings.Repeat("n", 251)} {
			wantStatus(t, comettest.Push(t, s, "wait=0&field="+name), 400, 403)
		}
		wantStatus(t, comettest.Push(t, s, "wait=0&field=deep/"+strings.Repeat("n", 250)), 200)
	})

	t.Run("a placeholder in a field expands to literal text", func(t *testing.T) {
		inbox := func(query string) comettest.Answer { return s.Do(t, request{URL: "/inbox?wait=0&" + query}) }
		wantFields(t, inbox("who=ann"), "inbox/ann")
		wantFields(t, inbox("who=ann&field=inbox/ann"), "inbox/ann")
		wantStatus(t, inbox("who=ann&field=inbox/bob"), 403)
		wantStatus(t, inbox("who=*&field=inbox/bob"), 403)
		wantStatus(t, inbox("who=**&field=inbox/bob"), 403)
		wantFields(t, inbox("who=*&field=inbox/*"), "inbox/*")
		wantFields(t, inbox("who=%7Bhost%7D"), "inbox/{host}")
	})

	t.Run("a placeholder that expands to nothing, a slash or a control character is 403", func(t *testing.T) {
		for _, query := range []string{"", "who=", "who=a/b", "who=/", "who=a%0Ab", "who=%00", "who=a%7F", "who=a/b&field=plain"} {
			wantStatus(t, s.Do(t, request{URL: "/inbox?wait=0&" + query}), 403)
		}
	})
}

func TestEveryAnswer(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=5")
	for name, r := range map[string]request{
		"a text wake":    {URL: "/push?id=4"},
		"a text timeout": {URL: "/push?id=5&wait=0"},
		"a JSON wake":    {URL: "/push?id=4&format=json"},
		"a JSON timeout": {URL: "/push?id=5&format=json&wait=0"},
		"HEAD":           {URL: "/push?id=5", Method: "HEAD"},
		"HEAD with news": {URL: "/push?id=4", Method: "HEAD"},
		"a gap":          {URL: "/push?id=4", Header: map[string]string{"Last-Event-ID": "unreadable"}},
	} {
		t.Run(name+" has the headers of every answer", func(t *testing.T) {
			a := s.Do(t, r)
			wantStatus(t, a, 200)
			if a.Cursor() == "" {
				t.Error("there is no Comet-Cursor")
			}
			if vary := strings.Join(a.Header.Values("Vary"), ","); !strings.Contains(vary, "Accept") {
				t.Errorf("Vary is %q; want Accept", vary)
			}
			for header, want := range map[string]string{
				"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Comet-Field": "id",
			} {
				if got := a.Header.Get(header); got != want {
					t.Errorf("%s is %q; want %q", header, got, want)
				}
			}
			if r.Method == "HEAD" && a.Body != "" {
				t.Errorf("HEAD has a body: %q", a.Body)
			}
			if a.Elapsed > 10*time.Second {
				t.Errorf("it took %s; want at once", a.Elapsed)
			}
		})
	}
}

func TestMethodsOfAHold(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		wantStatus(t, s.Do(t, request{Method: method, URL: "/push?id=0"}), 405)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))

	t.Run("a held request is woken by a publication", func(t *testing.T) {
		comettest.Publish(t, s, "id=1")
		held := comettest.Hold(t, s, "id=1")
		comettest.Publish(t, s, "id=2")
		wantText(t, comettest.Await(t, held), "YES\n")
	})

	t.Run("a newer value is answered at once", func(t *testing.T) {
		comettest.Publish(t, s, "id=2")
		wantText(t, comettest.Push(t, s, "id=0"), "YES\n")
	})

	t.Run("a publication to another field wakes nobody", func(t *testing.T) {
		comettest.Publish(t, s, "quiet=1&quiet/2=1&loud=1")
		held := comettest.Hold(t, s, "field=quiet&after=now&format=json")
		comettest.Publish(t, s, "loud=2")
		comettest.Publish(t, s, "quiet/2=2")
		comettest.Publish(t, s, "quiet=2")
		wantTexts(t, comettest.Await(t, held), "quiet=2")
	})

	t.Run("one publication wakes all who watch", func(t *testing.T) {
		comettest.Publish(t, s, "all=1")
		var held []<-chan comettest.Answer
		for range 20 {
			held = append(held, comettest.Hold(t, s, "field=all&all=1"))
		}
		comettest.Publish(t, s, "all=2")
		for _, h := range held {
			wantText(t, comettest.Await(t, h), "YES\n")
		}
	})

	t.Run("a request that watches several fields is woken by any", func(t *testing.T) {
		comettest.Publish(t, s, "any/1=1&any/2=1&any/3=1")
		for i := range 3 {
			held := comettest.Hold(t, s, "format=json&after=now&field=any/1&field=any/2&field=any/3")
			name := fmt.Sprintf("any/%d=x", i+1)
			comettest.Publish(t, s, name)
			wantTexts(t, comettest.Await(t, held), name)
		}
	})

	t.Run("a field that nobody has published to yet is waited for", func(t *testing.T) {
		comettest.Publish(t, s, "witness=1")
		held := comettest.Hold(t, s, "format=json&after=now&field=witness&field=not-yet")
		comettest.Publish(t, s, "not-yet=first")
		wantTexts(t, comettest.Await(t, held), "not-yet=first")
	})

	t.Run("publications of one request wake once with all of them", func(t *testing.T) {
		comettest.Publish(t, s, "batch/1=0&batch/2=0")
		cursor := now(t, s)
		held := comettest.Hold(t, s, "format=json&field=batch/1&field=batch/2&after="+escape(cursor))
		comettest.Publish(t, s, "batch/1=a&batch/2=b&batch/1=c")
		got := comettest.Await(t, held)
		texts := got.Texts()
		// A wake may come before the rest of the request: the cursor then has it.
		if len(texts) < 3 {
			texts = append(texts, since(t, s, got.Cursor(), "batch/1", "batch/2").Texts()...)
		}
		if want := []string{"batch/1=a", "batch/2=b", "batch/1=c"}; !slices.Equal(texts, want) {
			t.Errorf("got %q; want %q", texts, want)
		}
	})

	t.Run("wait=0 is a plain poll", func(t *testing.T) {
		comettest.Publish(t, s, "poll=1")
		wantText(t, comettest.Push(t, s, "field=poll&poll=1&wait=0"), "NO\n")
		wantText(t, comettest.Push(t, s, "field=poll&poll=0&wait=0"), "YES\n")
	})

	t.Run("wait= asks for a shorter hold", func(t *testing.T) {
		comettest.Publish(t, s, "short=1")
		a := comettest.Push(t, s, "field=short&short=1&wait=1")
		wantText(t, a, "NO\n")
		if a.Elapsed < 900*time.Millisecond || a.Elapsed > 15*time.Second {
			t.Errorf("it was held for %s; want 1s", a.Elapsed)
		}
	})

	t.Run("HEAD is never held", func(t *testing.T) {
		comettest.Publish(t, s, "headed=1")
		a := s.Do(t, request{Method: http.MethodHead, URL: "/push?field=headed&headed=1"})
		wantStatus(t, a, 200)
		if a.Elapsed > 10*time.Second {
			t.Errorf("HEAD was held for %s", a.Elapsed)
		}
	})

	t.Run("all messages since the cursor come in one answer in order of position", func(t *testing.T) {
		cursor := now(t, s)
		var want []string
		for i := range 50 {
			form := fmt.Sprintf("order/%d=%d", i%5, i)
			comettest.Publish(t, s, form)
			want = append(want, form)
		}
		a := since(t, s, cursor, "order/4", "order/0", "order/2", "order/1", "order/3")
		wantTexts(t, a, want...)
		if last := a.JSON.Messages[49].Cursor; last != a.JSON.Cursor || last != a.Cursor() {
			t.Errorf("the cursors are %q in the header, %q in the body; the last message's is %q", a.Cursor(), a.JSON.Cursor, last)
		}
	})

	t.Run("each message's cursor goes on after it", func(t *testing.T) {
		cursor := now(t, s)
		comettest.Publish(t, s, "step=1&step=2&step=3")
		all := since(t, s, cursor, "step")
		wantTexts(t, all, "step=1", "step=2", "step=3")
		wantTexts(t, since(t, s, all.JSON.Messages[0].Cursor, "step"), "step=2", "step=3")
		wantTexts(t, since(t, s, all.JSON.Messages[1].Cursor, "step"), "step=3")
		wantTexts(t, since(t, s, all.JSON.Messages[2].Cursor, "step"))
	})

	t.Run("an answer has at least one message and up to 1 MiB of them", func(t *testing.T) {
		const each = 400 << 10
		cursor := now(t, s)
		for i := range 5 {
			comettest.PublishAs(t, s, "field=large", "text/plain", fmt.Sprint(i)+strings.Repeat("x", each))
		}
		comettest.PublishAs(t, s, "field=large", "text/plain", "5"+strings.Repeat("x", 1<<20-1))
		var got []string
		for range 10 {
			a := since(t, s, cursor, "large")
			n := len(a.JSON.Messages)
			if n == 0 {
				break
			}
			if n > 1 && len(a.Body) > 1<<20+64<<10 {
				t.Errorf("an answer of %d messages has %d bytes", n, len(a.Body))
			}
			if a.Cursor() != a.JSON.Messages[n-1].Cursor {
				t.Error("the cursor is not the one of the last message sent")
			}
			for _, m := range a.JSON.Messages {
				got = append(got, m.Text()[:1])
			}
			cursor = a.Cursor()
		}
		if want := "0 1 2 3 4 5"; strings.Join(got, " ") != want {
			t.Errorf("got the messages %q; want %q", got, want)
		}
	})

	t.Run("a message carries its time", func(t *testing.T) {
		before := time.Now().Add(-time.Second)
		cursor := now(t, s)
		comettest.Publish(t, s, "timed=1")
		m := since(t, s, cursor, "timed").JSON.Messages[0]
		if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(m.Time) {
			t.Errorf("the time is %q; want the form of 2026-11-21T20:08:25.123Z", m.Time)
		}
		at, err := time.Parse(time.RFC3339, m.Time)
		if err != nil || at.Before(before) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("the time is %q (%v); now it is %s", m.Time, err, time.Now().UTC())
		}
	})
}

func TestTimeoutIsTheRoutes(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /config
		hold /one {
			timeout 1s
		}
		hold /range {
			timeout 1s-2s
		}
	}`))
	comettest.Publish(t, s, "id=1")
	answers := make(chan comettest.Answer)
	const n = 12
	for range n {
		go func() { answers <- s.Try(t.Context(), request{URL: "/range?id=1"}) }()
	}
	for _, query := range []string{"id=1", "id=1&wait=20"} {
		a := s.Do(t, request{URL: "/one?" + query})
		wantText(t, a, "NO\n")
		if a.Elapsed < 900*time.Millisecond || a.Elapsed > 15*time.Second {
			t.Errorf("?%s was held for %s; want 1s", query, a.Elapsed)
		}
	}
	var shortest, longest time.Duration
	for i := range n {
		a := <-answers
		wantText(t, a, "NO\n")
		if a.Elapsed < 900*time.Millisecond || a.Elapsed > 15*time.Second {
			t.Errorf("held for %s; want 1s to 2s", a.Elapsed)
		}
		if i == 0 {
			shortest = a.Elapsed
		}
		longest = a.Elapsed
	}
	if longest-shortest < 100*time.Millisecond {
		t.Errorf("%d requests were all held for %s; want a random time each", n, longest)
	}
}

// A proxy on the way often gives up after 60 s, so a hold behind one is shorter.
func TestBehindAProxyTheDefaultTimeoutIsShorter(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes 55 seconds")
	}
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=1")
	a := s.Do(t, request{
		URL: "/push?id=1", Header: map[string]string{"X-Forwarded-For": "203.0.113.9"}, Within: 2 * time.Minute,
	})
	wantText(t, a, "NO\n")
	if a.Elapsed < 44*time.Second || a.Elapsed > 70*time.Second {
		t.Errorf("it was held for %s; want 45s to 55s", a.Elapsed)
	}
}

func TestWaitingCostsNoCPU(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("CPU time is read from /proc, which is not here")
	}
	if comettest.Race {
		t.Skip("the race detector works while nothing else does")
	}
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=1")
	for range 300 {
		conn := s.RawConn(t)
		fmt.Fprint(conn, "GET /push?id=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	}
	comettest.WaitSubscribers(t, s, "id", 300)
	comettest.Push(t, s, "id=1&wait=1") // what starting has left to do is done by then
	before := cpuTime(t, s.Pid)
	a := comettest.Push(t, s, "id=1&wait=3")
	wantText(t, a, "NO\n")
	if used := cpuTime(t, s.Pid) - before; used > a.Elapsed/20 {
		t.Errorf("300 held requests used %s of CPU in %s", used, a.Elapsed)
	}
}

// cpuTime returns the CPU time that a process has used so far.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// The name in parentheses may have spaces; utime and stime are 11 and 12 after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks := num(fields[11]) + num(fields[12])
	return time.Duration(ticks) * 10 * time.Millisecond
}
