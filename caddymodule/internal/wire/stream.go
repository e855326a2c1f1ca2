package wire

import (
	"crypto/rand"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// MaxAnswer bounds the messages of one answer, and of one piece of a stream, in
// bytes: there is always at least one. The rest is there after its cursor.
const MaxAnswer = 1 << 20

// Piece is what a client is sent of a result.
type Piece struct {
	Cursor store.Cursor // after all that is in it
	Parts  [][]byte     // shared with other pieces, not to be changed

	encoded []*store.Encoded // what Parts are of: others share it while this is sent
}

// Len returns the length of all parts.
func (p *Piece) Len() int {
	n := 0
	for _, part := range p.Parts {
		n += len(part)
	}
	return n
}

// What messages are encoded as.
const (
	asData    store.Encoding = iota // as they were published
	asObject                        // an object of JSON, on a line
	asFrame                         // a frame of a WebSocket with the object
	asScript                        // a script that calls comet with the object
	asEvent                         // an event with the data
	asWrapped                       // an event with the object
	asPart                          // a part of multipart
)

var encoders = [...]func(m *store.Message, epoch string) []byte{
	asData: func(m *store.Message, _ string) []byte { return []byte(m.Data) },
	asObject: func(m *store.Message, epoch string) []byte {
		return append(MessageObject(m, epoch), '\n')
	},
	asFrame:  func(m *store.Message, epoch string) []byte { return textFrame(MessageObject(m, epoch)) },
	asScript: scriptOf,
	asEvent: func(m *store.Message, epoch string) []byte {
		return appendEvent(nil, m.Event, store.Cursor{Epoch: epoch, Position: m.Position}, eventData(m))
	},
	asWrapped: func(m *store.Message, epoch string) []byte {
		// The object names the event: a client that takes all messages listens to one.
		return appendEvent(nil, "", store.Cursor{Epoch: epoch, Position: m.Position}, string(MessageObject(m, epoch)))
	},
	asPart: partOf,
}

// encode has the messages of a result in an encoding, as many as fit, and the
// cursor after them.
func (p *Piece) encode(result store.Result, as store.Encoding) {
	p.Cursor = result.Cursor
	p.encoded = make([]*store.Encoded, 0, len(result.Messages))
	size := 0
	for i, m := range result.Messages {
		e := m.Encoded(as, func(m *store.Message) []byte { return encoders[as](m, result.Cursor.Epoch) })
		if size += len(e.Bytes); size > MaxAnswer && i > 0 {
			p.Cursor.Position = result.Messages[i-1].Position
			break
		}
		p.encoded = append(p.encoded, e)
	}
}

// Head returns the first bytes of a stream: its session, and after how long the
// client is to come back when it ends. The first piece follows, of what there is
// at this moment, so that the client has a cursor. There are clients that take the
// cursor from any event, so the first event has the one before that piece; it has
// none when the piece tells a gap, which is not to be missed.
//
// Where a page can see heartbeats it is told how often there are some: what is
// silent for longer is dead.
func (s Style) Head(session string, retry, heartbeat time.Duration, first store.Result) []byte {
	object := appendRetry(append(appendString([]byte(`{"session":`), session), ','), retry)
	if s.Wrap || s.Format == NDJSON || s.Format == Iframe {
		object = append(strconv.AppendInt(append(object[:len(object)-1], `,"heartbeat":`...), heartbeat.Milliseconds(), 10), '}')
	}
	switch s.Format {
	case SSE:
		var cursor store.Cursor
		if first.Missed == nil {
			cursor = before(first)
		}
		return appendEvent(retryLine(retry), "comet-session", cursor, string(object))
	case Multipart:
		return []byte("--" + boundary + "\r\nComet-Session: " + session + "\r\n")
	case Iframe:
		return append(iframeHead(s.Callback), s.tell(object)...)
	default:
		return s.tell(object)
	}
}

// End returns the last bytes of a stream that ends as it should.
func (s Style) End(retry time.Duration) []byte {
	switch s.Format {
	case SSE:
		return retryLine(retry) // without an empty line, which fetch-event-source takes for an event
	case Multipart:
		return nil // a closing boundary would put an empty part in place of the last one
	case WS: // 1001, after which clients come back
		return append(s.tell(appendRetry([]byte{'{'}, retry)), ws.CompiledCloseGoingAway...)
	default:
		return s.tell(appendRetry([]byte{'{'}, retry))
	}
}

// appendRetry appends the last member of an object.
func appendRetry(b []byte, retry time.Duration) []byte {
	return append(strconv.AppendInt(append(b, `"retry":`...), retry.Milliseconds(), 10), '}')
}

// Heartbeat returns what says nothing but that the stream is alive.
func (s Style) Heartbeat() []byte {
	switch {
	case s.Wrap:
		return []byte("event: comet-heartbeat\ndata: {}\n\n")
	case s.Format == SSE:
		return []byte(":\n") // as in End
	case s.Format == Multipart:
		return []byte("Comet-Heartbeat:\r\n") // into the head of the part to come
	case s.Format == Iframe:
		return s.tell([]byte("{}"))
	case s.Format == WS:
		return ws.CompiledPing
	default:
		return []byte("\n")
	}
}

// Piece returns what a stream is sent of a result: a gap, then the messages, then
// the cursor where none of these has it.
func (s Style) Piece(result store.Result) Piece {
	var p Piece
	as := s.encoding()
	p.encode(result, as)
	p.Parts = make([][]byte, 0, 2+len(p.encoded))
	var told store.Cursor
	if result.Missed != nil {
		told = p.Cursor
		if len(result.Messages) > 0 { // which who goes on from the gap has not seen
			told.Position = result.Messages[0].Position - 1
		}
		p.Parts = append(p.Parts, s.gap(result, told))
	}
	for i, e := range p.encoded {
		told = store.Cursor{Epoch: p.Cursor.Epoch, Position: result.Messages[i].Position}
		p.Parts = append(p.Parts, e.Bytes)
	}
	if told != p.Cursor && s.Format != Multipart { // which says it with the next part
		p.Parts = append(p.Parts, s.cursor(p.Cursor))
	}
	return p
}

// before returns the cursor to go on from for who has seen nothing of a result.
func before(result store.Result) store.Cursor {
	cursor := result.Cursor
	if len(result.Messages) > 0 {
		cursor.Position = result.Messages[0].Position - 1
	}
	return cursor
}

// encoding returns what the messages of a stream are encoded as.
func (s Style) encoding() store.Encoding {
	switch {
	case s.Wrap:
		return asWrapped
	case s.Format == SSE:
		return asEvent
	case s.Format == Multipart:
		return asPart
	case s.Format == Iframe:
		return asScript
	case s.Format == WS:
		return asFrame
	}
	return asObject
}

// gap returns what tells a gap.
func (s Style) gap(result store.Result, before store.Cursor) []byte {
	object := append(append([]byte{'{'}, missedMembers(result)...), `,"cursor":"`+before.String()+`"}`...)
	switch s.Format {
	case SSE:
		return appendEvent(nil, "comet-missed", before, string(object))
	case Multipart:
		return []byte("Comet-Missed: true\r\n") // into the head of the part to come
	default:
		return s.tell(object)
	}
}

// cursor returns what tells a cursor and nothing else.
func (s Style) cursor(c store.Cursor) []byte {
	if s.Format == SSE {
		return []byte("id: " + c.String() + "\n\n")
	}
	return s.tell([]byte(`{"cursor":"` + c.String() + `"}`))
}

// tell returns an object that is no message as the stream has it.
func (s Style) tell(object []byte) []byte {
	switch s.Format {
	case Iframe:
		return []byte(scriptStart + string(object) + scriptEnd)
	case WS:
		return textFrame(object)
	default:
		return append(object, '\n')
	}
}

// eventData returns the data of a message as an event has it without its object:
// what is no text as base64.
func eventData(m *store.Message) string {
	if utf8.ValidString(m.Data) {
		return m.Data
	}
	return base64.StdEncoding.EncodeToString([]byte(m.Data))
}

// appendEvent appends an event of an event stream. It has no id when the cursor is
// zero, and no event line when that is empty.
func appendEvent(b []byte, event string, cursor store.Cursor, data string) []byte {
	if cursor != (store.Cursor{}) {
		b = append(append(append(b, "id: "...), cursor.String()...), '\n')
	}
	if event != "" {
		b = append(append(append(b, "event: "...), oneLine(event)...), '\n')
	}
	for more := true; more; {
		var line string
		end := strings.IndexAny(data, "\r\n")
		if more = end >= 0; more {
			line, data = data[:end], strings.TrimPrefix(data[end:], "\r")
			data = strings.TrimPrefix(data, "\n")
		} else {
			line = data
		}
		b = append(append(append(b, "data: "...), line...), '\n')
	}
	return append(b, '\n')
}

func retryLine(retry time.Duration) []byte {
	return append(strconv.AppendInt([]byte("retry: "), retry.Milliseconds(), 10), '\n')
}

// oneLine returns s with a space for what would end a line.
func oneLine(s string) string { return lineEnds.Replace(s) }

var lineEnds = strings.NewReplacer("\r", " ", "\n", " ")

// boundary is that of all multipart streams. It is no secret once there is one, so
// a message may have it in it: see partOf.
var boundary = "comet-" + rand.Text()

// partOf returns a message as a part of multipart, up to the boundary behind it:
// a client that waits for that has the whole part at once. What stands between
// two boundaries is begun by the one before: the part before, or Head.
func partOf(m *store.Message, epoch string) []byte {
	data, encoding := m.Data, ""
	if strings.Contains(data, boundary) {
		// The hyphen of the boundary is none of base64.
		data, encoding = base64.StdEncoding.EncodeToString([]byte(data)), "Content-Transfer-Encoding: base64\r\n"
	}
	cursor := store.Cursor{Epoch: epoch, Position: m.Position}
	return []byte("Content-Type: " + typeOf(m) + "\r\n" + encoding +
		"Content-Length: " + strconv.Itoa(len(data)) + "\r\n" +
		"Comet-Cursor: " + cursor.String() + "\r\n" +
		"Comet-Field: " + FieldList([]string{m.Field}) + "\r\n\r\n" +
		data + "\r\n--" + boundary + "\r\n")
}
