package main_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestStreamsTellMessagesInOrder(t *testing.T) {
	t.Parallel()
	s := startStreams(t, "", "")
	large := large(200_000)
	messages := []struct{ event, media, data string }{
		{"", "text/plain", "one"},
		{"added", "text/plain", "with an event"},
		{"", "text/plain", ""},
		{"", "text/plain", "four\nlines,\r\nof which\rno two end alike"},
		{"", "text/plain", "\n\nempty lines around\n\n"},
		{"", "text/plain", " data: id: event: <script></script> <!-- & \u2028 \u00e9\U0001f600"},
		{"", "application/json", `{"a":1.50,"b":"</script>"}`},
		{"", "text/plain", large},
		{"", "text/plain", "the last"},
	}
	for _, format := range streamFormats {
		t.Run(format, func(t *testing.T) {
			one, two := freshField(t, s), freshField(t, s)
			start := now(t, s)
			stream := openStream(t, plainWay(s), "/push?"+format+"&field="+one+"&field="+two+"&after=now")
			for i, m := range messages {
				field := []string{one, two}[i%2]
				comettest.PublishAs(t, s, "field="+field+"&event="+m.event, m.media, m.data)
			}
			want := since(t, s, start, one, two).JSON.Messages
			for i, m := range messages {
				got := stream.message(t)
				data := m.data
				if format == "format=sse" { // its lines end in one way
					data = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
				}
				if format == "format=iframe" && m.media == "application/json" { // as a script can have it
					got.data = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(got.data)
				}
				if got.data != data {
					t.Fatalf("message %d has the data %.300q; want %.300q", i, got.data, data)
				}
				if got.cursor != want[i].Cursor {
					t.Errorf("message %d has the cursor %q; want %q", i, got.cursor, want[i].Cursor)
				}
				if format != "format=sse" && got.field != want[i].Field {
					t.Errorf("message %d is of the field %q; want %q", i, got.field, want[i].Field)
				}
				if format != "format=multipart" && got.event != m.event {
					t.Errorf("message %d has the event %q; want %q", i, got.event, m.event)
				}
				if format == "format=multipart" && !strings.HasPrefix(got.media, m.media) {
					t.Errorf("message %d has the Content-Type %q; want %q", i, got.media, m.media)
				}
			}
		})
	}
}

// What is no text comes as base64 where the format has a place to say so, and whatever
// becomes of it elsewhere, what follows is not harmed.
func TestStreamsAreNotHarmedByBinaryData(t *testing.T) {
	t.Parallel()
	s := startStreams(t, "", "")
	const binary = "\xff\xfe\x00\r\n\r\n--\n\ndata: x\n\x80"
	for _, format := range streamFormats {
		t.Run(format, func(t *testing.T) {
			field := freshField(t, s)
			stream := openStream(t, plainWay(s), "/push?"+format+"&after=now&field="+field)
			comettest.PublishAs(t, s, "field="+field, "application/octet-stream", binary)
			comettest.Publish(t, s, field+"=next")
			got := stream.message(t)
			if format == "format=multipart" && got.data != binary {
				t.Errorf("got %q; want %q", got.data, binary)
			}
			stream.want(t, "next")
		})
	}
}

