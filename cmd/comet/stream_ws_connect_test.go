package main_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// connectSocket opens a WebSocket as a stream of HTTP/2 (RFC 8441) or HTTP/3 (RFC
// 9220).
func connectSocket(t *testing.T, w way, target string, header ...string) (*socket, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*comettest.Deadline)
	t.Cleanup(cancel)
	r, said := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodConnect, w.url(target), r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-WebSocket-Version", "13")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := w.client.Transport
	if w.proto == "HTTP/2.0" {
		req.Header[":protocol"] = []string{"websocket"}
		//nolint:staticcheck // net/http's own lets nobody send this header
		tr := &http2.Transport{TLSClientConfig: w.client.Transport.(*http.Transport).TLSClientConfig}
		t.Cleanup(tr.CloseIdleConnections) //nolint:staticcheck // likewise
		client = tr
	} else {
		req.Proto = "websocket"
	}
	res, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	conn := &streamConn{Reader: res.Body, Writer: said, close: func() error {
		cancel()
		return res.Body.Close()
	}}
	return &socket{link: &link{t: t, Conn: conn, r: bufio.NewReader(conn), host: "localhost"}}, res
}

// streamConn is a stream as a connection.
type streamConn struct {
	net.Conn
	io.Reader
	io.Writer
	close func() error
}

func (c *streamConn) Read(b []byte) (int, error)  { return c.Reader.Read(b) }
func (c *streamConn) Write(b []byte) (int, error) { return c.Writer.Write(b) }
func (c *streamConn) Close() error                { return c.close() }

// Go's HTTP/2 server offers them only when it is told to.
func TestAWebSocketOverHTTP2AndHTTP3(t *testing.T) {
	t.Parallel()
	s := startSockets(t, "", "heartbeat 1s", comettest.Env("GODEBUG", "http2xconnect=1"))
	for _, w := range ways(t, s)[3:] {
		t.Run(w.name, func(t *testing.T) {
			field, late := freshField(t, s), freshField(t, s)
			target := "/push?after=now&field=" + field
			ws, res := connectSocket(t, w, target)
			if res.StatusCode != http.StatusOK || res.Header.Get("Sec-WebSocket-Accept") != "" || res.Header.Get("Comet-Cursor") == "" {
				t.Errorf("got %s %v", res.Status, res.Header)
			}
			var want []string
			for i := range 20 {
				want = append(want, fmt.Sprint(i))
				comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, i))
			}
			ws.want(want...)
			ws.send(final|textFrame, fmt.Sprintf(`{"watch":[%q]}`, late))
			ws.wantFrame(textFrame)
			comettest.Publish(t, s, late+"=late")
			ws.want("late")
			ws.send(final|pingFrame, "hello")
			if pong := ws.wantFrame(pongFrame); string(pong) != "hello" {
				t.Errorf("the pong says %q", pong)
			}
			ws.send(final|closeFrame, "\x03\xe8")
			ws.wantFrame(closeFrame)
			comettest.WaitSubscribers(t, s, field, 0)

			left, _ := connectSocket(t, w, target)
			comettest.WaitSubscribers(t, s, field, 1)
			left.Close()
			comettest.WaitSubscribers(t, s, field, 0)
			if _, res := connectSocket(t, w, target, "Origin", "https://evil.example"); res.StatusCode != http.StatusForbidden {
				t.Errorf("a page of another site gets %s", res.Status)
			}
			if _, res := connectSocket(t, w, target+"&format=ndjson"); res.StatusCode != http.StatusBadRequest {
				t.Errorf("a stream that is no WebSocket gets %s", res.Status)
			}
		})
	}
}
