package wire

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// MaxAnswer bounds the messages of one answer, in bytes: there is always at
// least one. The rest is there after its cursor.
const MaxAnswer = 1 << 20

// Answer is an answer to a held request, ready to be sent.
type Answer struct {
	Cursor store.Cursor
	Missed bool
	Parts  [][]byte // the body; shared with other answers, not to be changed

	encoded []*store.Encoded // what Parts are of: others share it while this is sent
}

// Len returns the length of the body.
func (a *Answer) Len() int {
	n := 0
	for _, p := range a.Parts {
		n += len(p)
	}
	return n
}

// ContentType returns the Content-Type of answers in a format.
func ContentType(format Format) string {
	if format == Text {
		return TextType
	}
	return mediaTypes[format]
}

var (
	yes = []byte("YES\n")
	no  = []byte("NO\n")
)

// NewAnswer returns what a client is told of a result, which has nothing to tell
// after a timeout. retry is after how long the client is to come back when it
// fails.
func NewAnswer(format Format, result store.Result, retry time.Duration) Answer {
	a := Answer{Cursor: result.Cursor, Missed: result.Missed != nil}
	if format == Text {
		a.Parts = [][]byte{no}
		if result.Ready() {
			a.Parts[0] = yes
		}
		return a
	}
	a.Parts = make([][]byte, 1, 2+2*len(result.Messages))
	size := 0
	for i, m := range result.Messages {
		encoded := m.Encoded(func(m *store.Message) []byte { return MessageObject(m, result.Cursor.Epoch) })
		object := encoded.Bytes
		if size += len(object); size > MaxAnswer && i > 0 {
			a.Cursor.Position = result.Messages[i-1].Position
			break
		}
		if i > 0 {
			a.Parts = append(a.Parts, comma)
		}
		a.Parts = append(a.Parts, object)
		a.encoded = append(a.encoded, encoded)
	}
	a.Parts[0] = append(append([]byte(`{"cursor":"`), a.Cursor.String()...), `","messages":[`...)
	tail := []byte(`]`)
	if a.Missed {
		missed, _ := json.Marshal(result.Missed) // strings: cannot fail
		tail = append(append(tail, `,"missed":true,"missed_fields":`...), missed...)
	}
	tail = strconv.AppendInt(append(tail, `,"retry":`...), retry.Milliseconds(), 10)
	a.Parts = append(a.Parts, append(tail, "}\n"...))
	return a
}

var comma = []byte(",")

// timeFormat is RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// MessageObject returns a message as clients get it in JSON.
func MessageObject(m *store.Message, epoch string) []byte {
	b := make([]byte, 0, len(m.Data)+len(m.Field)+160)
	b = appendString(append(b, `{"field":`...), m.Field)
	b = appendData(append(b, ',', '"'), "data", m)
	b = append(append(b, `,"cursor":"`...), store.Cursor{Epoch: epoch, Position: m.Position}.String()...)
	b = append(m.Time.UTC().AppendFormat(append(b, `","time":"`...), timeFormat), '"')
	if m.Event != "" {
		b = appendString(append(b, `,"event":`...), m.Event)
	}
	if t := mediaType(m.Type); m.Type != "" && t != "text/plain" && !isJSON(t) {
		b = appendString(append(b, `,"type":`...), m.Type)
	}
	return append(b, '}')
}

// appendData appends the data of a message as a member with that name, whose
// opening quote is there: JSON as JSON, UTF-8 as a string, and anything else in
// base64, which a further member tells.
func appendData(b []byte, name string, m *store.Message) []byte {
	b = append(append(b, name...), `":`...)
	switch {
	case isJSON(mediaType(m.Type)):
		return append(b, strings.TrimSpace(m.Data)...)
	case utf8.ValidString(m.Data):
		return appendString(b, m.Data)
	default:
		b = base64.StdEncoding.AppendEncode(append(b, '"'), []byte(m.Data))
		return append(b, `","encoding":"base64"`...)
	}
}

func appendString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string: cannot fail
	return append(b, quoted...)
}

// FieldList returns the names of fields as a header can carry them: separated by
// commas, with whatever is not printable ASCII, commas and percent signs
// percent-encoded.
func FieldList(fields []string) string {
	var b strings.Builder
	for i, name := range fields {
		if i > 0 {
			b.WriteString(", ")
		}
		for j := range len(name) {
			if c := name[j]; c > ' ' && c <= '~' && c != ',' && c != '%' {
				b.WriteByte(c)
			} else {
				b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(c)|0x100, 16)[1:]))
			}
		}
	}
	return b.String()
}

// OK is the body that says that a publication succeeded.
const OK = "OK\n"

// States returns what a publisher is told of fields in JSON.
func States(states []store.State, cursor store.Cursor) []byte {
	b := append(append([]byte(`{"cursor":"`), cursor.String()...), `","fields":{`...)
	last := map[string]int{} // of a field published twice, the later state
	for i, s := range states {
		last[s.Field] = i
	}
	comma := false
	for i, s := range states {
		if last[s.Field] != i {
			continue
		}
		if comma {
			b = append(b, ',')
		}
		comma = true
		b = append(appendString(b, s.Field), ':', '{')
		if s.Value == nil {
			b = append(b, `"value":null`...)
		} else {
			b = appendData(append(b, '"'), "value", s.Value)
		}
		b = strconv.AppendInt(append(b, `,"subscribers":`...), int64(s.Watchers), 10)
		b = append(b, '}')
	}
	return append(b, "}}\n"...)
}

// Value returns what a publisher is told of fields in text: each value and a
// newline. It returns an error that says which field was never set.
func Value(states []store.State) ([]byte, *Error) {
	var b []byte
	for _, s := range states {
		if s.Value == nil {
			return nil, badRequest("the field %q was never set", s.Field)
		}
		b = append(append(b, s.Value.Data...), '\n')
	}
	return b, nil
}
