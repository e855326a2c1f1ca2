package main_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// startSockets starts a server with two sites, a plain one and one over TLS, whose hold
// routes have the default formats, WebSocket among them.
func startSockets(t *testing.T, global, options string, opts ...comettest.Option) *comettest.Server {
	t.Helper()
	return comettest.Start(t, both(global, sockets(options)), opts...)
}

func sockets(options string) string {
	return "\tlog\n\tcomet {\n\t\tpublish /config\n\t\thold /push {\n\t\t\tfield id news fresh/*\n\t\t\t" + options + "\n\t\t}\n\t}\n"
}

// The opcodes of frames.
const (
	continuation = 0
	textFrame    = 1
	binaryFrame  = 2
	closeFrame   = 8
	pingFrame    = 9
	pongFrame    = 10
	final        = 0x80 // in the first byte of the last frame of a message
)

// socket is a WebSocket from the side of a client, which sends whatever a test wants.
type socket struct {
	*link
	queue []comettest.Message // that came in a frame with more
}

const socketKey = "dGhlIHNhbXBsZSBub25jZQ=="

// upgrade asks for a WebSocket and returns the answer's head.
func upgrade(t *testing.T, l *link, target string, header ...string) *http.Response {
	t.Helper()
	l.get(target, slices.Concat([]string{
		"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + socketKey,
	}, header)...)
	res, err := http.ReadResponse(l.r, &http.Request{Method: http.MethodGet})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// openSocket opens a WebSocket over a link.
func openSocket(t *testing.T, l *link, target string, header ...string) *socket {
	t.Helper()
	res := upgrade(t, l, target, header...)
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("%s: got %s %v %.300q; want an upgrade", target, res.Status, res.Header, body)
	}
	sum := sha1.Sum([]byte(socketKey + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got := res.Header.Get("Sec-WebSocket-Accept"); got != base64.StdEncoding.EncodeToString(sum[:]) {
		t.Errorf("Sec-WebSocket-Accept is %q", got)
	}
	if got := res.Header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("the extension %q is on by default", got)
	}
	return &socket{link: l}
}

// frame returns a masked frame. first is its first byte.
func frame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

func (s *socket) send(first byte, payload string) {
	s.t.Helper()
	s.say(string(frame(first, payload)))
}

// nextFrame reads a frame.
func (s *socket) nextFrame() (first byte, payload []byte, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(s.r, head); err != nil {
		return 0, nil, err
	}
	length := uint64(head[1])
	if length&0x80 != 0 {
		return 0, nil, errors.New("a frame of the server is masked")
	}
	if length >= 126 {
		more := make([]byte, map[uint64]int{126: 2, 127: 8}[length])
		if _, err := io.ReadFull(s.r, more); err != nil {
			return 0, nil, err
		}
		length = binary.BigEndian.Uint64(append(make([]byte, 8-len(more)), more...))
	}
	if length > 64<<20 {
		return 0, nil, fmt.Errorf("a frame of %d bytes", length)
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(s.r, payload)
	return head[0], payload, err
}

// wantFrame reads frames until one of this kind comes, past pings and, when it is no
// text that is wanted, past text.
func (s *socket) wantFrame(opcode byte) []byte {
	s.t.Helper()
	for {
		first, payload, err := s.nextFrame()
		if err != nil {
			s.t.Fatalf("waiting for a frame %d: %v", opcode, err)
		}
		switch first {
		case final | opcode:
			return payload
		case final | pingFrame, final | textFrame:
		default:
			s.t.Fatalf("got a frame %#x with %.200q; want one with the opcode %d", first, payload, opcode)
		}
	}
}

// next returns the next message.
func (s *socket) next() comettest.Message {
	s.t.Helper()
	for len(s.queue) == 0 {
		text := s.wantFrame(textFrame)
		var told struct {
			comettest.Message
			Messages []comettest.Message `json:"messages"`
		}
		if err := json.Unmarshal(text, &told); err != nil {
			s.t.Fatalf("%.300q: %v", text, err)
		}
		s.queue = told.Messages
		if told.Field != "" {
			s.queue = append(s.queue, told.Message)
		}
	}
	m := s.queue[0]
	s.queue = s.queue[1:]
	return m
}

// want reads the next messages and checks their data.
func (s *socket) want(data ...string) (last comettest.Message) {
	s.t.Helper()
	for _, d := range data {
		if last = s.next(); last.Text() != d || last.Cursor == "" {
			s.t.Fatalf("got %+v; want %.200q with a cursor", last, d)
		}
	}
	return last
}

// wantClosed checks that the server closes with one of these codes, and then ends the
// connection.
func (s *socket) wantClosed(codes ...int) {
	s.t.Helper()
	payload := s.wantFrame(closeFrame)
	code := 1005 // none told
	if len(payload) >= 2 {
		code = int(binary.BigEndian.Uint16(payload))
	}
	if !slices.Contains(codes, code) {
		s.t.Errorf("it is closed with %d %q; want one of %v", code, payload, codes)
	}
	s.send(final|closeFrame, string(payload[:min(2, len(payload))]))
	if _, err := io.ReadAll(s.r); isTimeout(err) {
		s.t.Error("the connection is not closed")
	}
}

// overSockets runs a test over both links, against a server of each of the parkings.
func overSockets(t *testing.T, global, options string, test func(t *testing.T, s *comettest.Server, dial func() *link, field string)) {
	t.Helper()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startSockets(t, global, options, p.opts...)
			for _, l := range links {
				t.Run(l.name, func(t *testing.T) {
					test(t, s, func() *link { t.Helper(); return l.dial(t, s) }, freshField(t, s))
				})
			}
		})
	}
}

