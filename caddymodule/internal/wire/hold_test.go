package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

func testRoute(plain ...string) HoldRoute {
	return HoldRoute{
		Plain:   plain,
		Allows:  func(name string) bool { return slices.Contains(plain, name) || strings.HasPrefix(name, "board/") },
		Formats: []Format{Text, JSON},
	}
}

func TestWhatARequestWatches(t *testing.T) {
	many := url.Values{}
	for i := range 65 {
		many.Add("field", fmt.Sprint("board/", i))
	}
	for _, test := range []struct {
		query  string
		want   string
		status int
	}{
		{"", "id", 0},
		{"id=122", "id", 0},
		{"news=1", "news", 0},
		{"news=&id=1", "id news", 0},
		{"field=news&id=5", "news", 0},
		{"field=board/1&field=news&field=news", "board/1 news", 0},
		{"other=1", "id", 0},
		{"last=3", "id", 0},       // a field so named is watched by field= alone
		{"field=last", "last", 0}, // as here
		{"field=", "id", 0},
		{"field=nope", "", 403},
		{"field=id&field=nope", "", 403},
		{"field=a%0a", "", 400},
		{"field=%ff", "", 400},
		{many.Encode(), "", 400},
		{"id=%zz", "", 400},
	} {
		h, e := ReadHold(testRoute("id", "news", "last"), "GET", test.query, nil)
		if test.status != 0 {
			if e == nil || e.Status != test.status {
				t.Errorf("?%.60s: %v, %v", test.query, h.Query.Fields, e)
			}
			continue
		}
		if got := strings.Join(h.Query.Fields, " "); got != test.want || e != nil {
			t.Errorf("?%s watches %s, %v; want %s", test.query, got, e, test.want)
		}
	}
	if _, e := ReadHold(testRoute(), "GET", "", nil); e == nil || e.Status != 400 {
		t.Errorf("only globs: %v", e)
	}
	_, e := ReadHold(testRoute("id"), "GET", "field=nope", nil)
	if e == nil || !strings.Contains(e.Detail, "`field nope`") {
		t.Errorf("what to add is not said: %v", e)
	}
}

func TestARequestWatchesAllThatItMay(t *testing.T) {
	route := testRoute("id", "news")
	only := route.Only([]string{"board/7", "news"})
	for query, want := range map[string]string{
		"":                         "board/7 news",
		"other=1":                  "board/7 news",
		"board/7=3":                "board/7",
		"field=news":               "news",
		"field=news&field=board/7": "news board/7",
		"field=id":                 "",
		"field=board/8":            "",
	} {
		h, e := ReadHold(only, "GET", query, nil)
		if got := strings.Join(h.Query.Fields, " "); got != want || statusOf(e) != map[bool]int{true: http.StatusForbidden}[want == ""] {
			t.Errorf("?%s: %q, %v; want %q", query, got, e, want)
		}
		if e != nil && strings.Contains(e.Detail, "add `field") {
			t.Errorf("?%s: it is told to change the Caddyfile: %s", query, e.Detail)
		}
	}
	if _, e := ReadChange(only, `{"watch":["news","id"]}`); statusOf(e) != http.StatusForbidden {
		t.Errorf("a stream may watch more: %v", e)
	}
}

