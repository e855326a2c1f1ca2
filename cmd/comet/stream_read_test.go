package main_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// The tests in the files stream_*_test.go read streams as clients do: piece by piece,
// while they go on. COMET_PARKING=off runs them on goroutines.

// streamed is a site with every format of a stream, and with options in the block of
// its hold route.
func streamed(options string) string {
	return `
	comet {
		publish /config
		hold /push {
			field id news **
			formats text json raw sse ndjson multipart iframe jsonp
			` + options + `
		}
	}
	root {$DIR}
	@static path /static.txt
	file_server @static
`
}

// startStreams starts a server with two sites streamed, a plain one and one over TLS.
func startStreams(t *testing.T, global, options string, opts ...comettest.Option) *comettest.Server {
	t.Helper()
	opts = append(opts, comettest.File("static.txt", staticText))
	return comettest.Start(t, both(global, streamed(options)), opts...)
}

// streamFormats are the formats of streams, as a query asks for them.
var streamFormats = []string{"format=sse", "format=sse&wrap=json", "format=ndjson", "format=multipart", "format=iframe"}

type pieceKind string

// The kinds of what a stream tells.
const (
	sessionPiece   pieceKind = "session"
	messagePiece   pieceKind = "message"
	missedPiece    pieceKind = "missed"
	heartbeatPiece pieceKind = "heartbeat"
)

// piece is one thing that a stream tells. What its format does not tell is empty.
type piece struct {
	kind    pieceKind
	session string
	missed  []string // fields
	cursor  string
	field   string
	data    string
	event   string
	media   string // Content-Type, or the type of a message object
}

// stream is an answer that goes on.
type stream struct {
	format  string // sse, ndjson, multipart or iframe
	wrap    bool
	proto   string
	header  http.Header
	chunked bool
	r       *bufio.Reader
	close   func()
	link    *link // that it came over; nil for HTTP/2 and HTTP/3

	boundary string
	session  string
	cursor   string // the last that was told, by a message or alone
	retry    int    // ms, the last that was told
	retries  int    // how often retry was told
	bytes    *countingReader
}

// countingReader counts what was read.
type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// errCut is what a reader says that is to read no more.
var errCut = errors.New("cut by the test")

// cutReader reads so many bytes, and then no more.
type cutReader struct {
	r    io.Reader
	left int
}

func (c *cutReader) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errCut
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// noCut is a cut that never comes.
const noCut = 1 << 40

// way is a protocol in which streams are asked for.
type way struct {
	name, proto string
	config      *tls.Config // of HTTP/1.x over TLS
	client      *http.Client
	url         func(path string) string
	addr        string
	parks       bool // the server parks them
}

// ways returns all of them to a server of both.
func ways(t *testing.T, s *comettest.Server) []way {
	t.Helper()
	at := func(port string) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port(port))) }
	return []way{
		{name: "HTTP/1.0", proto: "HTTP/1.0", addr: at("HTTP")},
		{name: "HTTP/1.1", proto: "HTTP/1.1", addr: at("HTTP")},
		{name: "HTTP/1.1 over TLS", proto: "HTTP/1.1", addr: at("HTTPS"), config: s.TLSConfig(t)},
		{name: "HTTP/2", proto: "HTTP/2.0", client: s.TLSClient(t, true), url: s.TLSURL},
		{name: "HTTP/3", proto: "HTTP/3.0", client: s.HTTP3Client(t), url: s.TLSURL},
	}
}

// plainWay is HTTP/1.1 without TLS.
func plainWay(s *comettest.Server) way {
	return way{name: "HTTP/1.1", proto: "HTTP/1.1", addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port("HTTP")))}
}

// onLink reports whether each stream has a connection of its own.
func (w way) onLink() bool { return w.client == nil }

// parking is how the server of a test holds its streams.
type parking struct {
	name  string
	parks bool
	opts  []comettest.Option
}

// parkings returns a server that parks what it can, and one that does not.
func parkings(t *testing.T) []parking {
	t.Helper()
	if !comettest.Parks(t) {
		return []parking{{name: "on goroutines"}}
	}
	return []parking{
		{name: "parked", parks: true},
		{name: "on goroutines", opts: []comettest.Option{comettest.WithParking("off")}},
	}
}