func TestStreamsBeginWithWhatTheRequestHasNotSeen(t *testing.T) {
	t.Parallel()
	s := startStreams(t, "", "")
	field := freshField(t, s) // 0
	comettest.Publish(t, s, fmt.Sprintf("%[1]s=1&%[1]s=2&%[1]s=3", field))
	cursor := since(t, s, "first", field).JSON.Messages[1].Cursor // of 1
	for name, c := range map[string]struct {
		query, header string
		want          []string
	}{
		"by no value":                 {"", "", []string{"3"}},
		"by an older value":           {field + "=1", "", []string{"3"}},
		"by this value":               {field + "=3", "", nil},
		"after=first":                 {"after=first", "", []string{"0", "1", "2", "3"}},
		"last=2":                      {"last=2", "", []string{"2", "3"}},
		"after=now":                   {"after=now", "", nil},
		"after a cursor":              {"after=" + escape(cursor), "", []string{"2", "3"}},
		"Last-Event-ID":               {"", cursor, []string{"2", "3"}},
		"Last-Event-ID before after=": {"after=first", cursor, []string{"2", "3"}},
	} {
		t.Run(name, func(t *testing.T) {
			side := fmt.Sprintf("fresh/side/%d", freshFields.Add(1)) // that has no value
			stream := openStream(t, plainWay(s),
				"/push?format=ndjson&field="+field+"&field="+side+"&"+c.query, "Last-Event-ID: "+c.header)
			stream.want(t, c.want...)
			comettest.Publish(t, s, side+"=and on")
			stream.want(t, "and on")
		})
	}
	stream := openStream(t, plainWay(s), "/push?format=sse&after=now&field="+field)
	comettest.Publish(t, s, field+"=4")
	stream.want(t, "4")

	t.Run("a cursor that cannot be read is an error in after=, and a gap in Last-Event-ID", func(t *testing.T) {
		wantStatus(t, s.Do(t, request{URL: "/push?format=sse&after=nonsense&field=" + field}), 400)
		stream := openStream(t, plainWay(s), "/push?format=sse&field="+field, "Last-Event-ID: nonsense")
		stream.wantMissed(t, field)
		stream.want(t, "4")
		comettest.Publish(t, s, field+"=5")
		stream.want(t, "5")
	})
}

func TestStreamsHaveTheHeadersOfEveryAnswer(t *testing.T) {
	t.Parallel()
	overWays(t, "", "", func(t *testing.T, s *comettest.Server, w way, field string) {
		for format, media := range map[string]string{
			"sse": "text/event-stream", "ndjson": "application/x-ndjson",
			"multipart": "multipart/x-mixed-replace", "iframe": "text/html",
		} {
			stream := openStream(t, w, "/push?format="+format+"&after=now&field="+field)
			h := stream.header
			if got := h.Get("Content-Type"); !strings.HasPrefix(got, media) {
				t.Errorf("%s: Content-Type is %q; want %s", format, got, media)
			}
			for name, value := range map[string]string{
				"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Accel-Buffering": "no", "Comet-Field": field,
			} {
				if h.Get(name) != value {
					t.Errorf("%s: %s is %q; want %q", format, name, h.Get(name), value)
				}
			}
			if h.Get("Comet-Cursor") == "" || !strings.Contains(h.Get("Vary"), "Accept") || h.Get("Content-Length") != "" {
				t.Errorf("%s: the head is %v", format, h)
			}
			if want := w.proto == "HTTP/1.1"; stream.chunked != want {
				t.Errorf("%s over %s: chunked is %t; want %t", format, w.proto, stream.chunked, want)
			}
			if w.proto == "HTTP/1.0" && strings.EqualFold(h.Get("Connection"), "keep-alive") {
				t.Errorf("%s: an answer without an end keeps the connection: %v", format, h)
			}
			stream.close()
		}
		comettest.WaitSubscribers(t, s, field, 0)
	})
}

func TestTheFormatOfAStreamIsChosenByAcceptToo(t *testing.T) {
	t.Parallel()
	config := func(formats string) string {
		return site("\tcomet {\n\t\tpublish /config\n\t\thold /push {\n\t\t\tfield id\n\t\t\t" + formats + "\n\t\t}\n\t}")
	}
	s := comettest.Start(t, config(""))
	comettest.Publish(t, s, "id=1")
	accepts := map[string]string{
		"text/event-stream": "sse", "application/x-ndjson": "ndjson", "multipart/x-mixed-replace": "multipart",
		"text/html, text/event-stream;q=0.9, */*;q=0.1": "sse",
	}
	wantFormat := func(t *testing.T, accept, format string) {
		t.Helper()
		stream, err := plainWay(s).open("/push?after=now", noCut, "Accept: "+accept)
		if err != nil {
			t.Errorf("Accept: %s: %v", accept, err)
			return
		}
		defer stream.close()
		if stream.format != format {
			t.Errorf("Accept: %s gets %s; want %s", accept, stream.format, format)
		}
	}
	wantFormat(t, "text/event-stream", "sse")
	wantFormat(t, "application/x-ndjson", "ndjson")
	for _, format := range []string{"multipart", "iframe", "jsonp&callback=f"} {
		wantStatus(t, s.Do(t, request{URL: "/push?wait=0&format=" + format}), 406)
	}
	wantStatus(t, s.Do(t, request{URL: "/push?wait=0", Header: map[string]string{"Accept": "multipart/x-mixed-replace"}}), 406)

	s.Reload(t, config("formats text sse ndjson multipart"))
	for accept, format := range accepts {
		if !strings.HasPrefix(accept, "text/html") {
			wantFormat(t, accept, format)
		}
	}
	wantStatus(t, s.Do(t, request{URL: "/push?wait=0&format=json"}), 406)
	a := s.Do(t, request{Method: "HEAD", URL: "/push?format=sse&after=now"})
	if wantStatus(t, a, 200); !strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream") {
		t.Errorf("HEAD got %s", a)
	}
}

