package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// limited returns a configuration with options of the store and one open site.
func limited(options, more string) string {
	return comettest.Global("comet {\n"+options+"\n}") + "http://127.0.0.1:{$HTTP} {\n" + open + more + "\n}\n"
}

func TestMaxFields(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, limited("max_fields 3", `
	handle_errors {
		respond "from handle_errors"
	}`))

	t.Run("the longest idle field that nobody watches is forgotten", func(t *testing.T) {
		comettest.Publish(t, s, "one=1")
		comettest.Publish(t, s, "two=1")
		comettest.Publish(t, s, "three=1")
		cursor := now(t, s)
		comettest.Publish(t, s, "one=2")
		comettest.Publish(t, s, "four=1")
		wantUnset(t, s, "two")
		wantValue(t, s, "one", "2")
		wantValue(t, s, "three", "1")
		wantValue(t, s, "four", "1")
		if a := since(t, s, cursor, "three"); a.Missed() {
			t.Errorf("a gap is told for a field that was kept: %s", a)
		}
	})

	t.Run("and that is a gap for older cursors", func(t *testing.T) {
		for _, f := range []string{"one", "three", "four"} {
			s.Do(t, request{Method: "DELETE", URL: "/config?field=" + f})
		}
		cursor := comettest.Publish(t, s, "first=1").Cursor()
		comettest.Publish(t, s, "first=2")
		comettest.Publish(t, s, "a=1&b=1&c=1")
		wantUnset(t, s, "first")
		if a := since(t, s, cursor, "first"); !a.Missed() {
			t.Errorf("got %s; want a gap", a)
		}
	})

	t.Run("with every field watched it is 507, nothing published, and the body is ours", func(t *testing.T) {
		comettest.Publish(t, s, "w1=1&w2=1&w3=1")
		for _, f := range []string{"w1", "w2", "w3"} {
			comettest.Hold(t, s, "field="+f+"&after=now")
		}
		cursor := now(t, s)
		a := s.Do(t, request{URL: "/config", Type: comettest.FormType, Body: "w1=2&w4=1"})
		wantStatus(t, a, http.StatusInsufficientStorage)
		if strings.TrimSpace(a.Body) == "" || strings.Contains(a.Body, "handle_errors") {
			t.Errorf("the body is %q; want one of our own", a.Body)
		}
		if a.Cursor() == "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("got %s; want Comet-Cursor and no-store", a)
		}
		wantUnset(t, s, "w4")
		wantValue(t, s, "w1", "1")
		wantTexts(t, since(t, s, cursor, "w1"))
		comettest.Publish(t, s, "w2=2") // what is there goes on
	})
}

func TestHistoryIsKeptByCountAndTheValueStays(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, limited("history 2 1s", ""))
	cursor := comettest.Publish(t, s, "id=0").Cursor()
	comettest.Publish(t, s, "id=1&id=2&id=3")
	comettest.Eventually(t, comettest.Deadline, func() bool {
		return since(t, s, cursor, "id").Missed()
	}, "messages older than the history's age are given")
	wantValue(t, s, "id", "3")
	wantTexts(t, comettest.Push(t, s, "format=json&id=2"), "id=3")
}

func TestHistoryIsKeptByAge(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, limited("history 1000 1s", ""))
	cursor := comettest.Publish(t, s, "id=0").Cursor()
	comettest.Publish(t, s, "id=1&id=2&id=3")
	comettest.Eventually(t, comettest.Deadline, func() bool {
		return since(t, s, cursor, "id").Missed()
	}, "messages older than the history's age are given")
	wantValue(t, s, "id", "3")
	wantTexts(t, comettest.Push(t, s, "format=json&id=2"), "id=3")
}

func TestAnIdleFieldIsForgotten(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, limited("field_idle 2s", ""))
	comettest.Publish(t, s, "watched=1")
	cursor := now(t, s)
	comettest.Hold(t, s, "field=watched&after=now")
	comettest.Publish(t, s, "idle=1")
	comettest.Eventually(t, 2*comettest.Deadline, func() bool {
		_, ok := value(t, s, "idle")
		return !ok
	}, "the field idle is still there")
	if a := since(t, s, cursor, "idle"); !a.Missed() {
		t.Errorf("got %s; want a gap", a)
	}
	wantValue(t, s, "watched", "1")
}

