package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// testMessage returns a message of a certain moment.
func testMessage(p store.Position, field, data, contentType, event string) *store.Message {
	return &store.Message{
		Field: field, Data: data, Type: contentType, Event: event,
		Time: time.Date(2026, 11, 21, 20, 8, 25, 123e6, time.UTC), Position: p,
	}
}

// testResult returns a result that ends with the last of its messages.
func testResult(messages ...*store.Message) store.Result {
	r := store.Result{Cursor: store.Cursor{Epoch: "e", Position: 9}, Messages: messages}
	if len(messages) > 0 {
		r.Cursor.Position = messages[len(messages)-1].Position
	}
	return r
}

// body returns what is in a piece, with what is random replaced.
func body(p Piece) string {
	return strings.ReplaceAll(string(slices.Concat(p.Parts...)), boundary, "BOUNDARY")
}

const objectTail = `"cursor":"e.7","time":"2026-11-21T20:08:25.123Z"`

var messageCases = []struct {
	name                 string
	data, typ, event     string
	raw, sse, part       string // raw: empty is the data itself
	object, scriptObject string // scriptObject: empty is object
}{
	{
		name: "text", data: "hi", sse: "id: e.7\ndata: hi\n\n",
		part:   "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\nComet-Cursor: e.7\r\nComet-Field: a%20b\r\n\r\nhi\r\n--BOUNDARY\r\n",
		object: `{"field":"a b","data":"hi",` + objectTail + `}`,
	},
	{
		name: "nothing", sse: "id: e.7\ndata: \n\n",
		part:   "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 0\r\nComet-Cursor: e.7\r\nComet-Field: a%20b\r\n\r\n\r\n--BOUNDARY\r\n",
		object: `{"field":"a b","data":"",` + objectTail + `}`,
	},
	{
		name: "an event and lines", data: "\n a\rb\r\nc\n\rd\r\n", event: "added", typ: "text/plain",
		sse:    "id: e.7\nevent: added\ndata: \ndata:  a\ndata: b\ndata: c\ndata: \ndata: d\ndata: \n\n", //nolint:dupword // lines of data
		part:   "Content-Type: text/plain\r\nContent-Length: 13\r\nComet-Cursor: e.7\r\nComet-Field: a%20b\r\n\r\n\n a\rb\r\nc\n\rd\r\n\r\n--BOUNDARY\r\n",
		object: `{"field":"a b","data":"\n a\rb\r\nc\n\rd\r\n",` + objectTail + `,"event":"added"}`,
	},
	{
		name: "markup", data: "</script><!-- &\u2028", typ: "text/html",
		sse:    "id: e.7\ndata: </script><!-- &\u2028\n\n",
		part:   "Content-Type: text/html\r\nContent-Length: 18\r\nComet-Cursor: e.7\r\nComet-Field: a%20b\r\n\r\n</script><!-- &\u2028\r\n--BOUNDARY\r\n",
		object: `{"field":"a b","data":"\u003c/script\u003e\u003c!-- \u0026\u2028",` + objectTail + `,"type":"text/html"}`,
	},
	{
		name: "JSON", data: "\n{\"a\":\r\n\"</script>\u2029\"}\n", typ: "application/json",
		sse:          "id: e.7\ndata: \ndata: {\"a\":\ndata: \"</script>\u2029\"}\ndata: \n\n", //nolint:dupword // lines of data
		part:         "Content-Type: application/json\r\nContent-Length: 24\r\nComet-Cursor: e.7\r\nComet-Field: a%20b\r\n\r\n\n{\"a\":\r\n\"</script>\u2029\"}\n\r\n--BOUNDARY\r\n",
		object:       `{"field":"a b","data":{"a":  "</script>` + "\u2029" + `"},` + objectTail + `}`,
		scriptObject: `{"field":"a b","data":{"a":  "\u003c/script\u003e\u2029"},` + objectTail + `}`,
	},
	{
		name: "binary", data: "\xff\n", typ: "image/png",
		sse:    "id: e.7\ndata: /wo=\n\n",
		part:   "Content-Type: image/png\r\nContent-Length: 2\r\nComet-Cursor: e.7\r\nComet-Field: a%20b\r\n\r\n\xff\n\r\n--BOUNDARY\r\n",
		object: `{"field":"a b","data":"/wo=","encoding":"base64",` + objectTail + `,"type":"image/png"}`,
	},
	{
		name: "a key that is none of JavaScript", data: `{"__proto__":1,"__pro\u0074o__":"<"}`, typ: "application/json",
		sse:          "id: e.7\ndata: " + `{"__proto__":1,"__pro\u0074o__":"<"}` + "\n\n",
		part:         "Content-Type: application/json\r\nContent-Length: 36\r\nComet-Cursor: e.7\r\nComet-Field: a%20b\r\n\r\n" + `{"__proto__":1,"__pro\u0074o__":"<"}` + "\r\n--BOUNDARY\r\n",
		object:       `{"field":"a b","data":{"__proto__":1,"__pro\u0074o__":"<"},` + objectTail + `}`,
		scriptObject: `{"field":"a b","data":JSON.parse("{\"__proto__\":1,\"__pro\\u0074o__\":\"\u003c\"}"),` + objectTail + `}`,
	},
}