func TestWhatARequestHasSeen(t *testing.T) {
	cursor := store.Cursor{Epoch: "epoch", Position: 7}
	other := store.Cursor{Epoch: "other", Position: 8}
	value := func(v string) store.Since { return store.SinceValues([]store.Seen{{Value: v, Given: v != ""}}) }
	for _, test := range []struct {
		query, lastEventID string
		want               store.Since
		status             int
	}{
		{"after=epoch.7&id=5&last=3", "other.8", store.SinceCursor(other), 0},
		{"after=epoch.7", "garbage", store.SinceLost(), 0},
		{"after=epoch.7&id=5&last=3", "", store.SinceCursor(cursor), 0},
		{"after=&last=3&id=5", "", store.SinceLast(3), 0},
		{"after=now&id=5", "", store.SinceNow(), 0},
		{"after=first", "", store.SinceFirst(), 0},
		{"after=&last=&id=5", "", value("5"), 0},
		{"id=", "", value("0"), 0}, // text counts nothing as 0
		{"id=&format=json", "", value(""), 0},
		{"id=a+b", "", value("a b"), 0},
		{"after=garbage", "", store.Since{}, 400},
		{"last=x", "", store.Since{}, 400},
		{"last=-1", "", store.Since{}, 400},
		{"wait=x", "", store.Since{}, 400},
		{"wait=-1", "", store.Since{}, 400},
		{"wait=NaN", "", store.Since{}, 400},
	} {
		h, e := ReadHold(testRoute("id"), "GET", test.query, http.Header{"Last-Event-Id": {test.lastEventID}})
		if test.status != 0 {
			if e == nil || e.Status != test.status {
				t.Errorf("?%s: %v", test.query, e)
			}
			continue
		}
		if e != nil || !cmp.Equal(h.Query.Since, test.want, cmp.AllowUnexported(store.Since{})) {
			t.Errorf("?%s with %q: %+v, %v; want %+v", test.query, test.lastEventID, h.Query.Since, e, test.want)
		}
	}
}

func TestHowLongARequestAsksToWait(t *testing.T) {
	for query, want := range map[string]time.Duration{
		"": -1, "wait=": -1, "wait=0": 0, "wait=5": 5 * time.Second, "wait=0.25": 250 * time.Millisecond,
	} {
		if h, e := ReadHold(testRoute("id"), "GET", query, nil); h.Wait != want || e != nil {
			t.Errorf("?%s: %v, %v", query, h.Wait, e)
		}
	}
	if h, e := ReadHold(testRoute("id"), "GET", "wait=1e300", nil); e != nil || h.Wait < time.Hour {
		t.Errorf("for ever: %v, %v", h.Wait, e)
	}
	if h, e := ReadHold(testRoute("id"), "HEAD", "wait=5", nil); e != nil || h.Wait != 0 {
		t.Errorf("HEAD holds: %v, %v", h.Wait, e)
	}
	if _, e := ReadHold(testRoute("id"), "POST", "", nil); e == nil || e.Status != 405 {
		t.Errorf("POST: %v", e)
	}
}

