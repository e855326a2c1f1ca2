package wire

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// frame returns a text as a server sends it. It is made by hand, as in section 5.2
// of RFC 6455.
func frame(text string) string {
	switch n := len(text); {
	case n < 126:
		return "\x81" + string([]byte{byte(n)}) + text
	case n < 1<<16:
		return "\x81\x7e" + string([]byte{byte(n >> 8), byte(n)}) + text
	default:
		panic("a longer text than these tests have")
	}
}

// fromClient returns a frame as a client sends it.
func fromClient(f ws.Frame) []byte {
	return ws.MustCompileFrame(ws.MaskFrameWith(f, [4]byte{1, 2, 3, 4}))
}

// piece returns a frame that is not the last of its message.
func piece(op ws.OpCode, text string) []byte { return fromClient(ws.NewFrame(op, false, []byte(text))) }

// The key and what answers it are those of RFC 6455, section 1.3.
func TestAWebSocketIsAcceptedAsItsStandardHasIt(t *testing.T) {
	for _, test := range []struct {
		name   string
		method string
		change map[string]string
		status int
	}{
		{"as it is", "GET", nil, 0},
		{"other words in Connection", "GET", map[string]string{"Connection": "keep-alive, Upgrade"}, 0},
		{"no word in Connection", "GET", map[string]string{"Connection": "keep-alive"}, 400},
		{"another method", "POST", nil, 400},
		{"no version", "GET", map[string]string{"Sec-Websocket-Version": ""}, 426},
		{"an old version", "GET", map[string]string{"Sec-Websocket-Version": "8"}, 426},
		{"no key", "GET", map[string]string{"Sec-Websocket-Key": ""}, 400},
		{"a key that is too short", "GET", map[string]string{"Sec-Websocket-Key": "AAAA"}, 400},
		{"a key that is no base64", "GET", map[string]string{"Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZ!=="}, 400},
	} {
		header := http.Header{
			"Upgrade": {"websocket"}, "Connection": {"Upgrade"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
		for name, value := range test.change {
			header.Set(name, value)
		}
		accept, e := AcceptSocket(test.method, header)
		switch {
		case test.status == 0 && (e != nil || accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="):
			t.Errorf("%s: got %q, %v", test.name, accept, e)
		case test.status != 0 && (e == nil || e.Status != test.status || accept != ""):
			t.Errorf("%s: got %q, %v; want %d", test.name, accept, e, test.status)
		}
	}
}

func TestFramesAreReadInWhateverPiecesTheyCome(t *testing.T) {
	closed := func(code ws.StatusCode, reason string) []byte {
		return fromClient(ws.NewCloseFrame(ws.NewCloseFrameBody(code, reason)))
	}
	refused := func(code ws.StatusCode) string {
		return "last " + string(ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, ""))))
	}
	long := strings.Repeat("x", MaxChange)
	for _, test := range []struct {
		name string
		sent [][]byte
		said []string
	}{
		{"nothing", nil, nil},
		{"a text", [][]byte{fromClient(ws.NewTextFrame([]byte("hello")))}, []string{"text hello"}},
		{"an empty text", [][]byte{fromClient(ws.NewTextFrame(nil))}, []string{"text "}},
		{"the longest text", [][]byte{fromClient(ws.NewTextFrame([]byte(long)))}, []string{"text " + long}},
		{"a longer one", [][]byte{fromClient(ws.NewTextFrame([]byte(long + "x")))}, []string{refused(1009)}},
		{"half a frame", [][]byte{fromClient(ws.NewTextFrame([]byte("hello")))[:9]}, nil},
		{"a text in pieces, with others between", [][]byte{
			piece(ws.OpText, "a"), fromClient(ws.NewPingFrame([]byte("p"))), piece(ws.OpContinuation, ""),
			fromClient(ws.NewPongFrame([]byte("q"))), fromClient(ws.NewFrame(ws.OpContinuation, true, []byte("é"))),
		}, []string{"reply \x8a\x01p", "text aé"}},
		{"pieces that are too much together", [][]byte{piece(ws.OpText, long), piece(ws.OpContinuation, ""), piece(ws.OpContinuation, "x")}, []string{refused(1009)}},
		{"a ping inside the longest text", [][]byte{
			piece(ws.OpText, long), fromClient(ws.NewPingFrame([]byte("p"))), fromClient(ws.NewFrame(ws.OpContinuation, true, nil)),
		}, []string{"reply \x8a\x01p", "text " + long}},
		{"no text", [][]byte{fromClient(ws.NewTextFrame([]byte("\xff")))}, []string{refused(1007)}},
		{"binary data", [][]byte{fromClient(ws.NewBinaryFrame([]byte("x")))}, []string{refused(1003)}},
		{"a continuation of nothing", [][]byte{piece(ws.OpContinuation, "")}, []string{refused(1002)}},
		{"a text inside another", [][]byte{piece(ws.OpText, ""), piece(ws.OpText, "")}, []string{refused(1002)}},
		{"no mask", [][]byte{ws.MustCompileFrame(ws.NewTextFrame([]byte("x")))}, []string{refused(1002)}},
		{"reserved bits", [][]byte{{0xc1, 0x80, 1, 2, 3, 4}}, []string{refused(1002)}},
		{"a length with its first bit set", [][]byte{{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}}, []string{refused(1002)}},
		{"a length beyond all memory", [][]byte{{0x81, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}}, []string{refused(1009)}},
		{"a close", [][]byte{closed(1000, "bye")}, []string{"last \x88\x05\x03\xe8bye"}},
		{"a close without a code", [][]byte{fromClient(ws.NewCloseFrame(nil))}, []string{"last \x88\x00"}},
		{"a close of the application's own", [][]byte{closed(4001, "")}, []string{"last \x88\x02\x0f\xa1"}},
		{"a close with one byte", [][]byte{fromClient(ws.NewCloseFrame([]byte("x")))}, []string{refused(1002)}},
		{"a close with a code that is not to be sent", [][]byte{closed(1006, "")}, []string{refused(1002)}},
	} {
		for _, size := range []int{1, 3, 4096, 1 << 20} {
			var (
				f    Frames
				said []string
				sent = bytes.Join(test.sent, nil)
			)
			for last := false; len(sent) > 0 && !last; {
				n := min(size, len(sent))
				f.Add(sent[:n])
				sent = sent[n:]
				for !last {
					s, ok := f.Next()
					if !ok {
						break
					}
					if s.Text != nil {
						said = append(said, "text "+string(s.Text))
					}
					if last = s.Last; last {
						said = append(said, "last "+string(s.Reply))
					} else if s.Reply != nil {
						said = append(said, "reply "+string(s.Reply))
					}
				}
			}
			if got, want := fmt.Sprintf("%.100q", said), fmt.Sprintf("%.100q", test.said); got != want {
				t.Errorf("%s, %d bytes at a time: got %s; want %s", test.name, size, got, want)
			}
		}
	}
}