func TestAMessageInEveryFormat(t *testing.T) {
	for _, test := range messageCases {
		t.Run(test.name, func(t *testing.T) {
			r := testResult(testMessage(7, "a b", test.data, test.typ, test.event))
			script := test.scriptObject
			if script == "" {
				script = test.object
			}
			for _, c := range []struct {
				style Style
				want  string
			}{
				{Style{Format: SSE}, test.sse},
				{Style{Format: SSE, Wrap: true}, "id: e.7\ndata: " + test.object + "\n\n"},
				{Style{Format: NDJSON}, test.object + "\n"},
				{Style{Format: Multipart}, test.part},
				{Style{Format: Iframe, Callback: "f"}, "<script>comet(" + script + ")</script>\n"},
				{Style{Format: WS}, frame(test.object)},
			} {
				p := c.style.Piece(r)
				if got := body(p); got != c.want || p.Cursor.String() != "e.7" || len(p.Parts) != 1 {
					t.Errorf("%+v, %v, %d parts:\n got %q\nwant %q", c.style, p.Cursor, len(p.Parts), got, c.want)
				}
				if n := len(slices.Concat(p.Parts...)); p.Len() != n {
					t.Errorf("%+v: the length is %d, said is %d", c.style, n, p.Len())
				}
			}
			answers := map[Style]string{
				{Format: Text}:                   "YES\n",
				{Format: JSON}:                   `{"cursor":"e.7","messages":[` + test.object + `],"retry":1500}` + "\n",
				{Format: JSONP, Callback: "a.b"}: `/**/a.b({"cursor":"e.7","messages":[` + script + `],"retry":1500});`,
				{Format: Raw}:                    test.data,
			}
			for style, want := range answers {
				a := NewAnswer(style, 204, r, 1500*time.Millisecond)
				if got := body(a.Piece); got != want || a.Status != 200 || a.Cursor.String() != "e.7" {
					t.Errorf("%+v, %d, %v:\n got %q\nwant %q", style, a.Status, a.Cursor, got, want)
				}
			}
			a := NewAnswer(Style{Format: Raw}, 204, r, 0)
			if want := strings.TrimPrefix(strings.SplitN(test.part, "\r\n", 2)[0], "Content-Type: "); a.Type != want {
				t.Errorf("raw has the type %q; want %q", a.Type, want)
			}
		})
	}
}

