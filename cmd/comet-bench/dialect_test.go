package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAFieldIsPutWhereTheDialectHasIt(t *testing.T) {
	for _, c := range []struct{ template, otherwise, want string }{
		{"/push", "field={field}&format=json", "/push?field=bench/1&format=json"},
		{"/push?wait=60", "field={field}", "/push?wait=60&field=bench/1"},
		{"/sub", "/{field}", "/sub/bench/1"},
		{"/sub/?a=b", "/{field}", "/sub/bench/1?a=b"},
		{"/", "/{field}", "/bench/1"},
		{"/sub?id={field}", "/{field}", "/sub?id=bench/1"},
		{"/config", "", "/config"},
	} {
		if got := expand(c.template, c.otherwise, "bench/1"); got != c.want {
			t.Errorf("expand(%q, %q) is %q; want %q", c.template, c.otherwise, got, c.want)
		}
	}
}

func TestClientsCarryTheirPosition(t *testing.T) {
	for _, c := range []struct {
		dialect string
		answer  string
		path    string
		header  []string
	}{
		{"comet", "Comet-Cursor: k3v.17\r\n", "/p&after=k3v.17", nil},
		{
			"nchan", "Last-Modified: Sat, 21 Nov 2026 20:08:25 GMT\r\nEtag: 3\r\n", "/p",
			[]string{"If-Modified-Since", "Sat, 21 Nov 2026 20:08:25 GMT", "If-None-Match", "3"},
		},
		{"nchan-sse", "id: 1795291705:3", "/p", []string{"Last-Event-ID", "1795291705:3"}},
		{"comet-sse", "id: k3v.17", "/p&after=k3v.17", nil},
		{"comet-forward", "Comet-Cursor: k3v.17\r\n", "/p", []string{"Comet-Cursor", "k3v.17"}},
		{"lua", "", "/p&id=12", nil},
		{"floor", "", "/p", nil},
	} {
		d := dialects[c.dialect]
		a := answer{body: []byte(c.answer)}
		if d.cut == nil {
			var err error
			if a, _, err = parseAnswer([]byte("HTTP/1.1 200 OK\r\n"+c.answer+"Content-Length: 0\r\n\r\n"), false); err != nil {
				t.Fatal(err)
			}
		}
		r := d.hold("/p", d.position(&a, 12))
		if diff := cmp.Diff(c.header, r.header); r.path != c.path || diff != "" {
			t.Errorf("%s: comes back with %s %q", c.dialect, r.path, r.header)
		}
	}
}

func TestAPublisherOfNchanLearnsThePosition(t *testing.T) {
	a := &answer{body: []byte("queued messages: 1\r\nlast requested: -1 sec. ago\r\nactive subscribers: 0\r\nlast message id: 1795291705:2")}
	got, err := nchanPublished(a, 0)
	if want := "Sat, 21 Nov 2026 20:08:25 GMT|2"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := nchanPublished(&answer{body: []byte("OK")}, 0); err == nil {
		t.Error("an answer without an id is taken")
	}
}

func TestAFollowerTellsLostRepeatedAndDisordered(t *testing.T) {
	for _, c := range []struct {
		seen                       []int
		lost, repeated, disordered int
	}{
		{[]int{1, 2, 3}, 0, 0, 0},
		{[]int{1, 3}, 1, 0, 0},
		{[]int{1, 2, 2, 3}, 0, 1, 0},
		{[]int{1, 3, 2, 4}, 0, 0, 1},
		{[]int{1, 4, 2, 2, 5}, 1, 1, 1},
	} {
		f, r := follower{next: 1, missing: map[int]bool{}}, new(resume)
		for _, number := range c.seen {
			f.see(number, r)
		}
		if r.Lost != c.lost || r.Repeated != c.repeated || r.Disordered != c.disordered {
			t.Errorf("%v: lost %d, repeated %d, disordered %d; want %d, %d, %d",
				c.seen, r.Lost, r.Repeated, r.Disordered, c.lost, c.repeated, c.disordered)
		}
	}
}