func TestTheFormatIsChosenAsTheContractSays(t *testing.T) {
	for _, test := range []struct {
		formats []Format
		query   string
		accept  []string
		want    Format
		status  int
	}{
		{[]Format{Text, JSON}, "", nil, Text, 0},
		{[]Format{JSON, Text}, "", nil, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"*/*"}, Text, 0},
		{[]Format{JSON, Text}, "", []string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"application/json"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"Application/JSON ; q=0.5"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"application/json, text/javascript, */*; q=0.01"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"text/plain;q=0.5, application/json;q=0.9"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"text/plain;q=0.5", "application/json;q=0.9"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"application/json;q=0, */*"}, Text, 0},
		{[]Format{Text, JSON}, "", []string{"text/plain;q=0, */*"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"application/*"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"image/png, application/json;q=0.1"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"text/event-stream"}, "", 406},
		{[]Format{Text}, "", []string{"application/json"}, "", 406},
		{[]Format{Text}, "", []string{"application/json, */*;q=0.1"}, Text, 0},
		{[]Format{Text, JSON}, "format=json", []string{"text/plain"}, JSON, 0},
		{[]Format{Text, JSON}, "format=text", []string{"application/json"}, Text, 0},
		{[]Format{Text}, "format=json", nil, "", 406},
		{[]Format{Text, JSON}, "format=xml", nil, "", 400},
		{[]Format{Text, JSON}, "format=", []string{"application/json"}, JSON, 0},
		{[]Format{Text, JSON}, "", []string{"application/json;q=x"}, "", 406},
		{[]Format{Text, SSE}, "", []string{"text/event-stream"}, SSE, 0},
		{[]Format{Text, SSE}, "", []string{"text/html, text/event-stream;q=0.9, */*;q=0.1"}, Text, 0},
		{[]Format{Text, NDJSON}, "", []string{"application/x-ndjson"}, NDJSON, 0},
		{[]Format{Text, Multipart}, "", []string{"multipart/x-mixed-replace"}, Multipart, 0},
		{[]Format{Text, JSONP}, "callback=f", []string{"application/javascript, */*;q=0.8"}, JSONP, 0},
		{[]Format{Text, Iframe}, "", []string{"text/html,*/*;q=0.8"}, Text, 0},
		{[]Format{Iframe, Text}, "", []string{"text/html,*/*;q=0.8"}, Iframe, 0},
		{[]Format{Text, Iframe}, "format=iframe", []string{"text/html"}, Iframe, 0},
		{[]Format{Raw, JSON}, "", []string{"image/png"}, Raw, 0},
		{[]Format{Raw, JSON}, "", []string{"application/json"}, JSON, 0},
		{[]Format{Text, Raw}, "", []string{"image/png"}, "", 406},
		{[]Format{Text, Raw}, "format=raw", []string{"image/png"}, Raw, 0},
		{[]Format{Text, WS}, "format=ws", nil, "", 426},
	} {
		route := testRoute("id")
		route.Formats = test.formats
		h, e := ReadHold(route, "GET", test.query, http.Header{"Accept": test.accept})
		switch {
		case test.status != 0:
			if e == nil || e.Status != test.status {
				t.Errorf("%s ?%s %q: %v, %v", test.formats, test.query, test.accept, h.Style.Format, e)
			}
		case e != nil || h.Style.Format != test.want:
			t.Errorf("%s ?%s %q: %v, %v; want %v", test.formats, test.query, test.accept, h.Style.Format, e, test.want)
		}
	}
}

func TestAnUpgradeAsksForAWebSocket(t *testing.T) {
	header := http.Header{"Upgrade": {"WebSocket"}, "Accept": {"*/*"}}
	for _, test := range []struct {
		formats []Format
		query   string
		want    Format
	}{
		{[]Format{Text, WS}, "", WS},
		{[]Format{Text, WS}, "format=ws", WS},
		{[]Format{Text, WS}, "format=text", Text},
	} {
		route := testRoute("id")
		route.Formats = test.formats
		if h, e := ReadHold(route, "GET", test.query, header); e != nil || h.Style.Format != test.want {
			t.Errorf("%s ?%s: %v, %v; want %v", test.formats, test.query, h.Style.Format, e, test.want)
		}
	}
	if _, e := ReadHold(testRoute("id"), "GET", "", header); e == nil || e.Status != http.StatusNotAcceptable {
		t.Errorf("without the format: %v", e)
	}
}

