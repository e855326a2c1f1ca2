package main_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// A connection of HTTP/2 is closed at about the moment when it is looked at whether
// its clients may go on not to read: they have a window of a byte, and much before
// them.
func TestAnHTTP2ConnectionLeavesWhenItsStreamsAreDropped(t *testing.T) {
	t.Parallel()
	s := startStreams(t, "comet {\n\t\thistory 20k 1h\n\t}", "")
	config := s.TLSConfig(t)
	config.NextProtos = []string{"h2"}
	field := freshField(t, s)
	var form strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&form, "%s=%d&", field, i)
	}
	const streams, rounds = 50, 5
	for round := range rounds {
		conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port("HTTPS"))), config)
		if err != nil {
			t.Fatal(err)
		}
		var sent bytes.Buffer
		sent.WriteString(http2.ClientPreface)
		framer := http2.NewFramer(&sent, nil)
		_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		_ = framer.WriteSettingsAck()
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for i := range uint32(streams) {
			block.Reset()
			for _, f := range []hpack.HeaderField{
				{Name: ":method", Value: "GET"},
				{Name: ":scheme", Value: "https"},
				{Name: ":authority", Value: "localhost"},
				{Name: ":path", Value: "/push?format=sse&after=now&field=" + field},
			} {
				_ = encoder.WriteField(f)
			}
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		}
		opened := time.Now()
		if _, err := conn.Write(sent.Bytes()); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		comettest.WaitSubscribers(t, s, field, streams)
		comettest.Publish(t, s, strings.TrimSuffix(form.String(), "&"))
		time.Sleep(time.Until(opened.Add(time.Second + time.Duration(round)*2*time.Millisecond)))
		conn.Close()
		comettest.WaitSubscribers(t, s, field, 0)
	}
}