func TestAWebSocketIsToldWhatItWatchesAndWhatIsWrong(t *testing.T) {
	if got, want := string(WatchedFrame([]string{"a", `"b"`})), frame(`{"watch":["a","\"b\""]}`); got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	if got, want := string(ErrorFrame(Errorf(403, "no %s", "<way>"))), frame(`{"error":"no \u003cway\u003e","status":403}`); got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

// What a client sends is read alike in one piece and byte by byte, and little of it
// is kept.
func FuzzFrames(f *testing.F) {
	f.Add(bytes.Join([][]byte{fromClient(ws.NewTextFrame([]byte("hello"))), fromClient(ws.NewPingFrame(nil)), fromClient(ws.NewCloseFrame(nil))}, nil))
	f.Add(bytes.Join([][]byte{piece(ws.OpText, "a"), piece(ws.OpContinuation, "b")}, nil))
	f.Add([]byte{0x81, 0xfe, 0xff, 0xff, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, sent []byte) {
		read := func(size int) string {
			var (
				frames Frames
				b      strings.Builder
			)
			for rest := sent; len(rest) > 0; {
				n := min(size, len(rest))
				frames.Add(rest[:n])
				rest = rest[n:]
				for {
					s, ok := frames.Next()
					if !ok {
						break
					}
					if s.Text == nil && s.Reply == nil || len(s.Text) > MaxChange {
						t.Fatalf("%d bytes of text and %q were said", len(s.Text), s.Reply)
					}
					fmt.Fprintf(&b, "%q %q %v\n", s.Text, s.Reply, s.Last)
					if s.Last {
						return b.String()
					}
				}
				if len(frames.unread) > size+MaxChange+ws.MaxHeaderSize || len(frames.text) > MaxChange {
					t.Fatalf("%d and %d bytes are kept", len(frames.unread), len(frames.text))
				}
			}
			return b.String()
		}
		if one, all := read(1), read(len(sent)+1); one != all {
			t.Errorf("byte by byte: %s\nat once: %s", one, all)
		}
	})
}