func TestWhatStreamsTellBesideMessages(t *testing.T) {
	one, two := testMessage(7, "a", "1", "", ""), testMessage(9, "b", "2", "", "")
	quiet := testResult()
	gap := quiet
	gap.Missed = []string{"a", "<b>"}
	gapAndMore := testResult(one, two)
	gapAndMore.Missed = []string{"a"}
	later := testResult(one)
	later.Cursor.Position = 8
	const (
		first  = `{"field":"a","data":"1","cursor":"e.7","time":"2026-11-21T20:08:25.123Z"}`
		second = `{"field":"b","data":"2","cursor":"e.9","time":"2026-11-21T20:08:25.123Z"}`
		missed = `{"missed":true,"missed_fields":["a","\u003cb\u003e"],"cursor":"e.9"}`
		before = `{"missed":true,"missed_fields":["a"],"cursor":"e.6"}`
		head   = `{"session":"S","retry":1500}`
		beats  = `{"session":"S","retry":1500,"heartbeat":20000}`
		end    = `{"retry":1500}`
	)
	script := func(object string) string { return "<script>comet(" + object + ")</script>\n" }
	for _, test := range []struct {
		style                                                  Style
		head, heartbeat, end, quiet, gap, gapAndMore, andLater string
	}{
		{
			Style{Format: SSE},
			"retry: 1500\nevent: comet-session\ndata: " + head + "\n\n", ":\n", "retry: 1500\n",
			"id: e.9\n\n", "id: e.9\nevent: comet-missed\ndata: " + missed + "\n\n",
			"id: e.6\nevent: comet-missed\ndata: " + before + "\n\nid: e.7\ndata: 1\n\nid: e.9\ndata: 2\n\n",
			"id: e.7\ndata: 1\n\nid: e.8\n\n",
		},
		{
			Style{Format: SSE, Wrap: true},
			"retry: 1500\nevent: comet-session\ndata: " + beats + "\n\n", "event: comet-heartbeat\ndata: {}\n\n", "retry: 1500\n",
			"id: e.9\n\n", "id: e.9\nevent: comet-missed\ndata: " + missed + "\n\n",
			"id: e.6\nevent: comet-missed\ndata: " + before + "\n\nid: e.7\ndata: " + first + "\n\nid: e.9\ndata: " + second + "\n\n",
			"id: e.7\ndata: " + first + "\n\nid: e.8\n\n",
		},
		{
			Style{Format: NDJSON},
			beats + "\n", "\n", end + "\n", `{"cursor":"e.9"}` + "\n", missed + "\n",
			before + "\n" + first + "\n" + second + "\n", first + "\n" + `{"cursor":"e.8"}` + "\n",
		},
		{
			Style{Format: WS},
			frame(head), "\x89\x00", frame(end) + "\x88\x02\x03\xe9", frame(`{"cursor":"e.9"}`), frame(missed),
			frame(before) + frame(first) + frame(second), frame(first) + frame(`{"cursor":"e.8"}`),
		},
		{
			Style{Format: Iframe, Callback: "a.b"},
			"", script("{}"), script(end), script(`{"cursor":"e.9"}`), script(missed),
			script(before) + script(first) + script(second), script(first) + script(`{"cursor":"e.8"}`),
		},
		{
			Style{Format: Multipart},
			"--BOUNDARY\r\nComet-Session: S\r\n", "Comet-Heartbeat:\r\n", "", "", "Comet-Missed: true\r\n",
			"Comet-Missed: true\r\n" +
				"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 1\r\nComet-Cursor: e.7\r\nComet-Field: a\r\n\r\n1\r\n--BOUNDARY\r\n" +
				"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 1\r\nComet-Cursor: e.9\r\nComet-Field: b\r\n\r\n2\r\n--BOUNDARY\r\n",
			"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 1\r\nComet-Cursor: e.7\r\nComet-Field: a\r\n\r\n1\r\n--BOUNDARY\r\n",
		},
	} {
		said := func(what string, got []byte, want string) {
			t.Helper()
			if text := strings.ReplaceAll(string(got), boundary, "BOUNDARY"); text != want {
				t.Errorf("%+v, %s:\n got %q\nwant %q", test.style, what, text, want)
			}
		}
		if test.style.Format != Iframe {
			said("head", test.style.Head("S", 1500*time.Millisecond, 20*time.Second, store.Result{}), test.head)
		}
		said("heartbeat", test.style.Heartbeat(), test.heartbeat)
		said("end", test.style.End(1500*time.Millisecond), test.end)
		for what, r := range map[string]struct {
			result store.Result
			want   string
		}{
			"nothing": {quiet, test.quiet}, "a gap": {gap, test.gap},
			"a gap and messages": {gapAndMore, test.gapAndMore}, "a cursor after the message": {later, test.andLater},
		} {
			p := test.style.Piece(r.result)
			said(what, slices.Concat(p.Parts...), r.want)
			if p.Cursor != r.result.Cursor {
				t.Errorf("%+v, %s: the cursor is %v; want %v", test.style, what, p.Cursor, r.result.Cursor)
			}
		}
	}
}

