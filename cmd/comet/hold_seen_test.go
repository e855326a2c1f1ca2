package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestSeenByValue(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	n := 0
	for _, c := range []struct {
		value, seen string
		newer       bool
	}{
		{"5", "4", true},
		{"5", "5", false},
		{"5", "6", false},
		{"10", "9", true},
		{"9", "10", false},
		{"0", "-1", true},
		{"-1", "-2", true},
		{"-2", "-1", false},
		{"-1", "0", false},
		{"-0", "0", false},
		{"1.5", "1.25", true},
		{"1.25", "1.5", false},
		{"1.0", "1", false},
		{"1", "1.000", false},
		{"0.10", "0.1", false},
		{"-1.5", "-1.4", false},
		{"-1.4", "-1.5", true},
		{"007", "7", false},
		{"8", "007", true},
		{"9007199254740993", "9007199254740992", true},
		{"9007199254740992", "9007199254740993", false},
		{"100000000000000000000000000000000000001", "100000000000000000000000000000000000000", true},
		{"0.100000000000000000000000000000000000001", "0.1", true},
		{strings.Repeat("9", 400), strings.Repeat("9", 399) + "8", true},
		{strings.Repeat("9", 399), "1" + strings.Repeat("0", 399), false},
		{"abc", "abc", false},
		{"abc", "abd", true},
		{"abd", "abc", true},
		{"abc", "ABC", true},
		{"abc", "5", true},
		{"5", "abc", true},
		{"1e3", "1000", true},
		{"0x10", "16", true},
		{"5", "5x", true},
		{"1,5", "1,4", true},
		{"1,4", "1,5", true},
		{"5", "5 5", true},
		{"2026-11-21 20:08:25", "2026-11-21 20:08:26", true},
		{"é", "é", false},
	} {
		n++
		field := fmt.Sprintf("cmp/%d", n)
		t.Run(fmt.Sprintf("of %.20q seen %.20q newer is %t", c.value, c.seen, c.newer), func(t *testing.T) {
			comettest.Publish(t, s, field+"="+escape(c.value))
			query := "wait=0&field=" + field + "&" + field + "=" + escape(c.seen)
			want, messages := "NO\n", []string{}
			if c.newer {
				want, messages = "YES\n", []string{field + "=" + c.value}
			}
			wantText(t, comettest.Push(t, s, query), want)
			wantTexts(t, comettest.Push(t, s, query+"&format=json"), messages...)
		})
	}

	t.Run("a held value is compared as well", func(t *testing.T) {
		comettest.Publish(t, s, "climb=5")
		held := comettest.Hold(t, s, "field=climb&climb=7")
		comettest.Publish(t, s, "climb=6")
		comettest.Publish(t, s, "climb=7")
		comettest.WaitSubscribers(t, s, "climb", 1)
		comettest.Publish(t, s, "climb=8")
		wantText(t, comettest.Await(t, held), "YES\n")
	})

	t.Run("not given only text counts as 0", func(t *testing.T) {
		for i, c := range []struct{ value, text string }{
			{"0", "NO\n"}, {"5", "YES\n"}, {"-1", "NO\n"}, {"0.0", "NO\n"}, {"0.1", "YES\n"}, {"abc", "YES\n"},
		} {
			field := fmt.Sprintf("unseen/%d", i)
			comettest.Publish(t, s, field+"="+c.value)
			for _, given := range []string{"", "&" + field + "="} {
				query := "wait=0&field=" + field + given
				wantText(t, comettest.Push(t, s, query), c.text)
				wantTexts(t, comettest.Push(t, s, query+"&format=json"), field+"="+c.value)
			}
		}
	})

	t.Run("a field without a value is never newer", func(t *testing.T) {
		for _, seen := range []string{"", "&field-empty=0", "&field-empty=5", "&field-empty=abc", "&field-empty=-5"} {
			wantText(t, comettest.Push(t, s, "wait=0&field=field-empty"+seen), "NO\n")
			wantTexts(t, comettest.Push(t, s, "wait=0&format=json&field=field-empty"+seen))
		}
	})

	t.Run("the answer carries the latest message of each field that is newer", func(t *testing.T) {
		comettest.Publish(t, s, "part/1=1&part/2=1&part/1=2&part/3=9&part/1=3&part/2=1")
		a := comettest.Push(t, s, "format=json&field=part/1&field=part/2&field=part/3&part/1=1&part/2=1&part/3=8")
		wantTexts(t, a, "part/3=9", "part/1=3")
		if a.Missed() || a.JSON.Missed {
			t.Errorf("by value a gap is told: %s", a)
		}
	})

	t.Run("a first request returns the present state and a cursor to go on from", func(t *testing.T) {
		comettest.Publish(t, s, "state/1=a&state/2=b")
		a := comettest.Push(t, s, "format=json&field=state/1&field=state/2&field=state/3")
		wantTexts(t, a, "state/1=a", "state/2=b")
		comettest.Publish(t, s, "state/3=c&state/1=d")
		b := comettest.Push(t, s, "format=json&field=state/1&field=state/2&field=state/3&after="+escape(a.Cursor()))
		wantTexts(t, b, "state/3=c", "state/1=d")
		if b.Missed() {
			t.Errorf("a gap is told where there is none: %s", b)
		}
	})

	t.Run("nothing between the state and its cursor is lost while others publish", func(t *testing.T) {
		stop := make(chan struct{})
		published := make(chan int)
		go func() {
			i := 0
			for {
				select {
				case <-stop:
					published <- i
					return
				default:
				}
				i++
				a := s.Try(t.Context(), request{URL: "/config", Type: comettest.FormType, Body: fmt.Sprintf("busy/%d=%d", i%2, i)})
				if a.Err != nil || a.Status != 200 {
					published <- -1
					return
				}
			}
		}()
		for range 50 {
			a := comettest.Push(t, s, "format=json&field=busy/0&field=busy/1")
			last := ""
			for _, text := range a.Texts() {
				last = text[strings.Index(text, "=")+1:]
			}
			b := comettest.Push(t, s, "format=json&field=busy/0&field=busy/1&after="+escape(a.Cursor()))
			if len(b.Texts()) == 0 {
				t.Fatalf("an empty wake: %s", b)
			}
			first := b.JSON.Messages[0].Text()
			if num(first) != num(last)+1 {
				t.Errorf("the state ends with %s and its cursor goes on with %s", last, first)
				break
			}
		}
		close(stop)
		if <-published < 0 {
			t.Error("publishing failed")
		}
	})
}