func TestCurlReadsEachFormatWhileItGoesOn(t *testing.T) {
	t.Parallel()
	curl := findCommand(t, "curl")
	s := startStreams(t, "", "")
	s.TLSConfig(t) // there is a certificate
	field := freshField(t, s)
	for name, args := range map[string][]string{
		"sse":                     {s.URL("/push?format=sse&after=now&field=" + field)},
		"sse by Accept":           {"-H", "Accept: text/event-stream", s.URL("/push?after=now&field=" + field)},
		"sse with wrap=json":      {s.URL("/push?format=sse&wrap=json&after=now&field=" + field)},
		"ndjson":                  {s.URL("/push?format=ndjson&after=now&field=" + field)},
		"multipart":               {s.URL("/push?format=multipart&after=now&field=" + field)},
		"iframe":                  {s.URL("/push?format=iframe&after=now&field=" + field)},
		"sse over HTTP/1.0":       {"--http1.0", s.URL("/push?format=sse&after=now&field=" + field)},
		"sse over HTTP/2":         {"--http2", "-k", s.TLSURL("/push?format=sse&after=now&field=" + field)},
		"ndjson over TLS":         {"--http1.1", "-k", s.TLSURL("/push?format=ndjson&after=now&field=" + field)},
		"sse asked for with gzip": {"--compressed", s.URL("/push?format=sse&after=now&field=" + field)},
	} {
		t.Run(name, func(t *testing.T) {
			comettest.WaitSubscribers(t, s, field, 0)
			ctx, stop := context.WithTimeout(t.Context(), 2*comettest.Deadline)
			defer stop()
			cmd := exec.CommandContext(ctx, curl, append([]string{"-sN", "--noproxy", "*"}, args...)...)
			output, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { stop(); _ = cmd.Wait() }() // the exit code is that of a process that was killed
			comettest.WaitSubscribers(t, s, field, 1)
			lines := bufio.NewReader(output)
			for i := range 5 {
				data := fmt.Sprintf("number-%d-of-%s", i, strings.ReplaceAll(name, " ", "-"))
				data = strings.ReplaceAll(data, "/", "-")
				comettest.Publish(t, s, field+"="+data)
				for seen := ""; !strings.Contains(seen, data); {
					b, err := lines.ReadByte()
					if err != nil {
						t.Fatalf("curl ended (%v) after %.300q", err, seen)
					}
					seen += string(b)
				}
			}
		})
	}
}