func TestAWebSocketTellsMessagesInOrderAndResumes(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		ws := openSocket(t, dial(), "/push?after=now&field="+field)
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
			comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, i))
		}
		last := ws.want(want...)
		if last.Field != field {
			t.Errorf("got %+v; want the field %s", last, field)
		}
		ws.Close()
		comettest.WaitSubscribers(t, s, field, 0)
		comettest.Publish(t, s, field+"=while away")
		ws = openSocket(t, dial(), "/push?field="+field+"&after="+escape(last.Cursor))
		ws.want("while away")
		body := large(200_000)
		comettest.Publish(t, s, field+"="+body)
		ws.want(body)
	})
}

func TestAWebSocketChangesWhatItWatches(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		late := freshField(t, s)
		cursor := now(t, s)
		ws := openSocket(t, dial(), "/push?after=now&field="+field)
		comettest.Publish(t, s, late+"=1")
		ws.send(final|textFrame, fmt.Sprintf(`{"watch":[%q],"after":%q}`, late, cursor))
		text := string(ws.wantFrame(textFrame)) // before what is late
		for strings.Contains(text, `"session"`) || strings.HasPrefix(text, `{"cursor"`) {
			text = string(ws.wantFrame(textFrame))
		}
		if want := fmt.Sprintf(`{"watch":[%q,%q]}`, field, late); text != want {
			t.Errorf("told %s; want %s", text, want)
		}
		ws.want("1")
		comettest.Publish(t, s, late+"=2&"+field+"=a")
		ws.want("2", "a")
		ws.send(final|textFrame, fmt.Sprintf(`{"unwatch":[%q]}`, field))
		comettest.WaitSubscribers(t, s, field, 0)
		comettest.Publish(t, s, field+"=no&"+late+"=3")
		ws.want("3")
		comettest.Publish(t, s, field+"=b")
		// In pieces, with a ping between them.
		text = fmt.Sprintf(`{"watch":[%q]}`, field)
		ws.send(textFrame, text[:5])
		ws.send(final|pingFrame, "between")
		ws.send(continuation, text[5:9])
		ws.send(continuation, "")
		ws.send(final|continuation, text[9:])
		if pong := ws.wantFrame(pongFrame); string(pong) != "between" {
			t.Errorf("the pong says %q", pong)
		}
		ws.want("b")
		comettest.Publish(t, s, field+"=c")
		ws.want("c")
		// Nothing at all, and then something again.
		ws.send(final|textFrame, fmt.Sprintf(`{"unwatch":[%q,%q]}`, field, late))
		for text = ""; text != `{"watch":[]}`; {
			text = string(ws.wantFrame(textFrame))
		}
		comettest.Publish(t, s, field+"=no")
		ws.send(final|textFrame, fmt.Sprintf(`{"watch":[%q]}`, late))
		comettest.WaitSubscribers(t, s, late, 1)
		comettest.Publish(t, s, field+"=no&"+late+"=4")
		ws.want("4")
	})
}