// num returns the whole number that s is, or -1.
func num(s string) int {
	n := -1
	if _, err := fmt.Sscan(s, &n); err != nil {
		return -1
	}
	return n
}

func TestSeenByCursor(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=7")

	t.Run("Last-Event-ID is before after, and after before the value", func(t *testing.T) {
		first := now(t, s)
		comettest.Publish(t, s, "tier=1")
		second := now(t, s)
		comettest.Publish(t, s, "tier=2")
		third := now(t, s)
		get := func(lastEventID, query string) comettest.Answer {
			return s.Do(t, request{
				URL:    "/push?format=json&wait=0&field=tier" + query,
				Header: map[string]string{"Last-Event-ID": lastEventID},
			})
		}
		wantTexts(t, get(first, "&after="+escape(third)+"&tier=2"), "tier=1", "tier=2")
		wantTexts(t, get(second, "&after="+escape(first)), "tier=2")
		wantTexts(t, get(third, "&after=first"))
		wantTexts(t, get(third, "&last=2"))
		wantTexts(t, get(third, "&tier=1"))
		wantTexts(t, get("", "&after="+escape(second)+"&tier=2"), "tier=2")
		wantTexts(t, get("", "&after="+escape(third)+"&tier=1"))
		wantTexts(t, get("", "&after=&tier=1"), "tier=2")
		wantTexts(t, get("", "&after=&tier=2"))
	})

	t.Run("an empty Last-Event-ID is none", func(t *testing.T) {
		conn := s.RawConn(t)
		fmt.Fprint(conn, "GET /push?id=7&wait=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID:\r\n\r\n")
		a := readAnswer(t, conn)
		wantText(t, a, "NO\n")
		if a.Missed() {
			t.Errorf("an empty Last-Event-ID is a gap: %s", a)
		}
	})

	t.Run("an unreadable Last-Event-ID is a gap, never an error", func(t *testing.T) {
		comettest.Publish(t, s, "torn=1&torn=2")
		for _, id := range []string{"x", "0", "-1", "1:1", "a b", "{}", strings.Repeat("9", 300), "\u00e9"} {
			header := map[string]string{"Last-Event-ID": id}
			a := s.Do(t, request{URL: "/push?field=torn&format=json", Header: header})
			if wantStatus(t, a, 200); !a.Missed() || a.JSON == nil || !a.JSON.Missed || !slices.Equal(a.JSON.MissedFields, []string{"torn"}) {
				t.Errorf("Last-Event-ID %q: got %s; want a gap of torn", id, a)
			}
			if texts := a.Texts(); len(texts) == 0 || texts[len(texts)-1] != "torn=2" {
				t.Errorf("Last-Event-ID %q: got the messages %q; want what is kept", id, texts)
			}
			wantText(t, s.Do(t, request{URL: "/push?field=torn", Header: header}), "YES\n")
		}
	})

	t.Run("a bad after is 400", func(t *testing.T) {
		for _, after := range []string{"x", "-1", "NOW", "{}", "%FF", strings.Repeat("9", 300)} {
			wantStatus(t, comettest.Push(t, s, "wait=0&after="+after), 400)
		}
	})

	t.Run("after=now waits for what comes", func(t *testing.T) {
		comettest.Publish(t, s, "fresh=1")
		held := comettest.Hold(t, s, "field=fresh&after=now&format=json")
		comettest.Publish(t, s, "fresh=1") // a message, though the value is the same
		wantTexts(t, comettest.Await(t, held), "fresh=1")
	})

	t.Run("after=first gives all that is kept", func(t *testing.T) {
		comettest.Publish(t, s, "kept=1&kept=2&kept/2=a&kept=3")
		wantTexts(t, comettest.Push(t, s, "format=json&after=first&field=kept&field=kept/2"),
			"kept=1", "kept=2", "kept/2=a", "kept=3")
	})

	t.Run("last=N gives the last N", func(t *testing.T) {
		comettest.Publish(t, s, "tail=1&tail=2&tail=3&tail=4")
		wantTexts(t, comettest.Push(t, s, "format=json&last=2&field=tail"), "tail=3", "tail=4")
		wantTexts(t, comettest.Push(t, s, "format=json&last=1&field=tail"), "tail=4")
		wantTexts(t, comettest.Push(t, s, "format=json&last=99&field=tail"), "tail=1", "tail=2", "tail=3", "tail=4")
	})

	t.Run("a cursor of several fields serves any of them", func(t *testing.T) {
		a := comettest.Publish(t, s, "wide/1=1&wide/2=1")
		comettest.Publish(t, s, "wide/3=1&wide/2=2")
		wantTexts(t, since(t, s, a.Cursor(), "wide/3", "wide/1", "wide/2"), "wide/3=1", "wide/2=2")
		wantTexts(t, since(t, s, a.Cursor(), "wide/1"))
	})

	t.Run("a timeout's cursor goes on from there", func(t *testing.T) {
		comettest.Publish(t, s, "calm=1")
		a := comettest.Push(t, s, "field=calm&calm=1&wait=0&format=json")
		wantTexts(t, a)
		comettest.Publish(t, s, "calm=2")
		wantTexts(t, since(t, s, a.Cursor(), "calm"), "calm=2")
	})

	t.Run("HEAD tells a cursor to go on from", func(t *testing.T) {
		comettest.Publish(t, s, "peek=1")
		a := s.Do(t, request{Method: "HEAD", URL: "/push?field=peek&peek=1"})
		comettest.Publish(t, s, "peek=2")
		wantTexts(t, since(t, s, a.Cursor(), "peek"), "peek=2")
	})
}

