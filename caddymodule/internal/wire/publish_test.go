package wire

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

func post(query, contentType, body string) PublishRequest {
	return PublishRequest{Method: "POST", Query: query, ContentType: contentType, Body: func() (string, *Error) { return body, nil }}
}

const form = "application/x-www-form-urlencoded"

// said writes a publication as field=data, with its type and event.
func said(batch []store.Publication) string {
	var words []string
	for _, p := range batch {
		word := p.Field + "=" + p.Data
		if p.Bump {
			word = p.Field + "++"
		}
		if p.Type != "" {
			word += " (" + p.Type + ")"
		}
		if p.Event != "" {
			word += " !" + p.Event
		}
		words = append(words, word)
	}
	return strings.Join(words, "; ")
}

func TestPublicationsAreReadInTheirOrder(t *testing.T) {
	for _, test := range []struct {
		query, contentType, body string
		want                     string
	}{
		{"", form, "id=123&news=hi&id=124", "id=123; news=hi; id=124"},
		{"", form, "a%20b=c+d%26&x=", "a b=c d&; x="},
		{"", form + "; charset=UTF-8", "&id=1&", "id=1"},
		{"field=a&field=b", form, "x=1", "a=x=1 (" + form + "); b=x=1 (" + form + ")"},
		{"field=a&event=added", "text/html; charset=utf-8", "<b>", "a=<b> (text/html; charset=utf-8) !added"},
		{"field=a", "", "", "a="},
		{"field=a", "\x00;;", "x", "a=x (application/octet-stream)"},
		{"field=a", "text/" + strings.Repeat("x", 300), "x", "a=x (application/octet-stream)"},
		{"field=a", "application/json", `{"id":1}`, `a={"id":1} (application/json)`},
		{"field=a&bump=b", form, "x=1", "a=x=1 (" + form + ")"},
		{"bump=a&bump=b", "", "ignored", "a++; b++"},
		{
			"", "application/json", ` {"z":123,"a":{"t": "hi"},"m":"text","l":[1, 2],"b":true,"e":""} `,
			`z=123 (application/json); a={"t":"hi"} (application/json); m=text; l=[1,2] (application/json); b=true (application/json); e=`,
		},
		{
			"", "application/json", `{"n":1.50,"big":123456789012345678901234567890}`,
			"n=1.50 (application/json); big=123456789012345678901234567890 (application/json)",
		},
		{
			"event=e", "application/json", `[{"field":"a","data":"x"},{"fields":["b","c"],"data":{"k":1},"event":"f"},{"field":"d","data":"<p>","type":"text/html"}]`,
			`a=x !e; b={"k":1} (application/json) !f; c={"k":1} (application/json) !f; d=<p> (text/html) !e`,
		},
	} {
		ask, e := ReadPublish(post(test.query, test.contentType, test.body))
		if e != nil {
			t.Errorf("?%s %s: %v", test.query, test.body, e)
			continue
		}
		if got := said(ask.Batch); got != test.want {
			t.Errorf("?%s %s:\n got %s\nwant %s", test.query, test.body, got, test.want)
		}
	}
}

func TestMultipartPartsKeepTheirType(t *testing.T) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	_ = w.WriteField("id", "1")
	part, _ := w.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {`form-data; name="pic"; filename="p.png"`},
		"Content-Type":        {"image/png"},
	})
	_, _ = part.Write([]byte("\x89PNG"))
	_ = w.WriteField("id", "2")
	_ = w.Close()
	ask, e := ReadPublish(post("", w.FormDataContentType(), body.String()))
	if e != nil || said(ask.Batch) != "id=1; pic=\x89PNG (image/png); id=2" {
		t.Errorf("got %q, %v", said(ask.Batch), e)
	}
	if _, e := ReadPublish(post("", w.FormDataContentType(), body.String()[:body.Len()/2])); e == nil || e.Status != 400 {
		t.Errorf("half of it: %v", e)
	}
}