// Whatever clients change, and whenever, what they watch in the end is what they are
// told.
func TestWebSocketsChangeWhatTheyWatchAtRandom(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, _ string) {
		fields := []string{freshField(t, s), freshField(t, s), freshField(t, s), freshField(t, s)}
		end := freshField(t, s)
		cursors := []string{now(t, s)}
		random := rand.New(rand.NewPCG(1, 2))
		some := func() []string {
			var picked []string
			for _, name := range fields {
				if random.IntN(2) == 0 {
					picked = append(picked, name)
				}
			}
			return picked
		}
		var all []*socket
		for range 8 {
			all = append(all, openSocket(t, dial(), "/push?after=now&field="+fields[0]))
		}
		for range 60 {
			for _, ws := range all {
				c := change{}
				if names := some(); random.IntN(3) > 0 {
					c["watch"] = names
				}
				if names := some(); random.IntN(3) > 0 {
					c["unwatch"] = names
				}
				if random.IntN(3) == 0 {
					c["after"] = cursors[random.IntN(len(cursors))]
				}
				text, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				ws.send(final|textFrame, string(text))
			}
			a := comettest.Publish(t, s, fields[random.IntN(len(fields))]+"=x&"+fields[random.IntN(len(fields))]+"=y")
			cursors = append(cursors, a.Cursor())
		}
		last := change{"watch": []string{end}, "unwatch": fields}
		text, err := json.Marshal(last)
		if err != nil {
			t.Fatal(err)
		}
		for _, ws := range all {
			ws.send(final|textFrame, string(text))
			for want := fmt.Sprintf(`{"watch":[%q]}`, end); string(ws.wantFrame(textFrame)) != want; {
			}
		}
		comettest.Publish(t, s, fields[0]+"=no&"+end+"=the end")
		for _, ws := range all {
			if m := ws.next(); m.Field != end || m.Text() != "the end" {
				t.Errorf("got %+v; want the end", m)
			}
			ws.Close()
		}
	})
}

// What is not allowed is told, by a message or by the end, and never given.
func TestAWebSocketIsRefusedWhatARequestIs(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		if res := upgrade(t, dial(), "/push?field=secret"); res.StatusCode != 403 {
			t.Errorf("got %s; want 403", res.Status)
		}
		var many []string
		for i := range 65 {
			many = append(many, fmt.Sprintf(`"fresh/x%d"`, i))
		}
		for text, status := range map[string]int{
			`{"watch":["secret"]}`:                        403,
			`{"watch":["news","secret"]}`:                 403,
			`{"watch":[` + strings.Join(many, ",") + `]}`: 400,
			`{"watch":["news"],"after":"nonsense"}`:       400,
			`nonsense`:                                    400,
		} {
			ws := openSocket(t, dial(), "/push?after=now&field="+field)
			ws.send(final|textFrame, text)
			var told struct {
				Error  string
				Status int
			}
			for told.Status == 0 {
				frame := ws.wantFrame(textFrame)
				if err := json.Unmarshal(frame, &told); err != nil {
					t.Fatalf("%.60s: got %q: %v", text, frame, err)
				}
			}
			if told.Status != status || told.Error == "" {
				t.Errorf("%.60s: told %+v; want the status %d", text, told, status)
			}
			comettest.Publish(t, s, "secret=1&news=1&"+field+"=allowed")
			if m := ws.next(); m.Field != field {
				t.Errorf("%.60s: got %+v", text, m)
			}
			ws.Close()
		}
	})
}

func TestOnlyPagesOfTheSiteOpenAWebSocket(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		target := "/push?after=now&field=" + field
		for _, origin := range []string{"https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost.evil.example", "nonsense"} {
			if res := upgrade(t, dial(), target, "Origin: "+origin); res.StatusCode != http.StatusForbidden {
				t.Errorf("Origin: %s gets %s; want 403", origin, res.Status)
			}
		}
		l := dial()
		scheme := map[bool]string{true: "http", false: "https"}[l.host == "127.0.0.1"]
		ws := openSocket(t, l, target, "Origin: "+scheme+"://"+l.host)
		comettest.Publish(t, s, field+"=1")
		ws.want("1")
	})
}