func TestTheHeadOfAnIframe(t *testing.T) {
	head := string(Style{Format: Iframe, Callback: "page.update"}.Head("S", time.Second, 20*time.Second, store.Result{}))
	page, call, _ := strings.Cut(head, "-->\n")
	if len(page)+len("-->\n") != paddedHead || call != `<script>comet({"session":"S","retry":1000,"heartbeat":20000})</script>`+"\n" {
		t.Errorf("%d bytes, and then %q", len(page), call)
	}
	for _, want := range []string{
		"<!DOCTYPE html>\n", `callback = parent.document && parent.page.update;`, `parent.page.update(message);`,
		`parent.postMessage(message, "*")`, "if (parent === window) return;",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("there is no %q in\n%s", want, page)
		}
	}
	if long := (Style{Format: Iframe, Callback: strings.Repeat("x", maxCallback)}).Head("S", 0, 0, store.Result{}); !strings.HasPrefix(string(long), "<!DOCTYPE html>") {
		t.Errorf("with a long name: %q", long)
	}
}

func TestContentTypes(t *testing.T) {
	for format, want := range map[Format]string{
		Text: "text/plain; charset=utf-8", JSON: "application/json", Raw: "", JSONP: "application/javascript; charset=utf-8",
		SSE: "text/event-stream", NDJSON: "application/x-ndjson", Iframe: "text/html; charset=utf-8",
		Multipart: "multipart/x-mixed-replace; boundary=" + boundary,
	} {
		if got := (Style{Format: format}).ContentType(); got != want {
			t.Errorf("%s: %q; want %q", format, got, want)
		}
	}
	for _, name := range Formats() {
		want := slices.Contains([]string{"sse", "ndjson", "multipart", "iframe", "ws"}, name)
		if got := Format(name).IsStream(); got != want {
			t.Errorf("%s is a stream: %t", name, got)
		}
	}
}

func TestRawTellsOneMessageAfterTheOther(t *testing.T) {
	raw := Style{Format: Raw}
	r := testResult(testMessage(7, "a", "1", "text/x-one", ""), testMessage(9, "b", "2", "", ""))
	a := NewAnswer(raw, 204, r, 0)
	if body(a.Piece) != "1" || a.Type != "text/x-one" || a.Cursor.String() != "e.7" || a.Missed || a.Status != 200 {
		t.Errorf("%+v", a)
	}
	r.Missed = []string{"a"}
	if a = NewAnswer(raw, 204, r, 0); body(a.Piece) != "1" || !a.Missed || a.Status != 200 {
		t.Errorf("with a gap: %+v", a)
	}
	if a = NewAnswer(raw, 204, testResult(testMessage(7, "a", "1", "text/x\r\nA: b", "")), 0); a.Type != "text/x  A: b" {
		t.Errorf("the type is %q", a.Type)
	}
	r = testResult()
	for _, status := range []int{200, 204, 304, 408} {
		a := NewAnswer(raw, status, r, 0)
		if a.Status != status || a.Len() != 0 || a.Type != "" || a.Cursor.String() != "e.9" || a.HasBody() != (status == 200 || status == 408) {
			t.Errorf("a timeout with %d: %+v", status, a)
		}
	}
	r.Missed = []string{"a"} // told as a wake
	if a := NewAnswer(raw, 204, r, 0); a.Status != 200 || !a.Missed || a.Len() != 0 || a.Cursor.String() != "e.9" {
		t.Errorf("a gap alone: %+v", a)
	}
}