func TestTheStyleIsWhatTheQuerySays(t *testing.T) {
	route := testRoute("id")
	for _, name := range Formats() {
		route.Formats = append(route.Formats, Format(name))
	}
	for query, want := range map[string]Style{
		"format=sse":                                        {Format: SSE},
		"format=sse&wrap=json":                              {Format: SSE, Wrap: true},
		"format=json&wrap=json&callback=f":                  {Format: JSON},
		"format=text&callback=1":                            {Format: Text},
		"format=jsonp&callback=f":                           {Format: JSONP, Callback: "f"},
		"format=jsonp&callback=&callback=a.b_1.$c":          {Format: JSONP, Callback: "a.b_1.$c"},
		"format=jsonp&callback=jQuery361_1637_0":            {Format: JSONP, Callback: "jQuery361_1637_0"},
		"format=jsonp&callback=angular.callbacks._0":        {Format: JSONP, Callback: "angular.callbacks._0"},
		"format=jsonp&callback=newer.deleted":               {Format: JSONP, Callback: "newer.deleted"},
		"format=iframe":                                     {Format: Iframe, Callback: "comet"},
		"format=iframe&callback=page.update&wrap=":          {Format: Iframe, Callback: "page.update"},
		"format=jsonp&callback=" + strings.Repeat("x", 128): {Format: JSONP, Callback: strings.Repeat("x", 128)},
	} {
		if h, e := ReadHold(route, "GET", query, nil); e != nil || h.Style != want {
			t.Errorf("?%s: %+v, %v; want %+v", query, h.Style, e, want)
		}
	}
	for query, says := range map[string]string{
		"format=jsonp":        "callback=NAME",
		"format=sse&wrap=xml": "wrap",
		"format=text&wrap=1":  "wrap",
		"format=jsonp&callback=" + strings.Repeat("x", 129): "129 bytes",
	} {
		if _, e := ReadHold(route, "GET", query, nil); e == nil || e.Status != 400 || !strings.Contains(e.Detail, says) {
			t.Errorf("?%.60s: %v; want 400 with %q", query, e, says)
		}
	}
	for _, name := range []string{
		"1a", "a b", "a-b", "a.", ".a", "a..b", "a.1", "a()", "a;b", "a[0]", "<a", "a/*", "a\n", "\na", "é", "a\u2028", "alert(1)//",
		"if", "a.delete", "this.a", "a.__proto__.new", "null", "eval", "a.function.b",
	} {
		for _, format := range []string{"jsonp", "iframe"} {
			query := "format=" + format + "&callback=" + url.QueryEscape(name)
			if h, e := ReadHold(route, "GET", query, nil); e == nil || e.Status != 400 || strings.ContainsAny(e.Detail, "\r\n") {
				t.Errorf("?%s: %+v, %v; want 400", query, h.Style, e)
			}
		}
	}
}

func FuzzReadHold(f *testing.F) {
	f.Add("GET", "id=122&wait=3", "application/json", "epoch.5")
	f.Add("GET", "field=news&after=now", "*/*;q=0.5, text/plain", "")
	f.Add("HEAD", "last=5&format=text", "", "x")
	f.Fuzz(func(t *testing.T, method, query, accept, lastEventID string) {
		h, e := ReadHold(testRoute("id", "news"), method, query, http.Header{"Accept": {accept}, "Last-Event-Id": {lastEventID}})
		if e != nil {
			if e.Status < 400 || e.Status > 499 || strings.ContainsAny(e.Detail, "\r\n") {
				t.Errorf("%+v", e)
			}
			return
		}
		if len(h.Query.Fields) == 0 || len(h.Query.Fields) > MaxFields || h.Wait < -1 {
			t.Errorf("%+v", h)
		}
		store.New(store.DefaultLimits()).Read(h.Query)
	})
}

func answerOf(t testing.TB, format Format, batch ...store.Publication) (Answer, string) {
	t.Helper()
	s := store.New(store.DefaultLimits())
	var names []string
	for _, p := range batch {
		if !slices.Contains(names, p.Field) {
			names = append(names, p.Field)
		}
	}
	if _, _, err := s.Publish(batch); err != nil {
		t.Fatal(err)
	}
	a := NewAnswer(Style{Format: format}, 204, s.Read(store.Query{Fields: names, Since: store.SinceFirst()}), 1500*time.Millisecond)
	var body strings.Builder
	for _, p := range a.Parts {
		body.Write(p)
	}
	if body.Len() != a.Len() {
		t.Errorf("the length is %d, said is %d", body.Len(), a.Len())
	}
	return a, body.String()
}