// A browser sends its cookies with a WebSocket whatever the page wants.
func TestPagesOfOtherOriginsOpenAWebSocketWithCredentialsWhereTheRouteSaysSo(t *testing.T) {
	t.Parallel()
	const page = "Origin: https://app.example.com"
	for options, want := range map[string]map[string]int{
		"cors {\n\t\t\t\torigins *\n\t\t\t}":                                              {"": 101, "Cookie: a=b": 403, "Authorization: Basic dTpw": 403},
		"cors {\n\t\t\t\torigins https://app.example.com\n\t\t\t\tcredentials\n\t\t\t}":   {"": 101, "Cookie: a=b": 101},
		"cors {\n\t\t\t\torigins https://other.example.com\n\t\t\t\tcredentials\n\t\t\t}": {"": 403, "Cookie: a=b": 403},
	} {
		s := startSockets(t, "", options)
		for credentials, status := range want {
			header := []string{page}
			if credentials != "" {
				header = append(header, credentials)
			}
			if res := upgrade(t, plainLink(t, s), "/push?after=now", header...); res.StatusCode != status {
				t.Errorf("%s, %q: got %s; want %d", options, credentials, res.Status, status)
			}
		}
	}
}

func TestAnUpgradeThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		target := "/push?format=ws&after=now&field=" + field
		for name, header := range map[string][]string{
			"no upgrade":     nil,
			"no key":         {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"},
			"a short key":    {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"},
			"an old version": {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: " + socketKey},
		} {
			l := dial()
			l.get(target, header...)
			a := l.answer()
			if wantStatus(t, a, 400, 426); a.Status == 426 && a.Header.Get("Upgrade") == "" && a.Header.Get("Sec-WebSocket-Version") == "" {
				t.Errorf("%s: got %s; want to be told what to upgrade to", name, a)
			}
		}
		comettest.WaitSubscribers(t, s, field, 0)
	})
}

func TestAWebSocketAnswersPingsAndSendsThem(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "heartbeat 1s", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		ws := openSocket(t, dial(), "/push?after=now&field="+field)
		for _, payload := range []string{"", "hello", strings.Repeat("x", 125)} {
			ws.send(final|pingFrame, payload)
			if pong := ws.wantFrame(pongFrame); string(pong) != payload {
				t.Errorf("the pong says %q; want %q", pong, payload)
			}
		}
		ws.send(final|pongFrame, "unasked")
		for range 2 {
			ping := ws.wantFrame(pingFrame)
			ws.send(final|pongFrame, string(ping))
		}
		comettest.Publish(t, s, field+"=1")
		ws.want("1")
	})
}

// Of a client that is gone without a word nothing is heard: no network tells of it.
func TestAWebSocketThatAnswersNoPingIsClosed(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "heartbeat 1s", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		silent := openSocket(t, dial(), "/push?after=now&field="+field)
		dribbles := openSocket(t, dial(), "/push?after=now&field="+field) // a message that has no end
		answers := openSocket(t, dial(), "/push?after=now&field="+field)
		comettest.WaitSubscribers(t, s, field, 3)
		start := time.Now()
		dribbles.send(textFrame, "{")
		for range 4 {
			answers.send(final|pongFrame, string(answers.wantFrame(pingFrame)))
			_, _ = dribbles.Write(frame(continuation, " "))
		}
		for _, ws := range []*socket{silent, dribbles} {
			if code := string(ws.wantFrame(closeFrame)); code != "\x03\xe9" {
				t.Errorf("it is closed with %q; want 1001", code)
			}
		}
		elapsed(t, "the end", start, 2*time.Second, 15*time.Second)
		comettest.WaitSubscribers(t, s, field, 1)
		comettest.Publish(t, s, field+"=1")
		answers.want("1")
	})
}

func TestASessionChangesWhatAWebSocketWatches(t *testing.T) {
	t.Parallel()
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		late := freshField(t, s)
		ws := openSocket(t, dial(), "/push?after=now&field="+field)
		var head struct{ Session string }
		if err := json.Unmarshal(ws.wantFrame(textFrame), &head); err != nil || head.Session == "" {
			t.Fatalf("it begins with %+v, %v", head, err)
		}
		mustControl(t, s, head.Session, change{"watch": []string{late}, "unwatch": []string{field}})
		comettest.Publish(t, s, field+"=no&"+late+"=yes")
		ws.want("yes")
	})
}