func TestJSONPTellsAGap(t *testing.T) {
	r := testResult()
	r.Missed = []string{"</script>"}
	a := NewAnswer(Style{Format: JSONP, Callback: "f"}, 204, r, time.Second)
	want := `/**/f({"cursor":"e.9","messages":[],"missed":true,"missed_fields":["\u003c/script\u003e"],"retry":1000});`
	if got := body(a.Piece); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestAPieceIsBoundedAndItsCursorIsOfTheLastMessage(t *testing.T) {
	var messages []*store.Message
	for i := range 10 {
		messages = append(messages, testMessage(store.Position(i+1), "a", strings.Repeat("\x01", 60<<10), "", "")) // six bytes each in JSON
	}
	p := Style{Format: NDJSON}.Piece(testResult(messages...))
	if p.Len() > MaxAnswer || p.Cursor.Position != 2 || strings.Count(body(p), "\n") != 2 {
		t.Errorf("%d bytes, cursor %v", p.Len(), p.Cursor)
	}
}

func TestWhatIsSentIsSharedByAllWhoGetIt(t *testing.T) {
	r := testResult(testMessage(7, "a", "1", "", ""))
	seen := map[*byte]string{}
	var keep []Piece
	for range 2 {
		for _, style := range []Style{
			{Format: SSE},
			{Format: SSE, Wrap: true},
			{Format: NDJSON},
			{Format: Multipart},
			{Format: Iframe, Callback: "f"},
			{Format: Iframe, Callback: "g"},
			{Format: WS},
		} {
			p := style.Piece(r)
			keep = append(keep, p)
			seen[&p.Parts[0][0]] += string(style.Format) + " "
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d messages in %d pieces: %v", len(seen), len(keep), seen)
	}
}

func TestPartsAreReadByAnyReader(t *testing.T) {
	datas := []string{"", "a\r\n\r\nb", "--", "\r\n--", boundary, "x\r\n--" + boundary + "--\r\n", "\r\n--" + boundary[:10], "\xff"}
	style := Style{Format: Multipart}
	stream := style.Head("S", time.Second, 20*time.Second, store.Result{})
	for i, data := range datas {
		stream = append(stream, style.Heartbeat()...)
		stream = append(stream, slices.Concat(style.Piece(testResult(testMessage(store.Position(i+1), "a", data, "a/b", ""))).Parts...)...)
	}
	stream = append(stream, style.Heartbeat()...)
	stream = append(stream, style.End(time.Second)...)
	reader := multipart.NewReader(bytes.NewReader(stream), boundary)
	for i, data := range datas {
		part, err := reader.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(part)
		if part.Header.Get("Content-Length") != strconv.Itoa(len(got)) {
			t.Errorf("%q has the length %s", got, part.Header.Get("Content-Length"))
		}
		if part.Header.Get("Content-Transfer-Encoding") == "base64" {
			got, _ = base64.StdEncoding.DecodeString(string(got))
		}
		if string(got) != data || err != nil || part.Header.Get("Content-Type") != "a/b" || part.Header.Get("Comet-Cursor") != fmt.Sprint("e.", i+1) {
			t.Errorf("got %v %q, %v; want %q", part.Header, got, err, data)
		}
	}
	if part, err := reader.NextRawPart(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last part: %v, %v", part, err)
	}
}

// testEvent is an event as an EventSource dispatches it.
type testEvent struct{ name, data, id string }

// dispatched reads an event stream as the WHATWG has it, and returns the events and
// the last id.
func dispatched(stream string) (events []testEvent, lastID string) {
	stream = strings.TrimPrefix(strings.ToValidUTF8(stream, "\uFFFD"), "\uFEFF")
	var name, id string
	var data strings.Builder
	for _, line := range regexp.MustCompile(`\r\n|\n|\r`).Split(stream, -1) {
		if line == "" {
			lastID = id
			if data.Len() > 0 {
				events = append(events, testEvent{name, strings.TrimSuffix(data.String(), "\n"), lastID})
			}
			data.Reset()
			name = ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			data.WriteString(value + "\n")
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		}
	}
	return events, lastID
}

// isPublished reports whether this can be what somebody published.
func isPublished(data, contentType string) bool {
	return utf8.ValidString(contentType) && (!isJSON(mediaType(contentType)) || validJSON(data))
}

func seedMessages(f *testing.F) {
	f.Add("id", "123", "", "")
	f.Add("a", "\r\ndata: x\r\rid: 7\n\n", "text/plain", "added\ndata: x")
	f.Add("a", "</script><!--<script>", "", "</script>")
	f.Add("\u2028", `{"</script>":["<!--","\u2028","\u003c"]}`, "application/json", "\r")
	f.Add("a", "[1,\r\n2\n]\n", "application/json", "")
	f.Add("a", `{"__proto__":1,"\u005F_proto__":{"\u005f\u005fproto\u005f\u005f":1}}`, "application/ld+json", "")
	f.Add("a", `"\u0070\\u0070"`, "application/json", "")
	f.Add("a", "\xff\n\n", "image/png", "")
	f.Add("a", "\uFEFF", "", "\uFEFF")
	for _, test := range messageCases {
		f.Add("a b", test.data, test.typ, test.event)
	}
}

// wantObject checks that an object is that of a message.
func wantObject(t *testing.T, object []byte, m *store.Message) {
	t.Helper()
	var got struct {
		Field, Event, Cursor, Encoding string
		Data                           json.RawMessage
	}
	if err := json.Unmarshal(object, &got); err != nil {
		t.Fatalf("%v in %q", err, object)
	}
	if got.Field != m.Field || got.Event != m.Event || got.Cursor != fmt.Sprint("e.", m.Position) {
		t.Errorf("got %q; want what is of %q, %q", object, m.Field, m.Event)
	}
	var data, want any
	if err := json.Unmarshal(got.Data, &data); err != nil {
		t.Fatal(err)
	}
	switch {
	case isJSON(mediaType(m.Type)):
		if err := json.Unmarshal([]byte(m.Data), &want); err != nil {
			t.Fatal(err)
		}
	case got.Encoding == "base64":
		want = base64.StdEncoding.EncodeToString([]byte(m.Data))
	default:
		want = m.Data
	}
	if diff := cmp.Diff(want, data); diff != "" {
		t.Errorf("%q: %s", object, diff)
	}
}

func FuzzEventStream(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, field, data, contentType, event string) {
		if !isPublished(data, contentType) || !utf8.ValidString(event) || !utf8.ValidString(field) {
			t.Skip()
		}
		one, two := testMessage(7, field, data, contentType, event), testMessage(8, field, data, contentType, "")
		want := []string{data, data}
		if !utf8.ValidString(data) {
			want[0] = base64.StdEncoding.EncodeToString([]byte(data))
			want[1] = want[0]
		}
		for _, style := range []Style{{Format: SSE}, {Format: SSE, Wrap: true}} {
			stream := slices.Concat(style.Head("S", time.Second, 20*time.Second, store.Result{}), style.Heartbeat(),
				slices.Concat(style.Piece(testResult(one, two)).Parts...), style.Heartbeat(), style.End(time.Second))
			events, lastID := dispatched(string(stream))
			session := `{"session":"S","retry":1000}`
			if style.Wrap {
				session = `{"session":"S","retry":1000,"heartbeat":20000}`
				if beat := (testEvent{"comet-heartbeat", "{}", ""}); len(events) != 5 || events[1] != beat || events[4].name != beat.name {
					t.Fatalf("got %q, of %q", events, stream)
				}
				events = append(events[:1], events[2:4]...)
			}
			if len(events) != 3 || lastID != "e.8" || events[0] != (testEvent{"comet-session", session, ""}) {
				t.Fatalf("got %q, last %q, of %q", events, lastID, stream)
			}
			for i, m := range []*store.Message{one, two} {
				got := events[i+1]
				if got.id != fmt.Sprint("e.", m.Position) {
					t.Errorf("the id is %q", got.id)
				}
				if style.Wrap {
					if got.name != "" {
						t.Errorf("the event is %q", got.name)
					}
					wantObject(t, []byte(got.data), m)
					continue
				}
				lines := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(want[i])
				name := strings.NewReplacer("\r", " ", "\n", " ").Replace(m.Event)
				if got.data != lines || got.name != name {
					t.Errorf("got %q %q; want %q %q", got.name, got.data, name, lines)
				}
			}
		}
	})
}