func TestAStreamTellsAGap(t *testing.T) {
	t.Parallel()
	s := startStreams(t, "comet {\n\t\thistory 3 1h\n\t}", "")
	other := comettest.Start(t, site(open))
	foreign := comettest.Publish(t, other, "id=1").Cursor()
	for _, format := range []string{"format=sse", "format=sse&wrap=json", "format=ndjson", "format=iframe"} {
		t.Run(format, func(t *testing.T) {
			many := func(field string, from, to int) {
				for i := from; i <= to; i++ {
					comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, i))
				}
			}
			w := plainWay(s)

			t.Run("of what is no longer kept", func(t *testing.T) {
				old, kept := freshField(t, s), freshField(t, s)
				cursor := now(t, s)
				comettest.Publish(t, s, kept+"=kept")
				many(old, 1, 5)
				target := "/push?" + format + "&field=" + old + "&field=" + kept + "&after="
				stream := openStream(t, w, target+escape(cursor))
				gap := stream.wantMissed(t, old)
				last := stream.want(t, "kept", "3", "4", "5")

				// Who is cut behind the gap has not seen what follows it.
				again := openStream(t, w, target+escape(cmp.Or(gap.cursor, cursor)))
				var rest []string
				for len(rest) < 4 {
					if p := again.read(t); p.kind == messagePiece {
						rest = append(rest, p.data)
					}
				}
				if !slices.Equal(rest, []string{"kept", "3", "4", "5"}) {
					t.Errorf("after the gap's cursor comes %q; want all that is kept", rest)
				}
				// And who has the last of it is not told again.
				third := openStream(t, w, target+escape(last.cursor))
				many(old, 6, 6)
				third.want(t, "6")
				stream.want(t, "6")
			})

			t.Run("of another epoch", func(t *testing.T) {
				field := freshField(t, s)
				many(field, 1, 2)
				stream := openStream(t, w, "/push?"+format+"&field="+field, "Last-Event-ID: "+foreign)
				gap := stream.wantMissed(t, field)
				if gap.cursor == "" {
					t.Error("the gap has no cursor")
				}
				stream.want(t, "2")
				many(field, 3, 3)
				last := stream.want(t, "3")
				again := openStream(t, w, "/push?"+format+"&field="+field, "Last-Event-ID: "+last.cursor)
				many(field, 4, 4)
				again.want(t, "4")
			})

			t.Run("of a field that is deleted meanwhile, and goes on", func(t *testing.T) {
				field, stays := freshField(t, s), freshField(t, s)
				stream := openStream(t, w, "/push?"+format+"&after=now&field="+field+"&field="+stays)
				many(field, 1, 1)
				stream.want(t, "1")
				wantStatus(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=" + field}), 200)
				stream.wantMissed(t, field)
				many(stays, 2, 2)
				many(field, 3, 3)
				stream.want(t, "2", "3")
			})
		})
	}
}

func TestAStreamAsksForNoMoreThanTheRouteAllows(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(`
	comet {
		publish /config
		hold /push {
			field id room/*
		}
	}`))
	for _, format := range []string{"sse", "ndjson"} {
		a := s.Do(t, request{URL: "/push?format=" + format + "&field=id&field=secret"})
		wantStatus(t, a, 403)
		wantStatus(t, s.Do(t, request{URL: "/push?format=" + format + "&field=room/*&field=a/b"}), 403)
		var many strings.Builder
		for i := range 65 {
			fmt.Fprintf(&many, "&field=room/%d", i)
		}
		wantStatus(t, s.Do(t, request{URL: "/push?format=" + format + many.String()}), 400)
		wantStatus(t, s.Do(t, request{Method: "POST", URL: "/push?format=" + format}), 405)
	}
}

// A shorter stream can be asked for, as a shorter hold can.
func TestAStreamIsAsShortAsTheClientAsks(t *testing.T) {
	t.Parallel()
	s := startStreams(t, "", "")
	for _, format := range []string{"sse", "ndjson"} {
		field := freshField(t, s)
		comettest.Publish(t, s, field+"=1")
		start := time.Now()
		stream := openStream(t, plainWay(s), "/push?after=first&wait=1&format="+format+"&field="+field)
		stream.want(t, "0", "1")
		stream.wantCleanEnd(t)
		elapsed(t, "wait=1", start, 900*time.Millisecond, 15*time.Second)
		stream = openStream(t, plainWay(s), "/push?after=first&wait=0&format="+format+"&field="+field)
		stream.want(t, "0", "1")
		if p, err := stream.next(); !errors.Is(err, io.EOF) {
			t.Errorf("with wait=0 comes %+v, %v; want the end", p, err)
		}
	}
}
