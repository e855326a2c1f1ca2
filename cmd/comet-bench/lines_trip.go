package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// tripLines are lines of net/http, for TLS and HTTP/2, and for plain HTTP on systems
// without epoll: a goroutine for each request under way.
type tripLines struct {
	mu        *sync.Mutex
	target    *target
	transport *http.Transport
	streams   int // lines a connection
	got       got
	lines     []tripLine
	conns     []tripConn
	dialing   chan struct{} // bounds the handshakes at one time
	ctx       context.Context
	cancel    context.CancelFunc
}

// tripLine is one line.
type tripLine struct {
	asked int // counts the requests, so that an answer after a cut is known as late

	// Of all requests until a cut. One that is over must not be cancelled: the
	// connection may be in use for the next.
	ctx    context.Context
	cancel context.CancelFunc
}

// tripConn is one connection.
type tripConn struct {
	mu   sync.Mutex
	conn *http.ClientConn
}

func newTripLines(mu *sync.Mutex, t *target, protocol string, n, streams int, got got) *tripLines {
	ctx, cancel := context.WithCancel(context.Background())
	return &tripLines{
		mu: mu, target: t, transport: t.transport(protocol), streams: streams, got: got,
		lines:   make([]tripLine, n),
		conns:   make([]tripConn, (n+streams-1)/streams),
		dialing: make(chan struct{}, 64),
		ctx:     ctx, cancel: cancel,
	}
}

func (l *tripLines) ask(line int, r *request) {
	tl := &l.lines[line]
	if tl.ctx == nil || tl.ctx.Err() != nil {
		tl.ctx, tl.cancel = context.WithCancel(l.ctx)
	}
	tl.asked++
	ctx, asked, req := tl.ctx, tl.asked, *r
	go func() {
		got := func(a *answer) (more bool) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.lines[line].asked == asked && l.ctx.Err() == nil {
				l.got(line, a)
			}
			return l.lines[line].asked == asked && l.ctx.Err() == nil
		}
		a := l.trip(ctx, &l.conns[line/l.streams], &req, got)
		got(&a)
	}()
}

// trip sends a request and reads its answer. Of a stream it hands on the parts, and
// returns the end.
func (l *tripLines) trip(ctx context.Context, c *tripConn, r *request, got func(*answer) (more bool)) answer {
	conn, err := c.get(ctx, l)
	if err != nil {
		return answer{err: err}
	}
	scheme := "http://"
	if l.target.tls {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, r.method, scheme+l.target.host+r.path, strings.NewReader(r.body))
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", cmp.Or(r.accept, "*/*"))
	for i := 0; i < len(r.header); i += 2 {
		req.Header.Set(r.header[i], r.header[i+1])
	}
	res, err := conn.RoundTrip(req)
	if err != nil {
		return answer{err: fmt.Errorf("%w: %w", errCut, err)}
	}
	defer res.Body.Close()
	if r.cut != nil && res.StatusCode == http.StatusOK {
		return follow(ctx, res.Body, r, got)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return answer{err: fmt.Errorf("%w: %w", errHalfway, err)}
	}
	return answer{status: res.StatusCode, body: body, close: res.Close, header: res.Header}
}

// follow reads a stream, and returns its end.
func follow(ctx context.Context, body io.Reader, r *request, got func(*answer) (more bool)) answer {
	if r.stops {
		<-ctx.Done()
		return answer{err: ctx.Err()}
	}
	p := parts{cut: r.cut}
	for buf := make([]byte, 8<<10); ; {
		n, err := body.Read(buf)
		if _, wrong := p.read(buf[:n], func(part []byte) bool {
			return got(&answer{status: http.StatusOK, body: part, part: true})
		}); wrong != nil {
			return answer{err: wrong}
		}
		if errors.Is(err, io.EOF) {
			return answer{status: http.StatusOK}
		}
		if err != nil {
			return answer{err: fmt.Errorf("%w: %w", errHalfway, err)}
		}
	}
}

// get returns the connection, a new one when there is none that can be used.
func (c *tripConn) get(ctx context.Context, l *tripLines) (*http.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn.Err() == nil {
		return c.conn, nil
	}
	select {
	case l.dialing <- struct{}{}:
		defer func() { <-l.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	scheme := "http"
	if l.target.tls {
		scheme = "https"
	}
	conn, err := l.transport.NewClientConn(ctx, scheme, l.target.name)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // cut or closed meanwhile
		return nil, errors.Join(ctx.Err(), conn.Close())
	}
	c.conn = conn
	return conn, nil
}

func (l *tripLines) cut(line int) {
	l.lines[line].asked++
	if l.lines[line].cancel != nil {
		l.lines[line].cancel()
	}
	if l.streams == 1 { // the line's own
		l.conns[line].drop()
	}
}

func (l *tripLines) close() {
	l.cancel()
	for i := range l.conns {
		l.conns[i].drop()
	}
}

// drop closes the connection, if there is one.
func (c *tripConn) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close() // it may be closed
		c.conn = nil
	}
}
