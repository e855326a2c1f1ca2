package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// lines are connections to one target, or streams of such connections, on each of
// which one request at a time is asked and answered. A line connects when it is first
// asked, and again after its connection was closed.
//
// What a line is answered is given to the function it was made with. That function
// and all methods are called under the lock that it was made with, which is that of a
// case and all its lines; so a case thinks of one thing at a time, whatever its lines
// are made of.
type lines interface {
	// ask sends a request on a line that waits for no answer.
	ask(line int, r *request)

	// cut drops a line's connection, or its stream. Nothing comes for the request
	// that it waits for, if any.
	cut(line int)

	// close drops all connections, for good.
	close()
}

// got is told of an answer. It may ask at once on the same line. Of a stream it is told
// each part, and then its end, as an answer without a body.
type got func(line int, a *answer)

var (
	errCut     = errors.New("the connection was closed before an answer")
	errHalfway = errors.New("the connection was closed in the middle of an answer")
)

// The protocols that clients may speak.
const (
	protocolH1     = "h1"
	protocolTLS    = "tls"
	protocolH2     = "h2"
	protocolH2Many = "h2-many"
)

// target is where requests go.
type target struct {
	host     string // as the Host header has it
	name     string // host and port
	tls      bool
	loopback bool
	addr     *net.TCPAddr // where a first connection came through
	template string       // the path and query; may have {field} in it
}

// newTarget reads a URL and connects to it once, so that a server that cannot be
// reached is told of before anything is measured.
func newTarget(ctx context.Context, address string) (*target, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s: give an address with http:// or https://", address)
	}
	t := &target{host: u.Host, tls: u.Scheme == "https"}
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[t.tls]
	}
	t.name = net.JoinHostPort(u.Hostname(), port)
	dialer := net.Dialer{Timeout: 5 * time.Second}
	c, err := dialer.DialContext(ctx, "tcp", t.name)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be reached: %w", address, err)
	}
	t.addr = c.RemoteAddr().(*net.TCPAddr)
	t.loopback = t.addr.IP.IsLoopback()
	if err := c.Close(); err != nil {
		return nil, err
	}
	t.template = strings.NewReplacer("%7B", "{", "%7D", "}").Replace(u.RequestURI())
	return t, nil
}

// transport returns a transport that always connects to the target's address. Its
// certificate is looked at unless it is on this machine, where certificates mostly
// are made for the occasion.
func (t *target) transport(protocol string) *http.Transport {
	dialer := net.Dialer{Timeout: 30 * time.Second}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, t.addr.String())
		},
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: t.loopback}, //nolint:gosec // this machine alone
		TLSHandshakeTimeout: time.Minute,
		DisableCompression:  true,
		Protocols:           new(http.Protocols),
	}
	switch protocol {
	case protocolH2, protocolH2Many:
		tr.Protocols.SetHTTP2(t.tls)
		tr.Protocols.SetUnencryptedHTTP2(!t.tls)
	default:
		tr.Protocols.SetHTTP1(true)
	}
	return tr
}
