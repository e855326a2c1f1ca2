package main

import (
	"errors"
	"strings"
	"testing"
)

var answers = []struct {
	name   string
	text   string
	eof    bool // it ends with the connection
	status int
	body   string
	close  bool
	header map[string]string
}{
	{
		name: "with a length", text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nComet-Cursor: abc.12\r\n\r\nhello",
		status: 200, body: "hello", header: map[string]string{"comet-cursor": "abc.12", "Content-Length": "5", "Etag": ""},
	},
	{
		name: "with names and values in other cases", text: "HTTP/1.1 200 OK\r\ncontent-LENGTH:  2 \r\nLAST-MODIFIED:Sat, 21 Nov 2026 20:08:25 GMT\r\nEtag: 0\r\nconnection: Keep-Alive, CLOSE\r\n\r\nhi",
		status: 200, body: "hi", close: true,
		header: map[string]string{"Last-Modified": "Sat, 21 Nov 2026 20:08:25 GMT", "Etag": "0"},
	},
	{name: "with an empty body", text: "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", status: 408},
	{name: "with no body", text: "HTTP/1.1 304 Not Modified\r\nEtag: 3\r\n\r\n", status: 304, header: map[string]string{"Etag": "3"}},
	{name: "with no reason", text: "HTTP/1.1 204\r\n\r\n", status: 204},
	{
		name: "in chunks", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n4\r\nYES\n\r\n1;a=b\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
		status: 200, body: "YES\n!",
	},
	{name: "in no chunks", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 200},
	{
		name: "after an interim one", text: "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
		status: 200, body: "x", header: map[string]string{"Link": ""},
	},
	{name: "of HTTP/1.0", text: "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", status: 200, body: "x", close: true},
	{name: "of HTTP/1.0 with keep-alive", text: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", status: 200, body: "x"},
	{name: "that ends with the connection", text: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", eof: true, status: 200, body: "to the end", close: true},
}

// TestAnswersAreReadHoweverTheyAreSplit gives each answer whole, and cut off at every
// byte: there it is incomplete, and nothing else.
func TestAnswersAreReadHoweverTheyAreSplit(t *testing.T) {
	for _, c := range answers {
		t.Run(c.name, func(t *testing.T) {
			for cut := range len(c.text) {
				if _, n, err := parseAnswer([]byte(c.text[:cut]), false); n != 0 || err != nil {
					t.Fatalf("of %q: %d, %v; want it to be incomplete", c.text[:cut], n, err)
				}
			}
			const next = "HTTP/1.1 500 "
			text := c.text
			if !c.eof {
				text += next
			}
			a, n, err := parseAnswer([]byte(text), c.eof)
			if err != nil || n != len(c.text) {
				t.Fatalf("%d of %d bytes, %v", n, len(c.text), err)
			}
			if a.status != c.status || string(a.body) != c.body || a.close != c.close {
				t.Errorf("got %d %q, close %t; want %d %q, close %t", a.status, a.body, a.close, c.status, c.body, c.close)
			}
			for name, want := range c.header {
				if got := a.get(name); got != want {
					t.Errorf("%s is %q; want %q", name, got, want)
				}
			}
		})
	}
}

func TestWhatIsNoAnswerIsTold(t *testing.T) {
	for _, text := range []string{
		"SSH-2.0-OpenSSH\r\n",
		"HTTP/2 200 OK\r\n\r\n",
		"HTTP/1.1 2x0 OK\r\n\r\n",
		"HTTP/1.1 200OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
	} {
		if _, _, err := parseAnswer([]byte(text), false); !errors.Is(err, errMalformed) {
			t.Errorf("%q: %v; want %v", text, err, errMalformed)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	for _, c := range answers {
		f.Add([]byte(c.text), c.eof)
	}
	f.Fuzz(func(t *testing.T, b []byte, eof bool) {
		a, n, err := parseAnswer(b, eof)
		if n < 0 || n > len(b) || err != nil && n != 0 {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if n > 0 && a.status < 200 {
			t.Fatalf("status %d", a.status)
		}
	})
}

func TestARequestIsThatOfABrowser(t *testing.T) {
	r := &request{method: "POST", path: "/config?field=a", body: "12", header: []string{"Content-Type", "text/plain"}}
	want := strings.ReplaceAll(`POST /config?field=a HTTP/1.1
Host: localhost:80
User-Agent: comet-bench
Accept: */*
Content-Type: text/plain
Content-Length: 2

12`, "\n", "\r\n")
	if got := string(r.appendTo(nil, "localhost:80")); got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}
