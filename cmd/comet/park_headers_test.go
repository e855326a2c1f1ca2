package main_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// pair is two servers with one configuration: the first holds on goroutines, the
// second as it is told by the test run.
type pair [2]*comettest.Server

func startPair(t *testing.T, config string, opts ...comettest.Option) pair {
	t.Helper()
	return pair{
		comettest.Start(t, config, slices.Concat(opts, []comettest.Option{comettest.WithParking("off")})...),
		comettest.Start(t, config, opts...),
	}
}

var pairNames = [2]string{"on a goroutine", "as the run is told"}

// scenario is a request that is held, and how it is answered.
type scenario struct {
	name   string
	text   string // of the request; HOST and FIELD stand for what they are
	answer string // wake, timeout, ended, or at once
	method string
}

var scenarios = []scenario{
	{"a woken text", "GET /push?field=FIELD&FIELD=0&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "wake", ""},
	{"a woken JSON", "GET /push?field=FIELD&after=now&format=json&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "wake", ""},
	{"a woken request with a body", "GET /push?field=FIELD&after=now&TAG HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\nhello", "wake", ""},
	{"a woken request of HTTP/1.0", "GET /push?field=FIELD&after=now&TAG HTTP/1.0\r\nHost: HOST\r\n\r\n", "wake", ""},
	{"one of HTTP/1.0 with keep-alive", "GET /push?field=FIELD&after=now&TAG HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\n\r\n", "wake", ""},
	{"one with Connection: close", "GET /push?field=FIELD&after=now&TAG HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n", "wake", ""},
	{"one with many headers", "GET /push?field=FIELD&after=now&TAG HTTP/1.1\r\nHost: HOST\r\nAccept: application/json\r\nAccept-Encoding: gzip, zstd\r\nCookie: a=b\r\n" +
		"Authorization: Basic Ym9iOnNlY3JldA==\r\nOrigin: https://a.example\r\nUser-Agent: test\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n", "wake", ""},
	{"a timeout", "GET /push?field=FIELD&after=now&wait=0.05&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "timeout", ""},
	{"a timeout of JSON", "GET /push?field=FIELD&after=now&wait=0.05&format=json&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "timeout", ""},
	{"a woken raw", "GET /push?field=FIELD&after=now&format=raw&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "wake", ""},
	{"a timeout of raw", "GET /push?field=FIELD&after=now&wait=0.05&format=raw&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "timeout", ""},
	{"one that is ended", "GET /push?field=FIELD&after=now&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "ended", ""},
	{"an answer at once", "GET /push?field=FIELD&after=first&format=json&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "at once", ""},
	{"a gap", "GET /push?field=FIELD&after=first&format=json&TAG HTTP/1.1\r\nHost: HOST\r\nLast-Event-ID: unreadable\r\n\r\n", "at once", ""},
	{"HEAD", "HEAD /push?field=FIELD&after=now&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "at once", "HEAD"},
	{"a refusal", "GET /push?field=FIELD&format=other&TAG HTTP/1.1\r\nHost: HOST\r\n\r\n", "at once", ""},
}

// play has a server go through a scenario and returns the head of the answer, line by
// line, and its body.
func (c scenario) play(t *testing.T, s *comettest.Server, l *link, tag string, whileHeld func()) (head []string, body string) {
	t.Helper()
	field := freshField(t, s)
	l.say(strings.NewReplacer("FIELD", field, "HOST", l.host, "TAG", tag).Replace(c.text))
	if c.answer != "at once" && c.answer != "timeout" {
		comettest.WaitSubscribers(t, s, field, 1)
		if whileHeld != nil {
			whileHeld()
		}
	}
	switch c.answer {
	case "wake":
		comettest.Publish(t, s, field+"=1")
	case "ended":
		held := list(t, admin(t, s, "GET", "/comet/default/held?field="+field, 200), "held")
		if len(held) != 1 {
			t.Fatalf("%d requests are held on %s", len(held), field)
		}
		admin(t, s, "DELETE", fmt.Sprintf("/comet/default/held?id=%v", held[0]["id"]), 200)
	}
	if c.method == "" {
		return l.rawAnswer(http.MethodGet)
	}
	return l.rawAnswer(c.method)
}

// rawAnswer reads one answer and returns its head as it is on the wire.
func (l *link) rawAnswer(method string) (head []string, body string) {
	l.t.Helper()
	for n := 1; head == nil; n = l.r.Buffered() + 1 {
		if _, err := l.r.Peek(n); err != nil {
			l.t.Fatalf("reading the head of an answer: %v", err)
		}
		seen, _ := l.r.Peek(l.r.Buffered())
		if text, _, whole := strings.Cut(string(seen), "\r\n\r\n"); whole {
			head = strings.Split(text, "\r\n")
		}
	}
	a, err := l.tryAnswer(method)
	if err != nil {
		l.t.Fatalf("reading an answer: %v", err)
	}
	return head, a.Body
}

// What differs between two servers, and how often: epochs, positions, ports, fields,
// and the random time of retry.
var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`^(Comet-Cursor: )[a-z0-9]+\.\d+$`), "${1}CURSOR"},
	{regexp.MustCompile(`^(Alt-Svc: h3=":)\d+(")`), "${1}PORT$2"},
	{regexp.MustCompile(`^(Date: ).*$`), "${1}DATE"},
	{regexp.MustCompile(`(fresh|other)(/|%2F)\d+`), "FIELD"},
	{regexp.MustCompile(`^(Content-Length: )\d\d\d+$`), "${1}LENGTH"},
}

func settled(head []string) []string {
	all := make([]string, len(head))
	for i, line := range head {
		for _, v := range volatile {
			line = v.pattern.ReplaceAllString(line, v.with)
		}
		all[i] = line
	}
	slices.Sort(all[1:])
	return all
}

const richSite = open + `
	header Access-Control-Allow-Origin https://a.example
	header Access-Control-Allow-Credentials true
	header Strict-Transport-Security "max-age=31536000;"
	@rich query rich=1
	header @rich {
		X-Now immediate
		+X-Twice one
		+X-Twice two
		>X-Later deferred
		>X-Type {http.response.header.Content-Type}
		-Server
		?X-Default default
		?Cache-Control default
		>X-Content-Type-Options nosniff changed
	}
	@richer query rich=2
	header @richer {
		Comet-Field fresh other
		-X-Content-Type-Options
		+Vary Origin
		>Content-Type text/x-other
		X-Empty ""
		X-Host {host}
		>X-Status {http.response.header.Comet-Field}
		X-Odd "ünïcode	and tab"
		defer
	}
	handle_errors {
		respond "from handle_errors"
	}
`

// checkDate wants one Date in a head, of now.
func checkDate(head []string) error {
	var dates []string
	for _, line := range head {
		if date, ok := strings.CutPrefix(line, "Date: "); ok {
			dates = append(dates, date)
		}
	}
	if len(dates) != 1 {
		return fmt.Errorf("there are %d dates", len(dates))
	}
	at, err := time.Parse(http.TimeFormat, dates[0])
	if err == nil && time.Since(at).Abs() > 5*time.Second {
		err = fmt.Errorf("it is %s, the date says %s", time.Now().UTC(), at)
	}
	return err
}

func TestParkedAnswersHaveTheHeadersOfAnyOther(t *testing.T) {
	t.Parallel()
	p := startPair(t, both("", richSite))
	for _, l := range links {
		for _, rich := range []string{"rich=0", "rich=1", "rich=2"} {
			for _, c := range scenarios {
				t.Run(fmt.Sprintf("%s, %s, %s", c.name, rich, l.name), func(t *testing.T) {
					var heads [2][]string
					for i, s := range p {
						conn := l.dial(t, s)
						head, body := c.play(t, s, conn, rich, nil)
						heads[i] = settled(head)
						if err := checkDate(head); err != nil {
							t.Errorf("%s: %v", pairNames[i], err)
						}
						if c.method == "HEAD" && body != "" {
							t.Errorf("%s HEAD has a body", pairNames[i])
						}
					}
					if !slices.Equal(heads[0], heads[1]) {
						t.Errorf("%s:\n%s\n%s:\n%s", pairNames[0], strings.Join(heads[0], "\n"), pairNames[1], strings.Join(heads[1], "\n"))
					}
				})
			}
		}
	}
	// The comparison sees something: these are there by what the site says.
	l := tlsLink(t, p[1])
	head, _ := scenarios[1].play(t, p[1], l, "rich=1", nil)
	for _, want := range []string{
		"X-Now: immediate", "X-Twice: one", "X-Twice: two", "X-Later: deferred", "X-Default: default", "X-Content-Type-Options: changed",
		"Strict-Transport-Security: max-age=31536000;", "Access-Control-Allow-Origin: https://a.example", "Cache-Control: no-store",
		fmt.Sprintf(`Alt-Svc: h3=":%d"; ma=2592000`, p[1].Port("HTTPS")),
	} {
		if !slices.Contains(head, want) {
			t.Errorf("there is no %q in\n%s", want, strings.Join(head, "\n"))
		}
	}
	if slices.ContainsFunc(head, func(line string) bool { return strings.HasPrefix(line, "Server:") }) {
		t.Error("the header that the site takes away is there")
	}
	head, _ = scenarios[1].play(t, p[1], l, "rich=0", nil)
	if !slices.Contains(head, "Server: Caddy") {
		t.Errorf("there is no Server in\n%s", strings.Join(head, "\n"))
	}
}

func TestAParkedAnswerCannotBeSplit(t *testing.T) {
	t.Parallel()
	p := startPair(t, both("", open+`
	header X-Echo {query.x}
	header >X-Echo-Later {query.x}
	header {
		X-Echo-Deferred {query.x}
		defer
	}
`))
	for _, l := range links {
		for _, x := range []string{
			"%0d%0aInjected:%201", "%0aInjected:%201", "%0dInjected:%201", "a%0d%0a%0d%0abody", "a%0d%0a%20folded",
			"HTTP/1.1%20200%20OK%0d%0aContent-Length:%200%0d%0a%0d%0aHTTP/1.1%20200%20OK", "%c3%bc%ff",
		} {
			for _, c := range scenarios[:2] {
				t.Run(fmt.Sprintf("%s, %s, %s", c.name, l.name, x), func(t *testing.T) {
					var heads [2][]string
					for i, s := range p {
						conn := l.dial(t, s)
						head, body := c.play(t, s, conn, "x="+x, nil)
						heads[i] = settled(head)
						for _, line := range head[1:] {
							if strings.HasPrefix(line, "Injected") || strings.HasPrefix(line, "HTTP/") || strings.HasPrefix(line, " ") || strings.ContainsAny(line, "\r\n") {
								t.Errorf("%s the answer is split: %q", pairNames[i], head)
							}
						}
						if body != "YES\n" && !strings.HasPrefix(body, `{"cursor":`) {
							t.Errorf("%s the body is %q", pairNames[i], body)
						}
						conn.holdAndWake(s, freshField(t, s), "next")
					}
					if !slices.Equal(heads[0], heads[1]) {
						t.Errorf("%s:\n%q\n%s:\n%q", pairNames[0], heads[0], pairNames[1], heads[1])
					}
				})
			}
		}
	}
}

// What stands around a hold and changes answers does so as it ever did: when that needs
// more than the headers, the request must not be parked.
func TestHandlersAroundAParkedRequestChangeItsAnswerAsTheyDo(t *testing.T) {
	t.Parallel()
	const hold = `comet {
			hold %s {
				field id news **
			}
		}`
	around := map[string]string{
		"encode":          "encode gzip {\n\t\t\tminimum_length 1\n\t\t\tmatch header Content-Type *\n\t\t}",
		"templates":       "templates {\n\t\t\tmime application/json text/plain\n\t\t}",
		"intercept":       "intercept {\n\t\t\t@ok status 200\n\t\t\treplace_status @ok 201\n\t\t}",
		"replaced":        "intercept {\n\t\t\t@ok status 200\n\t\t\thandle_response @ok {\n\t\t\t\theader -Content-Length\n\t\t\t\trespond \"something else\" 202\n\t\t\t}\n\t\t}",
		"request_body":    "request_body {\n\t\t\tmax_size 3\n\t\t}",
		"method":          "method GET",
		"vars":            "vars color red\n\t\theader X-Color {vars.color}",
		"request_header":  "request_header X-Added yes\n\t\theader X-Added {header.X-Added}",
		"header":          "header >X-Later later",
		"push":            "push /static.txt",
		"several":         "header >X-Outer {http.response.header.Content-Length}\n\t\tencode gzip {\n\t\t\tminimum_length 1\n\t\t\tmatch header Content-Type *\n\t\t}\n\t\theader >X-Inner inner",
		"error_in_errors": "@never path /never\n\t\terror @never 500",
	}
	body := "\tencode gzip\n\troot {$DIR}\n" + open
	for _, name := range slices.Sorted(maps.Keys(around)) {
		path := "/around/" + name
		body += "\troute " + path + " {\n\t\t" + around[name] + "\n\t\t" + fmt.Sprintf(hold, path) + "\n\t}\n"
	}
	p := startPair(t, both("", body), comettest.File("static.txt", staticText))
	for _, l := range links {
		for _, name := range append(slices.Sorted(maps.Keys(around)), "") {
			for _, format := range []string{"text", "json"} {
				for _, accept := range []string{"gzip", "identity"} {
					t.Run(fmt.Sprintf("%s, %s, %s, %s", name, format, accept, l.name), func(t *testing.T) {
						path := "/around/" + name
						if name == "" {
							path = "/push"
						}
						var heads [2][]string
						var bodies [2]string
						for i, s := range p {
							conn := l.dial(t, s)
							c := scenario{
								text: "GET " + path + "?field=FIELD&after=now&format=" + format +
									" HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: " + accept + "\r\nTAG\r\n",
								answer: "wake",
							}
							var head []string
							head, bodies[i] = c.play(t, s, conn, "", nil)
							heads[i] = settled(head)
							for j, line := range heads[i] { // a compressed one's is any
								if strings.HasPrefix(line, "Content-Length: ") || strings.HasPrefix(line, "X-Outer: ") {
									heads[i][j] = line[:strings.Index(line, ":")]
								}
							}
							if slices.Contains(heads[i], "Content-Encoding: gzip") {
								bodies[i] = gunzip(t, bodies[i])
							}
							if format == "json" {
								bodies[i] = volatileJSON.ReplaceAllString(bodies[i], "")
							}
							if !slices.Contains(heads[i], "Connection: close") {
								conn.holdAndWake(s, freshField(t, s), "next")
							}
						}
						if !slices.Equal(heads[0], heads[1]) || bodies[0] != bodies[1] {
							t.Errorf("%s:\n%s\n%q\n%s:\n%s\n%q", pairNames[0], strings.Join(heads[0], "\n"), bodies[0],
								pairNames[1], strings.Join(heads[1], "\n"), bodies[1])
						}
					})
				}
			}
		}
	}
}

var volatileJSON = regexp.MustCompile(`"cursor":"[^"]*"|"time":"[^"]*"|"retry":\d+|fresh/\d+`)

func gunzip(t *testing.T, body string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}