func TestAWebSocketIsClosedAsItsProtocolHasIt(t *testing.T) {
	t.Parallel()
	huge := func(length uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{final | textFrame, 0x80 | 127}, length), 1, 2, 3, 4, 'x')
	}
	unmasked := []byte{final | textFrame, 2, '{', '}'}
	status := func(code uint16, reason string) string {
		return string(binary.BigEndian.AppendUint16(nil, code)) + reason
	}
	cases := []struct {
		name  string
		bytes []byte
		codes []int
	}{
		{"a close", frame(final|closeFrame, status(1000, "bye")), []int{1000}},
		{"a close without a code", frame(final|closeFrame, ""), []int{1005, 1000}},
		{"a close of the application's own", frame(final|closeFrame, status(4000, "")), []int{4000, 1000}},
		{"a close with one byte", frame(final|closeFrame, "x"), []int{1002}},
		{"a close with a code that must not be sent", frame(final|closeFrame, status(1005, "")), []int{1002}},
		{"a close with a code that there is not", frame(final|closeFrame, status(999, "")), []int{1002}},
		{"a close with a reason that is no text", frame(final|closeFrame, status(1000, "\xff")), []int{1002, 1007}},
		{"a frame without a mask", unmasked, []int{1002}},
		{"reserved bits", frame(final|0x40|textFrame, "{}"), []int{1002}},
		{"an unknown opcode", frame(final|3, "{}"), []int{1002}},
		{"an unknown control frame", frame(final|11, ""), []int{1002}},
		{"a ping in pieces", frame(pingFrame, "x"), []int{1002}},
		{"a ping that is too long", frame(final|pingFrame, strings.Repeat("x", 126)), []int{1002}},
		{"a continuation of nothing", frame(final|continuation, "{}"), []int{1002}},
		{"a message inside another", slices.Concat(frame(textFrame, "{"), frame(final|textFrame, "}")), []int{1002}},
		{"text that is none", frame(final|textFrame, "\xff\xfe"), []int{1007}},
		{"a negative length", huge(1 << 63), []int{1002, 1009}},
		{"a length beyond all memory", huge(1 << 62), []int{1009}},
		{"a gibibyte", huge(1 << 30), []int{1009}},
		{"pieces without end", bytes.Repeat(frame(textFrame, strings.Repeat(" ", 60_000)), 1), nil},
	}
	overSockets(t, "", "", func(t *testing.T, s *comettest.Server, dial func() *link, field string) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				l := dial()
				l.t = t
				ws := openSocket(t, l, "/push?after=now&field="+field)
				comettest.WaitSubscribers(t, s, field, 1)
				if c.codes == nil {
					// The server may have closed before all of them are written.
					_, _ = ws.Write(c.bytes)
					more := frame(continuation, strings.Repeat(" ", 60_000))
					for range 200 {
						if _, err := ws.Write(more); err != nil {
							break
						}
					}
				} else {
					ws.say(string(c.bytes))
					ws.wantClosed(c.codes...)
				}
				comettest.WaitSubscribers(t, s, field, 0)
				if c.codes == nil {
					ws.Close()
				}
			})
		}
		t.Run("frames of one byte each", func(t *testing.T) {
			ws := openSocket(t, dial(), "/push?after=now&field="+field)
			for _, b := range frame(final|pingFrame, "slow") {
				ws.say(string([]byte{b}))
			}
			if pong := ws.wantFrame(pongFrame); string(pong) != "slow" {
				t.Errorf("the pong says %q", pong)
			}
		})
		t.Run("half a frame, and no more", func(t *testing.T) {
			comettest.WaitSubscribers(t, s, field, 1) // that of before
			ws := openSocket(t, dial(), "/push?after=now&field="+field)
			comettest.WaitSubscribers(t, s, field, 2)
			ws.say(string(frame(final|textFrame, "{}")[:3]))
			comettest.Publish(t, s, field+"=1")
			ws.want("1")
			ws.reset()
			comettest.WaitSubscribers(t, s, field, 1)
		})
	})
}

func TestAReloadCutsNoWebSocketAndAnExitClosesAll(t *testing.T) {
	t.Parallel()
	const drain = "comet {\n\t\tdrain 1s\n\t}"
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startSockets(t, drain, "", p.opts...)
			field := freshField(t, s)
			var all []*socket
			for i := range 10 {
				all = append(all, openSocket(t, links[i%2].dial(t, s), "/push?after=now&field="+field))
			}
			for round := range 3 {
				s.Reload(t, both(drain, fmt.Sprintf("\theader X-Round %d\n", round)+sockets("")))
				comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, round))
				for _, ws := range all {
					ws.want(fmt.Sprint(round))
				}
			}
			start := time.Now()
			if err := s.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for _, ws := range all {
				ws.wantClosed(1001, 1012)
			}
			s.WaitExit(t)
			elapsed(t, "the exit with drain 1s", start, 0, 15*time.Second)
		})
	}
}
