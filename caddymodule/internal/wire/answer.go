package wire

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// Answer is an answer that ends with what it tells, ready to be sent.
type Answer struct {
	Piece  // its body
	Status int
	Type   string // Content-Type; empty: it has none
	Missed bool
}

// HasBody reports whether an answer with this status may have a body, and with it
// a Content-Length.
func (a *Answer) HasBody() bool {
	return a.Status != http.StatusNoContent && a.Status != http.StatusNotModified
}

var (
	yes = []byte("YES\n")
	no  = []byte("NO\n")
)

// NewAnswer returns what a client is told of a result, which has nothing to tell
// after a timeout; rawTimeout is the status of that in Raw. retry is after how
// long the client is to come back when it fails.
func NewAnswer(style Style, rawTimeout int, result store.Result, retry time.Duration) Answer {
	a := Answer{Status: http.StatusOK, Type: style.ContentType(), Missed: result.Missed != nil}
	switch style.Format {
	case Text:
		a.Cursor, a.Parts = result.Cursor, [][]byte{no}
		if result.Ready() {
			a.Parts[0] = yes
		}
	case Raw:
		a.tellRaw(rawTimeout, result)
	case JSONP:
		a.tellObject("/**/"+style.Callback+"(", ");", result, asScript, retry)
	default:
		a.tellObject("", "\n", result, asObject, retry)
	}
	return a
}

// tellRaw has the answer be the first message of a result. The others are there
// after its cursor.
func (a *Answer) tellRaw(timeout int, result store.Result) {
	if len(result.Messages) == 0 {
		a.Cursor = result.Cursor
		if !a.Missed {
			a.Status = timeout
		}
		return
	}
	result.Messages = result.Messages[:1]
	a.encode(result, asData)
	a.Cursor.Position = result.Messages[0].Position
	a.Parts = [][]byte{a.encoded[0].Bytes}
	a.Type = typeOf(result.Messages[0])
}

// typeOf returns the Content-Type of a message, as a header can have it.
func typeOf(m *store.Message) string { return oneLine(cmp.Or(m.Type, TextType)) }

// tellObject has the answer be an object with the messages of a result, between
// start and end. They are encoded as objects or as scripts.
func (a *Answer) tellObject(start, end string, result store.Result, as store.Encoding, retry time.Duration) {
	a.encode(result, as)
	a.Parts = make([][]byte, 1, 2+2*len(a.encoded))
	head := append(make([]byte, 0, len(start)+64), start...)
	a.Parts[0] = append(append(append(head, `{"cursor":"`...), a.Cursor.String()...), `","messages":[`...)
	for i, e := range a.encoded {
		if i > 0 {
			a.Parts = append(a.Parts, comma)
		}
		a.Parts = append(a.Parts, objectIn(e.Bytes, as))
	}
	tail := append(make([]byte, 0, 32), ']')
	if a.Missed {
		tail = append(append(tail, ','), missedMembers(result)...)
	}
	a.Parts = append(a.Parts, append(appendRetry(append(tail, ','), retry), end...))
}

// objectIn returns the object of a message out of what stands around it.
func objectIn(encoded []byte, as store.Encoding) []byte {
	if as == asScript {
		return encoded[len(scriptStart) : len(encoded)-len(scriptEnd)]
	}
	return encoded[:len(encoded)-len("\n")]
}

var comma = []byte(",")

// missedMembers returns the members of an object that tell a gap.
func missedMembers(result store.Result) []byte {
	names, _ := json.Marshal(result.Missed) // strings: cannot fail
	return append([]byte(`"missed":true,"missed_fields":`), names...)
}

// timeFormat is RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// MessageObject returns a message as clients get it in JSON, on one line.
func MessageObject(m *store.Message, epoch string) []byte {
	return messageObject(m, epoch, appendData)
}

func messageObject(m *store.Message, epoch string, appendData func([]byte, *store.Message) []byte) []byte {
	b := make([]byte, 0, len(m.Data)+len(m.Field)+160)
	b = appendString(append(b, `{"field":`...), m.Field)
	b = appendData(append(b, `,"data":`...), m)
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

// appendData appends the data of a message: JSON as JSON, UTF-8 as a string, and
// anything else in base64, which a further member tells.
func appendData(b []byte, m *store.Message) []byte {
	switch {
	case isJSON(mediaType(m.Type)):
		from := len(b)
		b = append(b, strings.TrimSpace(m.Data)...)
		for i := from; i < len(b); i++ {
			if b[i] == '\n' || b[i] == '\r' { // between its words: strings have none
				b[i] = ' '
			}
		}
		return b
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

// MaxFieldList is how many bytes a list of fields may have that is read.
const MaxFieldList = 8 << 10

// ReadFieldList reads a list of fields in the lines of a header, as FieldList writes
// it: at most MaxFields, each once. There may be none.
func ReadFieldList(said []string) ([]string, error) {
	list := strings.Join(said, ",")
	if len(list) > MaxFieldList {
		return nil, fmt.Errorf("it has %d bytes, and at most %d are allowed", len(list), MaxFieldList)
	}
	var fields []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.Trim(part, " \t"); part == "" {
			continue
		}
		name, err := url.PathUnescape(part)
		if err != nil {
			return nil, err
		}
		if err := CheckName(name); err != nil {
			return nil, fmt.Errorf("the name of the field %.80q %w", name, err)
		}
		if !slices.Contains(fields, name) {
			fields = append(fields, strings.Clone(name)) // else it keeps the whole header
		}
		if len(fields) > MaxFields {
			return nil, errTooMany
		}
	}
	return fields, nil
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
			b = appendData(append(b, `"value":`...), s.Value)
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
