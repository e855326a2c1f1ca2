package comettest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// FormType is the content type of an HTML form.
const FormType = "application/x-www-form-urlencoded"

// Request is one request to a server. Only the URL is needed.
type Request struct {
	Method string            // default GET, or POST with a Body
	URL    string            // absolute, or a path on the port HTTP
	Host   string            // default: the URL's
	Header map[string]string // an empty value is left out
	Type   string            // Content-Type
	Body   string
	Reader io.Reader     // instead of Body: sent chunked
	Client *http.Client  // default: the server's Client
	Within time.Duration // default: Deadline
}

// Answer is what came back for a request.
type Answer struct {
	Status int
	Proto  string
	Header http.Header
	Body   string

	// JSON is the body when it is application/json.
	JSON *Body

	// Elapsed is the time from the request's start to the end of its answer.
	Elapsed time.Duration

	// Close says that the server closes the connection after this answer.
	Close bool

	// Err is set when no whole answer came; nothing else is then sure.
	Err error
}

// Cursor returns the Comet-Cursor of the answer.
func (a Answer) Cursor() string { return a.Header.Get("Comet-Cursor") }

// Missed says whether the answer tells a gap in its header.
func (a Answer) Missed() bool { return a.Header.Get("Comet-Missed") == "true" }

func (a Answer) String() string {
	if a.Err != nil {
		return a.Err.Error()
	}
	return fmt.Sprintf("%d %v %q", a.Status, a.Header, a.Body)
}

// Body is the JSON of an answer of /push or /config.
type Body struct {
	Cursor       string           `json:"cursor"`
	Messages     []Message        `json:"messages"`
	Retry        *float64         `json:"retry"`
	Missed       bool             `json:"missed"`
	MissedFields []string         `json:"missed_fields"`
	Fields       map[string]Field `json:"fields"`

	// Raw has every member of the object as it came.
	Raw map[string]json.RawMessage `json:"-"`
}

// Message is one message in an answer of /push.
type Message struct {
	Field    string          `json:"field"`
	Data     json.RawMessage `json:"data"`
	Cursor   string          `json:"cursor"`
	Time     string          `json:"time"`
	Event    string          `json:"event"`
	Type     string          `json:"type"`
	Encoding string          `json:"encoding"`
}

// Text returns the data of a message that is a JSON string, else its JSON.
func (m Message) Text() string { return text(m.Data) }

// Field is one field in an answer of /config.
type Field struct {
	Value       json.RawMessage `json:"value"`
	Subscribers *int            `json:"subscribers"`
}

// Text returns the value of a field that is a JSON string, else its JSON.
func (f Field) Text() string { return text(f.Value) }

func text(raw json.RawMessage) string {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return string(raw)
	}
	return s
}

// Texts returns the messages of an answer as "field=data", in their order.
func (a Answer) Texts() []string {
	texts := []string{}
	if a.JSON != nil {
		for _, m := range a.JSON.Messages {
			texts = append(texts, m.Field+"="+m.Text())
		}
	}
	return texts
}

// Try sends a request and returns its answer, or the error in Answer.Err.
func (s *Server) Try(ctx context.Context, r Request) Answer {
	if r.Method == "" {
		r.Method = http.MethodGet
		if r.Body != "" || r.Reader != nil {
			r.Method = http.MethodPost
		}
	}
	if strings.HasPrefix(r.URL, "/") {
		r.URL = s.URL(r.URL)
	}
	body := r.Reader
	if body == nil && r.Body != "" {
		body = strings.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, body)
	if err != nil {
		return Answer{Err: err}
	}
	if r.Host != "" {
		req.Host = r.Host
	}
	for name, value := range r.Header {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if r.Type != "" {
		req.Header.Set("Content-Type", r.Type)
	}
	client := r.Client
	if client == nil {
		client = s.client
	}
	start := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return Answer{Err: err}
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	a := Answer{
		Status:  res.StatusCode,
		Proto:   res.Proto,
		Header:  res.Header,
		Body:    string(data),
		Elapsed: time.Since(start),
		Close:   res.Close,
		Err:     err,
	}
	if err == nil && strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		a.JSON = new(Body)
		if err := json.Unmarshal(data, a.JSON); err != nil && r.Method != http.MethodHead {
			a.Err = fmt.Errorf("the body says that it is JSON: %w: %q", err, data)
		}
		_ = json.Unmarshal(data, &a.JSON.Raw) // the first one told
	}
	return a
}

// Do sends a request and returns its answer. The test fails when there is none.
func (s *Server) Do(t testing.TB, r Request) Answer {
	t.Helper()
	if r.Within == 0 {
		r.Within = Deadline
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.Within)
	defer cancel()
	a := s.Try(ctx, r)
	if a.Err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, a.Err)
	}
	return a
}

// Publish posts form, such as "id=1&news=hi", to the publish route. The test fails
// when the answer is not 200 and OK.
func Publish(t testing.TB, s *Server, form string) Answer {
	t.Helper()
	return PublishAs(t, s, "", FormType, form)
}