func TestGaps(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`comet {
		history 3 1h
	}`)+`
http://127.0.0.1:{$HTTP} {
`+open+`
}`)
	wantGap := func(t *testing.T, a comettest.Answer, fields ...string) {
		t.Helper()
		if a.Status != 200 || a.JSON == nil || !a.Missed() || !a.JSON.Missed {
			t.Fatalf("got %s; want a gap", a)
		}
		if got := slices.Sorted(slices.Values(a.JSON.MissedFields)); !slices.Equal(got, fields) {
			t.Errorf("missed_fields is %q; want %q", got, fields)
		}
	}
	many := func(field string, from, to int) {
		for i := from; i <= to; i++ {
			comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, i))
		}
	}

	t.Run("a cursor older than what is kept is a gap with what is still kept", func(t *testing.T) {
		cursor := comettest.Publish(t, s, "old=0").Cursor()
		comettest.Publish(t, s, "other=0")
		many("old", 1, 5)
		a := comettest.Push(t, s, "format=json&field=old&field=other&after="+escape(cursor))
		wantGap(t, a, "old")
		wantTexts(t, a, "other=0", "old=3", "old=4", "old=5")
		wantText(t, comettest.Push(t, s, "format=text&field=old&after="+escape(cursor)), "YES\n")
		b := since(t, s, a.Cursor(), "old", "other")
		if wantTexts(t, b); b.Missed() {
			t.Errorf("the gap is told twice: %s", b)
		}
	})

	t.Run("a cursor just at what is kept is none", func(t *testing.T) {
		many("edge", 0, 1)
		cursor := now(t, s)
		many("edge", 2, 4)
		a := since(t, s, cursor, "edge")
		if wantTexts(t, a, "edge=2", "edge=3", "edge=4"); a.Missed() || a.JSON.Missed {
			t.Errorf("a gap is told where there is none: %s", a)
		}
		many("edge", 5, 5)
		wantGap(t, since(t, s, cursor, "edge"), "edge")
	})

	t.Run("messages of other fields make no gap", func(t *testing.T) {
		comettest.Publish(t, s, "still=1")
		cursor := now(t, s)
		many("flood", 1, 20)
		a := since(t, s, cursor, "still")
		if wantTexts(t, a); a.Missed() {
			t.Errorf("a gap is told where there is none: %s", a)
		}
	})

	t.Run("a field deleted and published again is a gap for older cursors", func(t *testing.T) {
		cursor := comettest.Publish(t, s, "reborn=1").Cursor()
		comettest.Publish(t, s, "reborn=2")
		wantStatus(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=reborn"}), 200)
		comettest.Publish(t, s, "reborn=3")
		a := since(t, s, cursor, "reborn")
		wantGap(t, a, "reborn")
		wantTexts(t, a, "reborn=3")
	})

	t.Run("a cursor of another epoch is a gap with the latest message of each field", func(t *testing.T) {
		other := comettest.Start(t, site(open))
		foreign := comettest.Publish(t, other, "id=1").Cursor()
		many("epoch/1", 1, 2)
		many("epoch/2", 1, 1)
		for _, header := range []string{"", foreign} {
			query := "format=json&field=epoch/1&field=epoch/2&field=epoch/3"
			if header == "" {
				query += "&after=" + escape(foreign)
			}
			a := s.Do(t, request{URL: "/push?" + query, Header: map[string]string{"Last-Event-ID": header}})
			if !a.Missed() || a.JSON == nil || !a.JSON.Missed {
				t.Fatalf("got %s; want a gap", a)
			}
			wantTexts(t, a, "epoch/1=2", "epoch/2=1")
		}
		wantText(t, comettest.Push(t, s, "field=epoch/1&after="+escape(foreign)), "YES\n")
		wantText(t, comettest.Push(t, s, "field=epoch/3&after="+escape(foreign)), "YES\n")
	})

	t.Run("without a gap nothing speaks of one", func(t *testing.T) {
		cursor := now(t, s)
		comettest.Publish(t, s, "whole=1")
		a := since(t, s, cursor, "whole")
		if a.Header.Get("Comet-Missed") != "" || a.JSON.Raw["missed"] != nil || a.JSON.Raw["missed_fields"] != nil {
			t.Errorf("got %s; want no word of a gap", a)
		}
	})
}
