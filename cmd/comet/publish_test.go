package main_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

type request = comettest.Request

const multipartType = "multipart/form-data; boundary=XX"

// multipart returns a multipart body of name, value pairs.
func multipart(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&b, "--XX\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", pairs[i], pairs[i+1])
	}
	b.WriteString("--XX--\r\n")
	return b.String()
}

func TestPublish(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))

	t.Run("POST with field= stores the body", func(t *testing.T) {
		a := s.Do(t, request{URL: "/config?field=post", Type: "text/plain", Body: "hello"})
		wantText(t, a, "OK\n")
		wantValue(t, s, "post", "hello")
	})

	t.Run("PUT with field= stores the body", func(t *testing.T) {
		a := s.Do(t, request{Method: "PUT", URL: "/config?field=put", Type: "text/plain", Body: "hello"})
		wantText(t, a, "OK\n")
		wantValue(t, s, "put", "hello")
	})

	t.Run("every field= gets the body", func(t *testing.T) {
		cursor := now(t, s)
		a := s.Do(t, request{URL: "/config?field=each/1&field=each/2&field=each/3", Type: "text/plain", Body: "hello"})
		wantText(t, a, "OK\n")
		wantTexts(t, since(t, s, cursor, "each/1", "each/2", "each/3"),
			"each/1=hello", "each/2=hello", "each/3=hello")
	})

	t.Run("event= is kept with the message", func(t *testing.T) {
		cursor := now(t, s)
		s.Do(t, request{URL: "/config?field=event&event=added", Type: "text/plain", Body: "x"})
		s.Do(t, request{URL: "/config?field=event", Type: "text/plain", Body: "y"})
		a := since(t, s, cursor, "event")
		wantTexts(t, a, "event=x", "event=y")
		if got := a.JSON.Messages[0].Event; got != "added" {
			t.Errorf("event is %q; want added", got)
		}
		if strings.Count(a.Body, `"event":"`) != 1 {
			t.Errorf("a message without an event has one: %s", a.Body)
		}
	})

	t.Run("with field= no content type is needed", func(t *testing.T) {
		a := s.Do(t, request{URL: "/config?field=untyped", Body: "hello"})
		wantText(t, a, "OK\n")
		wantValue(t, s, "untyped", "hello")
	})

	t.Run("with field= an empty body is an empty value", func(t *testing.T) {
		a := s.Do(t, request{Method: "POST", URL: "/config?field=empty", Type: "text/plain"})
		wantText(t, a, "OK\n")
		wantValue(t, s, "empty", "")
	})

	t.Run("field= wins over every kind of body", func(t *testing.T) {
		for i, c := range []struct{ typ, body string }{
			{comettest.FormType, "wins=1&other=2"},
			{multipartType, multipart("wins", "1")},
			{"application/json", `{"wins":1}`},
			{"application/json", `[{"field":"wins","data":1}]`},
			{"application/json", `{"wins":`},
			{"text/html", "<b>"},
			{"absurd", "x"},
		} {
			field := fmt.Sprintf("winner/%d", i)
			a := s.Do(t, request{URL: "/config?field=" + field, Type: c.typ, Body: c.body})
			if c.body == `{"wins":` && a.Status == 400 {
				continue // broken JSON may be called so
			}
			wantText(t, a, "OK\n")
			wantValue(t, s, field, c.body)
		}
		wantUnset(t, s, "wins", "other")
	})

	t.Run("a form publishes each name in order, a repeated one too", func(t *testing.T) {
		for _, c := range []struct{ typ, body string }{
			{comettest.FormType, "f%2F1=1&f%2F2=a+b%26&f%2F1=3"},
			{comettest.FormType + "; charset=UTF-8", "f/1=1&f/2=a%20b%26&f/1=3"},
			{"Application/X-WWW-Form-URLEncoded", "f/1=1&f/2=a+b%26&f/1=3"},
			{multipartType, multipart("f/1", "1", "f/2", "a b&", "f/1", "3")},
		} {
			cursor := now(t, s)
			a := s.Do(t, request{URL: "/config", Type: c.typ, Body: c.body})
			wantText(t, a, "OK\n")
			wantTexts(t, since(t, s, cursor, "f/1", "f/2"), "f/1=1", "f/2=a b&", "f/1=3")
			wantValue(t, s, "f/1", "3")
		}
	})

	t.Run("a JSON object publishes its keys in order", func(t *testing.T) {
		cursor := now(t, s)
		comettest.PublishAs(t, s, "", "application/json; charset=utf-8",
			`{"o/z":1,"o/a":{"t":"hi"},"o/m":"text \u00e9","o/b":[1,2],"o/c":true,"o/n":12345678901234567890.50}`)
		wantTexts(t, since(t, s, cursor, "o/a", "o/b", "o/c", "o/m", "o/n", "o/z"),
			"o/z=1", `o/a={"t":"hi"}`, "o/m=text é", "o/b=[1,2]", "o/c=true", "o/n=12345678901234567890.50")
	})

	t.Run("a JSON string is stored as its text and anything else as its JSON", func(t *testing.T) {
		comettest.PublishAs(t, s, "", "application/json", `{"j/s":"a\"b","j/o":{"t":"hi"},"j/i":123,"j/f":false}`)
		wantValue(t, s, "j/s", `a"b`)
		wantValue(t, s, "j/o", `{"t":"hi"}`)
		wantValue(t, s, "j/i", "123")
		wantValue(t, s, "j/f", "false")
	})

	t.Run("a JSON array publishes its items in order", func(t *testing.T) {
		cursor := now(t, s)
		comettest.PublishAs(t, s, "", "application/json", `[
			{"field":"a/1","data":"one","event":"added"},
			{"fields":["a/2","a/3"],"data":{"t":"hi"}},
			{"field":"a/1","data":"<b>","type":"text/html"},
			{"field":"a/4","data":4}]`)
		a := since(t, s, cursor, "a/1", "a/2", "a/3", "a/4")
		wantTexts(t, a, "a/1=one", `a/2={"t":"hi"}`, `a/3={"t":"hi"}`, "a/1=<b>", "a/4=4")
		if got := a.JSON.Messages[0].Event; got != "added" {
			t.Errorf("event is %q; want added", got)
		}
		if got := a.JSON.Messages[3].Type; got != "text/html" {
			t.Errorf("type is %q; want text/html", got)
		}
	})

	t.Run("bump makes the next whole number", func(t *testing.T) {
		for i, c := range []struct{ before, after string }{
			{"", "1"},
			{"0", "1"},
			{"5", "6"},
			{"9", "10"},
			{"-3", "-2"},
			{"-1", "0"},
			{"1.5", "2"},
			{"1.0", "2"},
			{"-0.5", "0"},
			{"-1.5", "-1"},
			{"9007199254740993", "9007199254740994"},
			{"9223372036854775807", "9223372036854775808"},
			{"99999999999999999999999999", "100000000000000000000000000"},
		} {
			field := fmt.Sprintf("bump/%d", i)
			if c.before != "" {
				comettest.Publish(t, s, field+"="+c.before)
			}
			a := s.Do(t, request{Method: "POST", URL: "/config?bump=" + field})
			wantStatus(t, a, 200)
			if got, _ := value(t, s, field); got != c.after {
				t.Errorf("the number after %q is %q; want %q", c.before, got, c.after)
			}
		}
	})

	t.Run("bump answers OK", func(t *testing.T) {
		wantText(t, s.Do(t, request{Method: "POST", URL: "/config?bump=bumped"}), "OK\n")
	})

	t.Run("bump wakes who waits", func(t *testing.T) {
		comettest.Publish(t, s, "ring=1")
		held := comettest.Hold(t, s, "field=ring&ring=1")
		wantStatus(t, s.Do(t, request{Method: "POST", URL: "/config?bump=ring"}), 200)
		wantText(t, comettest.Await(t, held), "YES\n")
	})

	t.Run("GET returns the value and a newline", func(t *testing.T) {
		comettest.Publish(t, s, "read=12 3")
		wantText(t, s.Do(t, request{URL: "/config?field=read"}), "12 3\n")
	})

	t.Run("HEAD is GET without the body", func(t *testing.T) {
		comettest.Publish(t, s, "head=1")
		a := s.Do(t, request{Method: "HEAD", URL: "/config?field=head"})
		if wantStatus(t, a, 200); a.Body != "" {
			t.Errorf("HEAD has a body: %q", a.Body)
		}
		wantStatus(t, s.Do(t, request{Method: "HEAD", URL: "/config?field=never-set"}), 400)
	})

	t.Run("GET without a field, or of one never set, is 400 with a line that says which", func(t *testing.T) {
		none := s.Do(t, request{URL: "/config"})
		never := s.Do(t, request{URL: "/config?field=never-set"})
		for _, a := range []comettest.Answer{none, never} {
			wantStatus(t, a, 400)
			if strings.TrimSpace(a.Body) == "" || strings.Count(strings.TrimSpace(a.Body), "\n") > 0 {
				t.Errorf("the body is not one line: %q", a.Body)
			}
		}
		if none.Body == never.Body {
			t.Errorf("both say %q", none.Body)
		}
	})

	t.Run("GET changes nothing", func(t *testing.T) {
		comettest.Publish(t, s, "fixed=5")
		cursor := now(t, s)
		for _, query := range []string{"bump=fixed", "fixed=6", "field=fixed&fixed=6", "field=fixed&bump=fixed", "field=fixed&event=x"} {
			s.Do(t, request{URL: "/config?" + query})
			s.Do(t, request{URL: "/config?" + query, Method: "GET", Type: comettest.FormType, Body: "fixed=7"})
			s.Do(t, request{URL: "/config?" + query, Method: "HEAD"})
		}
		wantValue(t, s, "fixed", "5")
		wantTexts(t, since(t, s, cursor, "fixed"))
	})

	t.Run("DELETE forgets the field and its messages", func(t *testing.T) {
		cursor := now(t, s)
		comettest.Publish(t, s, "gone=1&gone=2")
		wantText(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=gone"}), "OK\n")
		wantUnset(t, s, "gone")
		a := since(t, s, cursor, "gone")
		wantTexts(t, a)
		if !a.Missed() || !a.JSON.Missed {
			t.Errorf("a deletion is no gap for an older cursor: %s", a)
		}
		wantTexts(t, comettest.Push(t, s, "field=gone&after=first&format=json&wait=0"))
	})

	t.Run("DELETE of nothing is OK", func(t *testing.T) {
		wantText(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=never-set"}), "OK\n")
	})

	t.Run("DELETE without a field is 400", func(t *testing.T) {
		wantStatus(t, s.Do(t, request{Method: "DELETE", URL: "/config"}), 400)
	})

	t.Run("DELETE answers who watches the field", func(t *testing.T) {
		comettest.Publish(t, s, "watched=1")
		byCursor := comettest.Hold(t, s, "field=watched&after=now&format=json")
		byValue := comettest.Hold(t, s, "field=watched&watched=1")
		s.Do(t, request{Method: "DELETE", URL: "/config?field=watched"})
		wantStatus(t, comettest.Await(t, byValue), 200)
		a := comettest.Await(t, byCursor)
		if wantTexts(t, a); !a.Missed() {
			t.Errorf("a watcher by cursor is not told of the gap: %s", a)
		}
		// And the cursor it got goes on from here.
		comettest.Publish(t, s, "watched=again")
		b := since(t, s, a.Cursor(), "watched")
		if wantTexts(t, b, "watched=again"); b.Missed() {
			t.Errorf("the gap is told twice: %s", b)
		}
	})

	t.Run("other methods are 405 with Allow", func(t *testing.T) {
		for _, method := range []string{"PATCH", "OPTIONS", "PROPFIND", "REPORT"} {
			a := s.Do(t, request{Method: method, URL: "/config?field=id"})
			wantStatus(t, a, 405)
			for _, m := range []string{"GET", "POST", "PUT", "DELETE"} {
				if !strings.Contains(a.Header.Get("Allow"), m) {
					t.Errorf("%s: Allow is %q; %s is missing", method, a.Header.Get("Allow"), m)
				}
			}
		}
	})

	t.Run("PUT without field= publishes nothing", func(t *testing.T) {
		a := s.Do(t, request{Method: "PUT", URL: "/config", Type: comettest.FormType, Body: "put-form=1"})
		wantStatus(t, a, 400, 405, 415)
		wantUnset(t, s, "put-form")
	})

	t.Run("values are not expanded as placeholders", func(t *testing.T) {
		for i, v := range []string{"{http.request.host}", "{env.HOME}", "{$HTTP}", "{host}", "{time.now.unix}"} {
			field := fmt.Sprintf("literal/%d", i)
			comettest.Publish(t, s, field+"="+escape(v))
			wantValue(t, s, field, v)
			if a := comettest.Push(t, s, "field="+field+"&format=json"); !strings.Contains(a.Body, v) {
				t.Errorf("%s came out as %s", v, a.Body)
			}
			s.Do(t, request{URL: "/config?field=" + escape(v), Type: "text/plain", Body: "x"})
			wantValue(t, s, v, "x")
		}
	})

	t.Run("with no type or an unreadable one and no field= it is 415", func(t *testing.T) {
		for _, typ := range []string{"", "text/plain", "application/xml", "absurd", ";;;", "application/json;=;", "multipart/form-data", "\"", "application/jsonp"} {
			a := s.Do(t, request{URL: "/config", Type: typ, Body: "untyped-form=1"})
			if typ == "multipart/form-data" || typ == "application/json;=;" {
				wantStatus(t, a, 415, 400) // the type is known, its parameters are not
			} else {
				wantStatus(t, a, 415)
			}
		}
		wantUnset(t, s, "untyped-form")
	})

	t.Run("a body of max_body is taken and a longer one is 413", func(t *testing.T) {
		const mib = 1 << 20 // the default
		full := strings.Repeat("x", mib)
		wantStatus(t, s.Do(t, request{URL: "/config?field=full", Type: "text/plain", Body: full}), 200)
		wantValue(t, s, "full", full)
		for _, r := range []request{
			{URL: "/config?field=over", Type: "text/plain", Body: full + "x"},
			{URL: "/config?field=over", Type: "text/plain", Reader: strings.NewReader(full + "x")},
			{URL: "/config", Type: comettest.FormType, Body: "over=" + full},
			{URL: "/config", Type: "application/json", Body: `{"over":"` + full + `"}`},
			{URL: "/config", Type: "application/json", Body: `[{"field":"over","data":"` + full + `"}]`},
			{URL: "/config", Type: multipartType, Body: multipart("over", full)},
		} {
			wantStatus(t, s.Do(t, r), 413)
		}
		wantUnset(t, s, "over")
	})

	t.Run("a request with anything wrong in it publishes nothing", func(t *testing.T) {
		long := strings.Repeat("n", 256)
		for i, c := range []struct{ query, typ, body string }{
			{"field=%[1]s&field=", "text/plain", "x"},
			{"field=%[1]s&field=" + long, "text/plain", "x"},
			{"field=%[1]s&field=a%%0Ab", "text/plain", "x"},
			{"field=%[1]s&field=%%FF", "text/plain", "x"},
			{"", comettest.FormType, "%[1]s=1&=2"},
			{"", comettest.FormType, "%[1]s=1&" + long + "=2"},
			{"", comettest.FormType, "%[1]s=1&a%%00b=2"},
			{"", comettest.FormType, "%[1]s=1&b=%%zz"},
			{"", "application/json", `{"%[1]s":1,"other":null}`},
			{"", "application/json", `{"%[1]s":1,"%[1]s":2}`},
			{"", "application/json", `{"%[1]s":1,"":2}`},
			{"", "application/json", `{"%[1]s":1,"a\nb":2}`},
			{"", "application/json", `{"%[1]s":1,`},
			{"", "application/json", `{"%[1]s":1}}`},
			{"", "application/json", `{"%[1]s":1} {"other":2}`},
			{"", "application/json", `[{"field":"%[1]s","data":1},{"field":"other"}]`},
			{"", "application/json", `[{"field":"%[1]s","data":1},{"data":2}]`},
			{"", "application/json", `[{"field":"%[1]s","data":1},{"field":"","data":2}]`},
			{"", "application/json", `[{"field":"%[1]s","data":1},{"fields":["other",""],"data":2}]`},
			{"", "application/json", `[{"field":"%[1]s","data":1},{"field":7,"data":2}]`},
			{"", "application/json", `[{"field":"%[1]s","data":1},{"field":"other","data":2,"event":7}]`},
			{"", "application/json", `[{"field":"%[1]s","data":1},7]`},
			{"", "application/json", `[{"field":"%[1]s","data":1}`},
			{"", "application/json", `"%[1]s"`},
			{"", "application/json", `7`},
			{"", "application/json", ``},
			{"", multipartType, "--XX\r\nContent-Disposition: form-data; name=\"%[1]s\"\r\n\r\n1\r\n--XX\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n2"},
			{"", multipartType, "--XX\r\nContent-Disposition: form-data; name=\"%[1]s\"\r\n\r\n1\r\n--XX\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n2\r\n--XX--\r\n"},
		} {
			field := fmt.Sprintf("wrong-%d", i)
			fill := func(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "%[1]s", field), "%%", "%") }
			a := s.Do(t, request{Method: "POST", URL: "/config?" + fill(c.query), Type: c.typ, Body: fill(c.body)})
			if a.Status != 400 {
				t.Errorf("?%s %.80q: got %.300s; want 400", c.query, fill(c.body), a)
			}
			if strings.TrimSpace(a.Body) == "" {
				t.Errorf("?%s %.80q: the 400 says nothing", c.query, fill(c.body))
			}
			wantUnset(t, s, field)
		}
		wantUnset(t, s, "other", "b")
	})

	t.Run("a field name is 1 to 255 bytes of UTF-8 without control characters", func(t *testing.T) {
		for name, good := range map[string]bool{
			"n":                                 true,
			"board/7/posts":                     true,
			"with space":                        true,
			"gr\u00fc\u00dfe \U0001f600 \u4e16": true,
			"a*b?[c]{d}":                        true,
			strings.Repeat("n", 255):            true,
			strings.Repeat("é", 127) + "n":      true,
			strings.Repeat("n", 256):            false,
			strings.Repeat("é", 128):            false,
			"\xff\xfe":                          false,
			"a\xc3":                             false,
			"a\x00b":                            false,
			"a\nb":                              false,
			"a\rb":                              false,
			"a\tb":                              false,
			"a\x1bb":                            false,
			"a\x7fb":                            false,
		} {
			want := 400
			if good {
				want = 200
			}
			wantStatus(t, s.Do(t, request{URL: "/config?field=" + escape(name), Type: "text/plain", Body: "1"}), want)
			wantStatus(t, s.Do(t, request{URL: "/config", Type: comettest.FormType, Body: escape(name) + "=2"}), want)
			if strings.ToValidUTF8(name, "") == name {
				key, _ := json.Marshal(name)
				wantStatus(t, s.Do(t, request{URL: "/config", Type: "application/json", Body: "{" + string(key) + ":3}"}), want)
				if good {
					wantValue(t, s, name, "3")
				}
			}
			wantStatus(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=" + escape(name)}), want)
		}
	})

	t.Run("with Accept: application/json answers are JSON", func(t *testing.T) {
		comettest.Publish(t, s, "asjson=12")
		held := comettest.Hold(t, s, "field=asjson&after=now")
		asJSON := map[string]string{"Accept": "application/json"}
		a := s.Do(t, request{URL: "/config?field=asjson", Header: asJSON})
		if a.Status != 200 || a.JSON == nil {
			t.Fatalf("got %s; want 200 and JSON", a)
		}
		f := a.JSON.Fields["asjson"]
		if f.Text() != "12" || f.Subscribers == nil || *f.Subscribers != 1 {
			t.Errorf("got %s; want the value 12 and one subscriber", a.Body)
		}
		if a.JSON.Cursor == "" || a.JSON.Cursor != a.Cursor() {
			t.Errorf("the cursor is %q in the body and %q in the header", a.JSON.Cursor, a.Cursor())
		}
		b := s.Do(t, request{URL: "/config", Header: asJSON, Type: comettest.FormType, Body: "asjson=13"})
		if b.Status != 200 || b.JSON == nil || b.JSON.Cursor == "" || b.JSON.Cursor != b.Cursor() {
			t.Fatalf("publishing: got %s; want 200, JSON and its cursor", b)
		}
		if f, ok := b.JSON.Fields["asjson"]; !ok || f.Text() != "13" {
			t.Errorf("publishing: got %s; want the value 13", b.Body)
		}
		comettest.Await(t, held)
	})

	t.Run("the cursor of a publication is after it", func(t *testing.T) {
		a := comettest.Publish(t, s, "point=1&point=2")
		wantTexts(t, since(t, s, a.Cursor(), "point"))
		comettest.Publish(t, s, "point=3")
		wantTexts(t, since(t, s, a.Cursor(), "point"), "point=3")
	})

	t.Run("with Accept: application/json errors are problem+json", func(t *testing.T) {
		for _, r := range []request{
			{URL: "/config"},
			{URL: "/config?field=never-set"},
			{Method: "PATCH", URL: "/config"},
			{URL: "/config", Type: "text/plain", Body: "x"},
			{URL: "/config", Type: "application/json", Body: "{"},
			{URL: "/config?field=big", Type: "text/plain", Body: strings.Repeat("x", 1<<20+1)},
		} {
			r.Header = map[string]string{"Accept": "application/json"}
			a := s.Do(t, r)
			if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") {
				t.Errorf("%s %s: got %.300s; want application/problem+json", r.Method, r.URL, a)
				continue
			}
			var problem struct {
				Status int `json:"status"`
			}
			if err := json.Unmarshal([]byte(a.Body), &problem); err != nil {
				t.Errorf("%s %s: %v: %q", r.Method, r.URL, err, a.Body)
			}
			if problem.Status != 0 && problem.Status != a.Status {
				t.Errorf("the problem's status is %d, the answer's %d", problem.Status, a.Status)
			}
		}
	})

	t.Run("Comet-Cursor and no-store are on every answer", func(t *testing.T) {
		for _, r := range []request{
			{URL: "/config?field=covered", Type: "text/plain", Body: "x"},
			{URL: "/config?field=covered"},
			{Method: "HEAD", URL: "/config?field=covered"},
			{Method: "POST", URL: "/config?bump=covered/2"},
			{Method: "DELETE", URL: "/config?field=covered"},
			{URL: "/config"},
			{URL: "/config?field=never-set"},
			{Method: "PATCH", URL: "/config"},
			{URL: "/config", Type: "text/plain", Body: "x"},
			{URL: "/config", Type: "application/json", Body: "{"},
			{URL: "/config?field=big", Type: "text/plain", Body: strings.Repeat("x", 1<<20+1)},
			{URL: "/config?field=covered", Header: map[string]string{"Origin": "https://a.example"}},
		} {
			a := s.Do(t, r)
			if a.Cursor() == "" {
				t.Errorf("%s %s: %d without Comet-Cursor", r.Method, r.URL, a.Status)
			}
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("%s %s: %d with Cache-Control %q; want no-store", r.Method, r.URL, a.Status, got)
			}
		}
	})

	t.Run("the content type is kept", func(t *testing.T) {
		binary := "\x00\xff\xfe"
		for _, c := range []struct{ typ, body, data, wantType, encoding string }{
			{"text/plain", "a\"b", `"a\"b"`, "", ""},
			{"text/plain; charset=utf-8", "é", `"é"`, "", ""},
			{"application/json", `{"a":[1,2.50]}`, `{"a":[1,2.50]}`, "", ""},
			{"application/json", `"s"`, `"s"`, "", ""},
			{"text/html", "x", `"x"`, "text/html", ""},
			{"image/png", binary, `"` + base64.StdEncoding.EncodeToString([]byte(binary)) + `"`, "image/png", "base64"},
			{"application/octet-stream", "text", `"text"`, "application/octet-stream", ""},
		} {
			cursor := now(t, s)
			comettest.PublishAs(t, s, "field=typed", c.typ, c.body)
			a := since(t, s, cursor, "typed")
			if len(a.JSON.Messages) != 1 {
				t.Fatalf("%s: got %s; want one message", c.typ, a.Body)
			}
			m := a.JSON.Messages[0]
			if string(m.Data) != c.data || m.Type != c.wantType || m.Encoding != c.encoding {
				t.Errorf("%s: got %s; want data %s, type %q, encoding %q", c.typ, a.Body, c.data, c.wantType, c.encoding)
			}
		}
	})
}

func TestPublishErrorsAreOurs(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open+`
	handle_errors {
		respond "from handle_errors" {err.status_code}
	}`))

	t.Run("bodies of 4xx do not come from handle_errors", func(t *testing.T) {
		for _, r := range []request{
			{URL: "/config"},
			{Method: "PATCH", URL: "/config"},
			{URL: "/config", Type: "text/plain", Body: "x"},
			{URL: "/config?field=", Type: "text/plain", Body: "x"},
			{URL: "/config?field=x", Type: "text/plain", Body: strings.Repeat("x", 1<<20+1)},
			{URL: "/config?field=x", Header: map[string]string{"Origin": "https://a.example"}},
		} {
			a := s.Do(t, r)
			if a.Status < 400 || a.Status > 499 || strings.TrimSpace(a.Body) == "" || strings.Contains(a.Body, "handle_errors") {
				t.Errorf("%s %s: got %.300s; want a 4xx with a body of its own", r.Method, r.URL, a)
			}
		}
	})
}