func TestJSONEmbedsDataAsItWasPublished(t *testing.T) {
	_, body := answerOf(t, JSON,
		store.Publication{Field: "a", Data: `{"t": 1}`, Type: "application/json; charset=utf-8"},
		store.Publication{Field: "b", Data: "</script>\u2028\"é"},
		store.Publication{Field: "b\"", Data: "\xff\x00", Type: "image/png", Event: "added"},
		store.Publication{Field: "c", Data: "<p>", Type: "text/html"},
		store.Publication{Field: "d", Data: "[1]", Type: "application/vnd.x+json"},
		store.Publication{Field: "e", Data: "x", Type: "text/plain; charset=utf-8"},
	)
	var got struct {
		Cursor   string
		Retry    int
		Messages []map[string]any
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	want := []map[string]any{
		{"field": "a", "data": map[string]any{"t": 1.0}},
		{"field": "b", "data": "</script>\u2028\"é"},
		{"field": "b\"", "data": "/wA=", "encoding": "base64", "type": "image/png", "event": "added"},
		{"field": "c", "data": "<p>", "type": "text/html"},
		{"field": "d", "data": []any{1.0}},
		{"field": "e", "data": "x"},
	}
	for i, m := range got.Messages {
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", m["time"].(string)); err != nil {
			t.Errorf("time: %v", err)
		}
		if c, err := store.ParseCursor(m["cursor"].(string)); err != nil || c.Position != store.Position(i+1) {
			t.Errorf("cursor %v: %v", m["cursor"], err)
		}
		delete(m, "time")
		delete(m, "cursor")
	}
	if diff := cmp.Diff(want, got.Messages); diff != "" {
		t.Error(diff)
	}
	if got.Retry != 1500 || !strings.HasSuffix(got.Cursor, ".6") {
		t.Errorf("retry %d, cursor %s", got.Retry, got.Cursor)
	}
}

func TestAnAnswerIsBoundedAndItsCursorIsOfTheLastMessage(t *testing.T) {
	escaped := strings.Repeat("\x01", 60<<10) // six bytes each in JSON
	var batch []store.Publication
	for range 10 {
		batch = append(batch, store.Publication{Field: "a", Data: escaped})
	}
	a, body := answerOf(t, JSON, batch...)
	if len(body) > MaxAnswer+1000 || !strings.HasPrefix(body, `{"cursor":"`+a.Cursor.String()) {
		t.Errorf("%d bytes, cursor %v", len(body), a.Cursor)
	}
	var got struct{ Messages []struct{ Cursor string } }
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.Messages) != 2 {
		t.Fatalf("%d messages, %v", len(got.Messages), err)
	}
	if got.Messages[1].Cursor != a.Cursor.String() {
		t.Errorf("the cursor is %v, the last message's %s", a.Cursor, got.Messages[1].Cursor)
	}
	if _, body := answerOf(t, JSON, store.Publication{Field: "a", Data: strings.Repeat("x", 3<<20)}); len(body) < 3<<20 {
		t.Errorf("one message of 3 MiB: %d bytes", len(body))
	}
}

func TestWhatIsToldOfNothing(t *testing.T) {
	r := store.Result{Cursor: store.Cursor{Epoch: "e", Position: 3}}
	body := func(a Answer) string { return string(slices.Concat(a.Parts...)) }
	if got := body(NewAnswer(Style{Format: Text}, 204, r, 0)); got != "NO\n" {
		t.Errorf("text: %q", got)
	}
	if got := body(NewAnswer(Style{Format: JSON}, 204, r, 2*time.Second)); got != `{"cursor":"e.3","messages":[],"retry":2000}`+"\n" {
		t.Errorf("json: %q", got)
	}
	r.Missed = []string{"a", "b"}
	if got := body(NewAnswer(Style{Format: Text}, 204, r, 0)); got != "YES\n" {
		t.Errorf("text, gap: %q", got)
	}
	if got := body(NewAnswer(Style{Format: JSON}, 204, r, 0)); got != `{"cursor":"e.3","messages":[],"missed":true,"missed_fields":["a","b"],"retry":0}`+"\n" {
		t.Errorf("json, gap: %q", got)
	}
}

