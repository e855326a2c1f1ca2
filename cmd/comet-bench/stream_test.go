package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// streamed is what a stream of Comet has, by its parts.
var streamed = []string{
	"retry: 2000\nid: k3v.17\nevent: comet-session\ndata: {\"session\":\"S\",\"retry\":2000}\n\n",
	":\n\n",
	"id: k3v.18\ndata: 1000000001   \n\n",
	"id: k3v.19\nevent: comet-missed\ndata: {\"missed\":true}\n\n",
	"id: k3v.20\ndata: 1000000003\n\n",
}

func TestAStreamIsCutHoweverItComes(t *testing.T) {
	body := strings.Join(streamed, "")
	chunks := fmt.Sprintf("6;a=b\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n", body[:6], len(body)-6, body[6:])
	for text, chunked := range map[string]bool{body: false, chunks: true} {
		for first := range len(text) {
			p := parts{cut: event, chunked: chunked}
			var got []string
			for _, b := range []string{text[:first], text[first : first+1], text[first+1:]} {
				ended, err := p.read([]byte(b), func(part []byte) bool {
					got = append(got, string(part))
					return true
				})
				if err != nil || ended && !chunked {
					t.Fatalf("%q: ended %t, %v", b, ended, err)
				}
			}
			if !slices.Equal(got, streamed) {
				t.Fatalf("split at %d: got %q", first, got)
			}
		}
	}
}

func TestAStreamThatIsNoneIsTold(t *testing.T) {
	p := parts{cut: event, chunked: true}
	if _, err := p.read([]byte("no chunk\r\n"), nil); err == nil {
		t.Error("what is no chunk is taken for one")
	}
	p = parts{cut: event}
	if _, err := p.read(make([]byte, maxAnswer+1), nil); err == nil {
		t.Error("an event without end is waited for")
	}
}

func TestWhatIsNotWantedOfAStreamIsNotRead(t *testing.T) {
	p, n := parts{cut: event}, 0
	if _, err := p.read([]byte(strings.Join(streamed, "")), func([]byte) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("%d parts, %v", n, err)
	}
}

func TestAClientOfAStreamTellsMessagesFromTheRest(t *testing.T) {
	d := dialects["comet-sse"]
	var positions []string
	f, r := follower{next: firstMessage + 1, missing: map[int]bool{}}, new(resume)
	for _, part := range streamed {
		a := &answer{status: 200, body: []byte(part), part: true}
		if !d.woken(a) {
			continue
		}
		positions = append(positions, d.position(a, 0))
		numbers, gap, err := d.messages(a)
		if err != nil {
			t.Fatal(err)
		}
		if gap {
			r.Gaps++
		}
		for _, number := range numbers {
			f.see(number, r)
		}
	}
	if want := []string{"k3v.18", "k3v.19", "k3v.20"}; !slices.Equal(positions, want) || r.Gaps != 1 || r.Lost != 1 || f.next != firstMessage+4 {
		t.Errorf("positions %q, %+v, next %d", positions, r, f.next)
	}
}