// PublishAs posts body with a content type to the publish route with a query. The
// test fails when the answer is not 200 and OK.
func PublishAs(t testing.TB, s *Server, query, contentType, body string) Answer {
	t.Helper()
	a := s.Do(t, Request{
		Method: http.MethodPost, URL: withQuery(s.PublishURL, query),
		Type: contentType, Body: body, Header: flat(s.PublishHeader),
	})
	if a.Status != http.StatusOK || a.Body != "OK\n" {
		t.Fatalf("publish %s %.200q: got %s; want 200 OK", query, body, a)
	}
	return a
}

// Push sends GET with query to the hold route and waits for the answer.
func Push(t testing.TB, s *Server, query string) Answer {
	t.Helper()
	return s.Do(t, Request{URL: withQuery(s.HoldURL, query), Within: 3 * Deadline})
}

// Hold sends GET with query to the hold route and returns when the request is
// held, that is counted among the subscribers of a field it watches. At least one
// of these fields must have a value: others do not tell their subscribers. The
// test fails when the request is answered at once. The channel gets one answer; it
// is of use until the end of the test.
func Hold(t testing.TB, s *Server, query string) <-chan Answer {
	t.Helper()
	return HoldRequest(t, s, Request{URL: withQuery(s.HoldURL, query)})
}

// HoldRequest is Hold for any request to a hold route.
func HoldRequest(t testing.TB, s *Server, r Request) <-chan Answer {
	t.Helper()
	return HoldOn(t, s, r, watched(r.URL)...)
}

// HoldOn is HoldRequest for a request whose URL does not name the fields that it
// watches.
func HoldOn(t testing.TB, s *Server, r Request, fields ...string) <-chan Answer {
	t.Helper()
	s.holds.Lock()
	defer s.holds.Unlock()
	field := ""
	before := 0
	for _, f := range fields {
		if n, ok := Subscribers(t, s, f); ok {
			field, before = f, n
			break
		}
	}
	if field == "" {
		t.Fatalf("none of the fields %q has a value, so whether a request is held cannot be seen", fields)
	}
	if r.Client == nil {
		// A connection of its own: over one that was used before, net/http sends a
		// request that was cut a second time, and the cut would not be seen.
		tr := s.transport()
		t.Cleanup(tr.CloseIdleConnections)
		r.Client = &http.Client{Transport: tr}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	answers := make(chan Answer, 1)
	go func() { answers <- s.Try(ctx, r) }()
	Eventually(t, Deadline, func() bool {
		select {
		case a := <-answers:
			t.Fatalf("%s is not held: %s", r.URL, a)
		default:
		}
		n, ok := Subscribers(t, s, field)
		return ok && n > before
	}, r.URL, " is neither held nor answered")
	return answers
}

// Await returns the answer of a held request, and fails the test when none comes.
func Await(t testing.TB, answers <-chan Answer) Answer {
	t.Helper()
	select {
	case a := <-answers:
		if a.Err != nil {
			t.Fatalf("a held request was cut: %v", a.Err)
		}
		return a
	case <-time.After(Deadline):
		t.Fatalf("a held request got no answer within %s", Deadline)
		return Answer{}
	}
}

// Subscribers returns how many requests watch a field, and whether the field has a
// value: of one without it nothing is told.
func Subscribers(t testing.TB, s *Server, field string) (int, bool) {
	t.Helper()
	header := flat(s.PublishHeader)
	header["Accept"] = "application/json"
	a := s.Do(t, Request{
		URL:    withQuery(s.PublishURL, "field="+url.QueryEscape(field)),
		Header: header,
	})
	if a.Status == http.StatusBadRequest {
		return 0, false
	}
	if a.Status != http.StatusOK || a.JSON == nil {
		t.Fatalf("GET %s?field=%s as JSON: got %s", s.PublishURL, field, a)
	}
	f, ok := a.JSON.Fields[field]
	if !ok || f.Subscribers == nil {
		t.Fatalf("GET %s?field=%s as JSON tells no subscribers: %s", s.PublishURL, field, a)
	}
	return *f.Subscribers, true
}

// WaitSubscribers waits until a field with a value has n subscribers.
func WaitSubscribers(t testing.TB, s *Server, field string, n int) {
	t.Helper()
	end := time.Now().Add(2 * Deadline)
	for {
		last, _ := Subscribers(t, s, field)
		if last == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the field %q has %d subscribers; want %d", field, last, n)
		}
		pause()
	}
}

// reserved are the query parameters of a hold that are never names of fields.
var reserved = []string{
	"field", "after", "wait", "last", "format", "wrap", "callback", "event", "retry", "token", "sig", "until",
}

// watched returns the fields that the query of a URL names.
func watched(address string) []string {
	u, err := url.Parse(address)
	if err != nil {
		return nil
	}
	q := u.Query()
	if fields := q["field"]; len(fields) > 0 {
		return fields
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(q)), func(name string) bool {
		return slices.Contains(reserved, name) || strings.HasPrefix(name, "_") || strings.HasPrefix(name, "comet_")
	})
	if len(names) == 0 {
		return []string{"id"}
	}
	return names
}

func withQuery(address, query string) string {
	if query == "" {
		return address
	}
	if strings.Contains(address, "?") {
		return address + "&" + query
	}
	return address + "?" + query
}

func flat(h http.Header) map[string]string {
	m := map[string]string{}
	for name := range h {
		m[name] = h.Get(name)
	}
	return m
}