func TestHeadersCarryAnyName(t *testing.T) {
	if got := FieldList([]string{"id", "a b,c%", "é\x7f"}); got != "id, a%20b%2Cc%25, %C3%A9%7F" {
		t.Error(got)
	}
}

func TestReadFieldList(t *testing.T) {
	long := strings.Repeat("x", MaxName)
	for name, c := range map[string]struct {
		said   []string
		want   []string
		reason string
	}{
		"one":             {[]string{"inbox/42"}, []string{"inbox/42"}, ""},
		"several":         {[]string{"id, a%20b%2Cc%25,\tinbox%2f42", "%C3%A9", "ü+"}, []string{"id", "a b,c%", "inbox/42", "é", "ü+"}, ""},
		"each once":       {[]string{"id,id", "id"}, []string{"id"}, ""},
		"none":            {[]string{"", " , "}, nil, ""},
		"no escape":       {[]string{"id, a%z"}, nil, "invalid URL escape"},
		"a control":       {[]string{"id, a%0Ab"}, nil, "has a control character"},
		"not UTF-8":       {[]string{"%ff"}, nil, "is not UTF-8"},
		"a long name":     {[]string{long + "x"}, nil, "has 256 bytes"},
		"all that may be": {[]string{numbered(MaxFields)}, strings.Split(numbered(MaxFields), ","), ""},
		"a field more":    {[]string{numbered(MaxFields), "b"}, nil, "at most 64 fields"},
		"a byte more":     {[]string{strings.Repeat(",", MaxFieldList+1)}, nil, "has 8193 bytes"},
	} {
		got, err := ReadFieldList(c.said)
		if (err != nil) != (c.reason != "") || err != nil && !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v; want %q", name, err, c.reason)
		}
		if diff := cmp.Diff(c.want, got); err == nil && diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// numbered returns a list of n fields.
func numbered(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("board/", i)
	}
	return strings.Join(names, ",")
}

func FuzzReadFieldList(f *testing.F) {
	f.Add("id, a%20b%2Cc%25", "%C3%A9%7F,,")
	f.Add("a%0Ab", "%")
	f.Fuzz(func(t *testing.T, first, second string) {
		fields, err := ReadFieldList([]string{first, second})
		if err != nil {
			return
		}
		if len(fields) > MaxFields {
			t.Fatalf("%d fields", len(fields))
		}
		for _, name := range fields {
			if err := CheckName(name); err != nil {
				t.Fatalf("%q %v", name, err)
			}
		}
		written := FieldList(fields)
		if again, err := ReadFieldList([]string{written}); len(written) <= MaxFieldList && (err != nil || !slices.Equal(again, fields)) {
			t.Fatalf("%q was written as %q, and is read as %q, %v", fields, written, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add("id", "123", "", "")
	f.Add("a", `{"x":[1,"\u2028"]}`, "application/json", "added")
	f.Add("a", "\xff", "image/png", "")
	f.Fuzz(func(t *testing.T, name, data, contentType, event string) {
		if CheckName(name) != nil || event != "" && CheckName(event) != nil {
			t.Skip()
		}
		if isJSON(mediaType(contentType)) && !validJSON(data) || !utf8.ValidString(contentType) {
			t.Skip() // not published
		}
		p := store.Publication{Field: name, Data: data, Type: contentType, Event: event}
		_, body := answerOf(t, JSON, p, p)
		var got struct {
			Messages []struct{ Field, Event, Type string }
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || !utf8.ValidString(body) {
			t.Fatalf("%v in %q", err, body)
		}
		if len(got.Messages) != 2 || got.Messages[1].Field != name || got.Messages[1].Event != event {
			t.Errorf("%+v", got)
		}
		if strings.Contains(strings.TrimSuffix(body, "\n"), "\n") {
			t.Errorf("not one line: %q", body)
		}
	})
}