var parsedData = regexp.MustCompile(`"data":JSON\.parse\(("(?:[^"\\]|\\.)*")\)`)

// fromScript returns an object of a script as JSON. It fails when there is something
// in it that ends the script, that HTML has its own ways with inside of scripts, or
// that JavaScript reads otherwise than JSON.
func fromScript(t *testing.T, script string) []byte {
	t.Helper()
	if i := strings.IndexAny(script, "<>&\u2028\u2029\r\n"); i >= 0 {
		t.Fatalf("%q in the script %q", script[i:], script)
	}
	plain := parsedData.ReplaceAllString(script, `"data":null`)
	decoder := json.NewDecoder(strings.NewReader(plain))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %q", err, script)
		}
		if token == "__proto__" && strings.Contains(plain, `"__proto__":`) {
			t.Fatalf("a key __proto__ in %q", script)
		}
	}
	return []byte(parsedData.ReplaceAllStringFunc(script, func(call string) string {
		var data string
		if err := json.Unmarshal([]byte(parsedData.FindStringSubmatch(call)[1]), &data); err != nil {
			t.Fatal(err)
		}
		return `"data":` + data
	}))
}

func FuzzScripts(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, field, data, contentType, event string) {
		if !isPublished(data, contentType) || !utf8.ValidString(event) || !utf8.ValidString(field) {
			t.Skip()
		}
		m := testMessage(7, field, data, contentType, event)
		r := testResult(m)
		r.Missed = []string{field}
		page := body(Style{Format: Iframe, Callback: "f"}.Piece(r))
		scripts := strings.SplitAfter(page, scriptEnd)
		if len(scripts) != 3 || scripts[2] != "" {
			t.Fatalf("%d scripts in %q", len(scripts)-1, page)
		}
		for i, script := range scripts[:2] {
			script, starts := strings.CutPrefix(script, scriptStart)
			if !starts {
				t.Fatalf("the script begins with %q", script)
			}
			object := fromScript(t, strings.TrimSuffix(script, scriptEnd))
			if i == 1 {
				wantObject(t, object, m)
			}
		}

		answer := body(NewAnswer(Style{Format: JSONP, Callback: "a.b"}, 204, r, 0).Piece)
		answer, starts := strings.CutPrefix(answer, "/**/a.b(")
		answer, ends := strings.CutSuffix(answer, ");")
		var got struct {
			Messages []json.RawMessage
			Missed   []string `json:"missed_fields"`
		}
		if err := json.Unmarshal(fromScript(t, answer), &got); err != nil || !starts || !ends || len(got.Messages) != 1 || got.Missed[0] != field {
			t.Fatalf("%v in %q", err, answer)
		}
		wantObject(t, got.Messages[0], m)
	})
}

func FuzzLines(f *testing.F) {
	seedMessages(f)
	f.Fuzz(func(t *testing.T, field, data, contentType, event string) {
		if !isPublished(data, contentType) || !utf8.ValidString(event) || !utf8.ValidString(field) {
			t.Skip()
		}
		m := testMessage(7, field, data, contentType, event)
		style := Style{Format: NDJSON}
		r := testResult(m, m)
		r.Missed = []string{field}
		stream := string(slices.Concat(style.Head("S", time.Second, 20*time.Second, store.Result{}), slices.Concat(style.Piece(r).Parts...), style.Heartbeat(), style.End(time.Second)))
		lines := strings.Split(stream, "\n")
		if len(lines) != 7 || lines[4] != "" || lines[6] != "" || strings.ContainsAny(stream, "\r\x00") {
			t.Fatalf("the lines are %q", lines)
		}
		for i, line := range lines[:6] {
			if i != 4 && !json.Valid([]byte(line)) {
				t.Errorf("no JSON: %q", line)
			}
		}
		for _, line := range lines[2:4] {
			wantObject(t, []byte(line), m)
		}
	})
}