// overWays runs a test in each protocol, with a field of its own that has a value,
// against a server of each of the parkings.
func overWays(t *testing.T, global, options string, test func(t *testing.T, s *comettest.Server, w way, field string)) {
	t.Helper()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, global, options, p.opts...)
			for _, w := range ways(t, s) {
				w.parks = p.parks && w.onLink()
				t.Run(w.name, func(t *testing.T) { test(t, s, w, freshField(t, s)) })
			}
		})
	}
}

// open asks for a stream, on a connection of its own where the protocol has one for
// each. After cut bytes it reads no more. It may be called on any goroutine.
func (w way) open(target string, cut int, header ...string) (*stream, error) {
	if w.onLink() {
		conn, err := net.DialTimeout("tcp", w.addr, comettest.Deadline)
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(time.Now().Add(4 * comettest.Deadline))
		host := "127.0.0.1"
		if w.config != nil {
			host = "localhost"
			conn = tls.Client(conn, w.config)
		}
		l := newLink(nil, conn, host)
		l.r = bufio.NewReader(&cutReader{conn, cut})
		stream, err := w.ask(l, target, header...)
		if err != nil {
			conn.Close()
		}
		return stream, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*comettest.Deadline)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url(target), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := w.client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	return newStream(res, target, cut, cancel)
}

// ask asks for a stream on a connection that is there.
func (w way) ask(l *link, target string, header ...string) (*stream, error) {
	text := l.ask(target, header...)
	if w.proto == "HTTP/1.0" {
		text = strings.Replace(text, " HTTP/1.1\r\n", " HTTP/1.0\r\n", 1)
	}
	if _, err := io.WriteString(l.Conn, text); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(l.r, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, err
	}
	stream, err := newStream(res, target, noCut, func() { l.Close() })
	if err == nil {
		stream.link = l
	}
	return stream, err
}

// errNoStream is what is said of an answer that is none.
var errNoStream = errors.New("no stream")

// newStream reads the head of a stream. close leaves it.
func newStream(res *http.Response, target string, cut int, close func()) (*stream, error) {
	media, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	formats := map[string]string{
		"text/event-stream": "sse", "application/x-ndjson": "ndjson",
		"multipart/x-mixed-replace": "multipart", "text/html": "iframe",
	}
	format, known := formats[media]
	if res.StatusCode != http.StatusOK || err != nil || !known {
		// What does not end is no error that could be shown whole.
		body := make([]byte, 300)
		n, _ := io.ReadFull(res.Body, body)
		close()
		return nil, fmt.Errorf("%w: %s: got %s %v %q", errNoStream, target, res.Status, res.Header, body[:n])
	}
	counted := &countingReader{r: &cutReader{res.Body, cut}}
	body := io.Reader(counted)
	if res.Header.Get("Content-Encoding") == "gzip" {
		body = &lazyGzip{r: body}
	}
	return &stream{
		format: format, wrap: strings.Contains(target, "wrap=json"), proto: res.Proto, header: res.Header,
		chunked: len(res.TransferEncoding) > 0, r: bufio.NewReader(body), close: close,
		boundary: params["boundary"], bytes: counted,
	}, nil
}

// lazyGzip reads what is compressed when it is first asked for some of it: its head
// may not be there before.
type lazyGzip struct {
	r, z io.Reader
}

func (l *lazyGzip) Read(p []byte) (int, error) {
	if l.z == nil {
		z, err := gzip.NewReader(l.r)
		if err != nil {
			return 0, err
		}
		l.z = z
	}
	return l.z.Read(p)
}

// openStream is way.open for a test, which fails when there is no stream. It is left
// at the end of the test.
func openStream(t *testing.T, w way, target string, header ...string) *stream {
	t.Helper()
	stream, err := w.open(target, noCut, header...)
	if err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	t.Cleanup(stream.close)
	stream.begin(t)
	return stream
}

// begin reads what stands before the first message: the session, where it is named.
func (s *stream) begin(t *testing.T) {
	t.Helper()
	if s.format == "multipart" {
		return
	}
	p := s.read(t)
	if p.kind != sessionPiece || p.session == "" {
		t.Fatalf("the stream begins with %+v; want its session", p)
	}
	if s.retries == 0 && s.format != "iframe" {
		t.Fatalf("the stream begins without retry")
	}
}