func TestMaxMemoryBoundsWhatIsKept(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, limited("max_memory 1MiB\nmax_fields 100k\nhistory 100000 1h", ""))
	kib := strings.Repeat("x", 1<<10)

	t.Run("one field gives up its oldest messages", func(t *testing.T) {
		cursor := comettest.Publish(t, s, "id=first").Cursor()
		for i := range 3000 {
			comettest.PublishAs(t, s, "field=id", "text/plain", fmt.Sprint(i)+kib)
		}
		wantValue(t, s, "id", "2999"+kib)
		a := since(t, s, cursor, "id")
		if !a.Missed() || len(a.JSON.Messages) == 0 {
			t.Errorf("got %.200s; want a gap and what is still kept", a)
		}
		if kept := len(a.Body); kept > 1<<20+1<<16 {
			t.Errorf("%d bytes are kept; want at most 1 MiB", kept)
		}
	})

	t.Run("many fields end in 507 or in the longest idle ones forgotten", func(t *testing.T) {
		refused := 0
		for i := range 3000 {
			a := s.Do(t, request{URL: fmt.Sprintf("/config?field=many/%d", i), Type: "text/plain", Body: kib})
			if a.Status == http.StatusInsufficientStorage {
				refused++
				continue
			}
			wantText(t, a, "OK\n")
		}
		kept := 0
		for i := range 3000 {
			if _, ok := value(t, s, fmt.Sprintf("many/%d", i)); ok {
				kept++
			}
		}
		if kept == 0 || kept > 1024 {
			t.Errorf("%d fields of 1 KiB are kept (%d refused); want some, and at most 1 MiB of them", kept, refused)
		}
	})

	t.Run("what can never fit is refused", func(t *testing.T) {
		a := s.Do(t, request{URL: "/config?field=never", Type: "text/plain", Body: strings.Repeat("x", 1<<20)})
		wantStatus(t, a, http.StatusInsufficientStorage, http.StatusRequestEntityTooLarge)
		wantUnset(t, s, "never")
	})
}

func TestMaxHeld(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]string{
		"beyond max_held a hold is 503 with Retry-After": "",
		"and the 503 goes to handle_errors": `
	handle_errors {
		respond "from handle_errors"
	}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := comettest.Start(t, limited("max_held 2", handle))
			comettest.Publish(t, s, "id=1")
			one := s.RawConn(t)
			fmt.Fprint(one, "GET /push?id=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			comettest.WaitSubscribers(t, s, "id", 1)
			held := comettest.Hold(t, s, "id=1")
			a := s.Do(t, request{URL: "/push?id=1"})
			wantStatus(t, a, http.StatusServiceUnavailable)
			if a.Header.Get("Retry-After") == "" {
				t.Errorf("got %s; want Retry-After", a)
			}
			if handle != "" && a.Body != "from handle_errors" {
				t.Errorf("the body is %q; want the one of handle_errors", a.Body)
			}
			// Who is not held needs no place, and one that is left is free.
			wantText(t, comettest.Push(t, s, "id=0"), "YES\n")
			one.Close()
			comettest.WaitSubscribers(t, s, "id", 1)
			second := comettest.Hold(t, s, "id=1")
			comettest.Publish(t, s, "id=2")
			wantText(t, comettest.Await(t, held), "YES\n")
			wantText(t, comettest.Await(t, second), "YES\n")
		})
	}
}

func TestMaxHeldPerClient(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`comet {
		max_held_per_client 2
	}
	servers {
		trusted_proxies static 127.0.0.0/8
		trusted_proxies_strict
	}`)+`
http://127.0.0.1:{$HTTP} {
`+open+`
}`)
	comettest.Publish(t, s, "id=1")

	t.Run("loopback peers are not counted", func(t *testing.T) {
		var held []<-chan comettest.Answer
		for range 5 {
			held = append(held, comettest.Hold(t, s, "id=1"))
		}
		comettest.Publish(t, s, "id=2")
		for _, h := range held {
			wantText(t, comettest.Await(t, h), "YES\n")
		}
	})
}

func TestMaxHeldPerClientCountsByAddress(t *testing.T) {
	t.Parallel()
	address := otherAddress(t)
	s := comettest.Start(t, comettest.Global(`comet {
		max_held_per_client 2
	}`)+`
:{$HTTP} {
`+open+`
}`)
	comettest.Publish(t, s, "id=1")
	far := fmt.Sprintf("http://%s:%d/push?id=1", address, s.Port("HTTP"))
	comettest.HoldRequest(t, s, request{URL: far})
	comettest.HoldRequest(t, s, request{URL: far})
	a := s.Do(t, request{URL: far, Within: 10 * time.Second})
	wantStatus(t, a, http.StatusTooManyRequests)
	wantText(t, comettest.Push(t, s, "id=0"), "YES\n")
	comettest.Hold(t, s, "id=1")
}