func TestABadPublicationIsRefusedWholeWithItsReason(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, test := range []struct {
		query, contentType, body string
		status                   int
		says                     string
	}{
		{"", "", "id=1", 415, "no Content-Type"},
		{"", "nonsense", "id=1", 415, "says nothing of fields"},
		{"", ";", "id=1", 415, "cannot be read"},
		{"", "text/plain", "id=1", 415, "text/plain"},
		{"", form, "", 400, "nothing to publish"},
		{"", form, "hello", 400, `"hello" without a "="`},
		{"", form, "id=1&=2", 400, "is empty"},
		{"", form, "id=1&a%0Ab=2", 400, "control character"},
		{"", form, "id=1&%ff=2", 400, "not UTF-8"},
		{"", form, "id=1&" + long + "=2", 400, "256 bytes"},
		{"", form, "id=1&b=%zz", 400, "%zz"},
		{"field=", form, "x", 400, "is empty"},
		{"field=a%7f", form, "x", 400, "control character"},
		{"field=a&event=b%0a", form, "x", 400, "event"},
		{"field=%zz", form, "x", 400, "query"},
		{"field=a", "application/json", "{", 400, "not JSON"},
		{"field=a", "application/ld+json", "{", 400, "not JSON"},
		{"field=a", "application/json", "\"\xff\"", 400, "not JSON"},
		{"bump=", "", "", 400, "is empty"},
		{"", "application/json", `{"id":1`, 400, "cut off"},
		{"", "application/json", `{"id":1,}`, 400, "JSON"},
		{"", "application/json", `{"id":1} x`, 400, "after the end"},
		{"", "application/json", `{"id":null}`, 400, "null"},
		{"", "application/json", `{"id":1,"id":2}`, 400, "twice"},
		{"", "application/json", `{"":1}`, 400, "is empty"},
		{"", "application/json", `{}`, 400, "nothing to publish"},
		{"", "application/json", `[]`, 400, "nothing to publish"},
		{"", "application/json", `"text"`, 400, "neither"},
		{"", "application/json", "", 400, "cut off"},
		{"", "application/json", "{\"id\":\"\xff\"}", 400, "UTF-8"},
		{"", "application/json", strings.Repeat(`{"a":`, 20000), 400, "JSON"},
		{"", "application/json", `[1]`, 400, "item 1"},
		{"", "application/json", `[{"field":"a","data":1},{"data":1}]`, 400, "item 2"},
		{"", "application/json", `[{"field":"a"}]`, 400, "data"},
		{"", "application/json", `[{"field":"a","fields":["b"],"data":1}]`, 400, "both"},
		{"", "application/json", `[{"fields":[],"data":1}]`, 400, "no field"},
		{"", "application/json", `[{"field":1,"data":1}]`, 400, "wrong type"},
		{"", "application/json", `[{"field":"a","data":null}]`, 400, "null"},
		{"", "application/json", `[{"field":"a","data":1,"dta":2}]`, 400, "dta"},
		{"", "application/json", `[{"field":"a","data":1,"event":"x\n"}]`, 400, "event"},
		{"", "application/json", `[{"field":"a","data":"x","type":"a/b\r\nSet-Cookie: x"}]`, 400, "type"},
		{"", "application/json", `[{"field":"a","data":"{","type":"application/json"}]`, 400, "not JSON"},
		{"", "multipart/form-data", "x", 400, "boundary"},
		{"", "multipart/form-data; boundary=b", "x", 400, "multipart"},
		{"", "multipart/form-data; boundary=b", "--b\r\n\r\nx\r\n--b--\r\n", 400, "is empty"},
	} {
		ask, e := ReadPublish(post(test.query, test.contentType, test.body))
		if e == nil || e.Status != test.status || !strings.Contains(e.Detail, test.says) || ask.Batch != nil {
			t.Errorf("?%s %s %.40s: %+v, published %q; want %d with %q", test.query, test.contentType, test.body, e, said(ask.Batch), test.status, test.says)
		}
		if e != nil && (strings.ContainsAny(e.Detail, "\r\n") || len(e.Detail) > 500 || !utf8.ValidString(e.Detail)) {
			t.Errorf("not one line to read: %q", e.Detail)
		}
	}
}

func TestAFormOfTenThousandNamesIsRead(t *testing.T) {
	var body strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&body, "n%d=%d&", i, i)
	}
	ask, e := ReadPublish(post("", form, body.String()))
	if e != nil || len(ask.Batch) != 10_000 || ask.Batch[9999].Field != "n9999" {
		t.Errorf("%d publications, %v", len(ask.Batch), e)
	}
}

func TestReadsAndDeletionsNameTheirFields(t *testing.T) {
	for method, want := range map[string]string{"GET": "[a b] []", "HEAD": "[a b] []", "DELETE": "[] [a b]"} {
		ask, e := ReadPublish(PublishRequest{Method: method, Query: "field=a&field=b"})
		if got := fmt.Sprint(ask.Read, ask.Delete); got != want || e != nil {
			t.Errorf("%s: %s, %v", method, got, e)
		}
		if _, e := ReadPublish(PublishRequest{Method: method}); e == nil || e.Status != 400 || !strings.Contains(e.Detail, "?field=") {
			t.Errorf("%s without a field: %v", method, e)
		}
	}
	if _, e := ReadPublish(PublishRequest{Method: "PATCH"}); e == nil || e.Status != 405 {
		t.Errorf("PATCH: %v", e)
	}
}

func FuzzReadPublish(f *testing.F) {
	f.Add("POST", "", form, "id=1&news=%20hi")
	f.Add("POST", "field=a&event=b", "text/plain", "x")
	f.Add("POST", "", "application/json", `{"id":123,"news":{"t":"hi"}}`)
	f.Add("POST", "", "application/json", `[{"fields":["a"],"data":"x","type":"a/b"}]`)
	f.Add("POST", "", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b--\r\n")
	f.Add("DELETE", "field=a", "", "")
	f.Fuzz(func(t *testing.T, method, query, contentType, body string) {
		ask, e := ReadPublish(PublishRequest{Method: method, Query: query, ContentType: contentType, Body: func() (string, *Error) { return body, nil }})
		if e != nil {
			if e.Status < 400 || e.Status > 499 || ask.Batch != nil || strings.ContainsAny(e.Detail, "\r\n") {
				t.Errorf("%+v with %q", e, said(ask.Batch))
			}
			return
		}
		if len(ask.Batch) == 0 && len(ask.Read) == 0 && len(ask.Delete) == 0 {
			t.Error("neither an error nor anything to do")
		}
		for _, p := range ask.Batch {
			if err := CheckName(p.Field); err != nil {
				t.Errorf("the field %q %v", p.Field, err)
			}
			if len(p.Type) > maxType || isJSON(mediaType(p.Type)) && !validJSON(p.Data) {
				t.Errorf("%q of type %q", p.Data, p.Type)
			}
		}
	})
}