// read returns the next piece. The test fails when there is none.
func (s *stream) read(t *testing.T) piece {
	t.Helper()
	p, err := s.next()
	if err != nil {
		t.Fatalf("reading a stream: %v", err)
	}
	return p
}

// message returns the next message, past heartbeats. The test fails when anything else
// comes.
func (s *stream) message(t *testing.T) piece {
	t.Helper()
	for {
		p := s.read(t)
		if p.kind == heartbeatPiece {
			continue
		}
		if p.kind != messagePiece || p.cursor == "" {
			t.Fatalf("got %+v; want a message with a cursor", p)
		}
		return p
	}
}

// want reads the next messages and checks their data.
func (s *stream) want(t *testing.T, data ...string) (last piece) {
	t.Helper()
	for _, d := range data {
		if last = s.message(t); last.data != d {
			t.Fatalf("got %+v; want the data %.200q", last, d)
		}
	}
	return last
}

// wantMissed reads the next piece and checks that it tells a gap of these fields.
func (s *stream) wantMissed(t *testing.T, fields ...string) piece {
	t.Helper()
	for {
		p := s.read(t)
		if p.kind == heartbeatPiece {
			continue
		}
		if p.kind != missedPiece || fmt.Sprint(p.missed) != fmt.Sprint(fields) {
			t.Fatalf("got %+v; want a gap of %q", p, fields)
		}
		return p
	}
}

// wantCleanEnd checks that nothing but heartbeats comes before the stream ends, that it
// ends as its protocol has it, and that retry was told again.
func (s *stream) wantCleanEnd(t *testing.T) {
	t.Helper()
	before := s.retries
	for {
		p, err := s.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the stream does not end cleanly: %v", err)
		}
		if p.kind != heartbeatPiece {
			t.Fatalf("before its end the stream tells %+v", p)
		}
	}
	if (s.format == "sse" || s.format == "ndjson") && s.retries == before {
		t.Error("the end of the stream tells no retry")
	}
}

// next reads one piece. What is cut in the middle is an error, and none of it counts.
func (s *stream) next() (piece, error) {
	var p piece
	var err error
	switch s.format {
	case "sse":
		p, err = s.nextEvent()
	case "ndjson":
		p, err = s.nextLine()
	case "multipart":
		p, err = s.nextPart()
	default:
		p, err = s.nextScript()
	}
	if p.kind == sessionPiece {
		s.session = p.session
	}
	if p.cursor != "" {
		s.cursor = p.cursor
	}
	return p, err
}

// line reads a line without its end. One that the stream ends in is an error.
func (s *stream) line() (string, error) {
	line, err := s.r.ReadString('\n')
	if err != nil {
		if line != "" && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return line, err
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
}

// nextEvent reads as the WHATWG has it.
func (s *stream) nextEvent() (piece, error) {
	var p piece
	var data []string
	for {
		line, err := s.line()
		if err != nil {
			return piece{}, err
		}
		name, value, colon := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && data == nil:
			if p.cursor != "" {
				s.cursor = p.cursor
			}
			p = piece{}
		case line == "":
			return s.event(p, strings.Join(data, "\n"))
		case name == "" && colon:
			if data != nil || p.cursor != "" || p.event != "" {
				return piece{}, errors.New("a comment inside an event")
			}
			return piece{kind: heartbeatPiece}, nil
		case name == "id":
			p.cursor = value
		case name == "event":
			p.event = value
		case name == "data":
			data = append(data, value)
		case name == "retry":
			ms, err := strconv.Atoi(value)
			if err != nil {
				return piece{}, fmt.Errorf("the line %q: %w", line, err)
			}
			s.told(ms)
		default:
			return piece{}, fmt.Errorf("the line %q is of no event stream", line)
		}
	}
}

// event is what an event of an event stream tells.
func (s *stream) event(p piece, data string) (piece, error) {
	switch {
	case p.event == "comet-session" || p.event == "comet-missed":
		said, err := s.object(data)
		if err == nil && p.cursor != "" {
			said.cursor = p.cursor
		}
		return said, err
	case p.event == "comet-heartbeat" && data == "{}":
		return piece{kind: heartbeatPiece}, nil
	case s.wrap:
		said, err := s.object(data)
		if err == nil && said.cursor != p.cursor {
			err = fmt.Errorf("an event with the id %q is of %q", p.cursor, data)
		}
		return said, err
	}
	p.kind, p.data = messagePiece, data
	return p, nil
}

// nextLine reads a line of JSON.
func (s *stream) nextLine() (piece, error) {
	for {
		line, err := s.line()
		if err != nil {
			return piece{}, err
		}
		if line == "" {
			return piece{kind: heartbeatPiece}, nil
		}
		if p, err := s.object(line); err != nil || p.kind != "" {
			return p, err
		}
	}
}

// object reads one of the objects that streams are made of. One that tells retry or a
// cursor alone is no piece.
func (s *stream) object(text string) (piece, error) {
	var o struct {
		comettest.Message
		Session      string   `json:"session"`
		Retry        *int     `json:"retry"`
		Missed       bool     `json:"missed"`
		MissedFields []string `json:"missed_fields"`
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return piece{}, fmt.Errorf("%.200q: %w", text, err)
	}
	if o.Retry != nil {
		s.told(*o.Retry)
	}
	switch {
	case text == "{}":
		return piece{kind: heartbeatPiece}, nil
	case o.Session != "":
		return piece{kind: sessionPiece, session: o.Session}, nil
	case o.Missed || o.MissedFields != nil:
		return piece{kind: missedPiece, missed: o.MissedFields, cursor: o.Cursor}, nil
	case o.Field != "":
		return piece{
			kind: messagePiece, cursor: o.Cursor, field: o.Field, data: o.Text(), event: o.Event, media: o.Type,
		}, nil
	case o.Cursor != "":
		s.cursor = o.Cursor
		return piece{}, nil
	case o.Retry != nil:
		return piece{}, nil
	}
	return piece{}, fmt.Errorf("%.200q is nothing that a stream tells", text)
}

// told notes the advice retry.
func (s *stream) told(ms int) {
	s.retry = ms
	s.retries++
}

// nextPart reads a part of multipart/x-mixed-replace.
func (s *stream) nextPart() (piece, error) {
	for {
		line, err := s.line()
		if line == "--"+s.boundary+"--" && errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF // its end needs none of its own
		}
		if err != nil {
			return piece{}, err
		}
		if line == "--"+s.boundary {
			break
		}
		if line != "" && line != "--"+s.boundary+"--" {
			return piece{}, fmt.Errorf("%.200q between two parts", line)
		}
	}
	header, err := textproto.NewReader(s.r).ReadMIMEHeader()
	if err != nil {
		if _, end := s.r.Peek(1); end != nil { // it was malformed only by its end
			err = end
		}
		return piece{}, err
	}
	length, err := strconv.Atoi(header.Get("Content-Length"))
	if err != nil {
		return piece{}, fmt.Errorf("a part with the head %v: %w", header, err)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(s.r, data); err != nil {
		return piece{}, err
	}
	p := piece{
		kind: messagePiece, cursor: header.Get("Comet-Cursor"), field: header.Get("Comet-Field"),
		data: string(data), media: header.Get("Content-Type"),
	}
	if header.Get("Comet-Missed") != "" {
		p.missed = []string{"some"} // it does not tell which
	}
	s.session = header.Get("Comet-Session")
	return p, nil
}

// nextScript reads up to the end of a script, and the object that it calls with. A
// script without one is what those of the messages call.
func (s *stream) nextScript() (piece, error) {
	var text strings.Builder
	for {
		part, err := s.r.ReadString('>')
		if err != nil {
			return piece{}, err
		}
		text.WriteString(part)
		if !strings.HasSuffix(part, "</script>") {
			continue
		}
		_, script, _ := strings.Cut(text.String(), "<script")
		text.Reset()
		for rest, found := script, true; found; {
			if _, rest, found = strings.Cut(rest, "("); !strings.HasPrefix(rest, `{"`) && !strings.HasPrefix(rest, "{})") {
				continue
			}
			var object json.RawMessage
			if err := json.NewDecoder(strings.NewReader(rest)).Decode(&object); err != nil {
				return piece{}, fmt.Errorf("%.300q: %w", script, err)
			}
			if p, err := s.object(string(object)); err != nil || p.kind != "" {
				return p, err
			}
		}
	}
}
