package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// askRequest returns the request that asks for uri, with the header of r.
func askRequest(r *http.Request, uri string) (*http.Request, error) {
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		return nil, err
	}
	header := make(http.Header, len(r.Header)+1)
	connection := connectionHeaders(r.Header)
	for name, values := range r.Header {
		if !isOfTheHeld(name) && !slices.Contains(connection, name) {
			header[name] = values
		}
	}
	header.Set("Accept-Encoding", "identity")
	asked := &http.Request{
		Method:     http.MethodGet,
		URL:        u,
		RequestURI: uri,
		Proto:      fmt.Sprintf("HTTP/%d.%d", r.ProtoMajor, r.ProtoMinor), // HTTP/3 has another there for WebSockets
		ProtoMajor: r.ProtoMajor,
		ProtoMinor: r.ProtoMinor,
		Header:     header,
		Body:       http.NoBody,
		Host:       r.Host,
		RemoteAddr: r.RemoteAddr,
		TLS:        r.TLS,
	}
	return asked.WithContext(r.Context()), nil
}

// isOfTheHeld reports whether a header is about the request that is to be held, and not
// about who sent it.
func isOfTheHeld(name string) bool {
	for _, prefix := range []string{":", "Content-", "If-", "Sec-Websocket-", "Comet-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "Range" || name == "Expect" || name == "Last-Event-Id"
}

// connectionHeaders returns the names of the headers that are about a connection, and
// not for who is behind it.
func connectionHeaders(header http.Header) []string {
	names := []string{
		"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te",
		"Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	}
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			names = append(names, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	return names
}

// credentials stand for a request to the application in all that the response may
// depend on: requests with the same are given the same response.
type credentials [sha256.Size]byte

// commonHeaders are sent by browsers and proxies with every request, whoever it is that
// sends it; all others are credentials. Those that end in a hyphen are prefixes.
var commonHeaders = []string{
	"Accept", "Accept-", "Cache-Control", "Dnt", "Origin", "Pragma", "Priority", "Purpose", "Referer", "Save-Data",
	"Sec-", "Upgrade-Insecure-Requests", "User-Agent", "X-Requested-With",
	// the address
	"Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Cf-Ipcountry", "Fastly-Client-Ip", "Forwarded", "True-Client-Ip",
	"X-Client-Ip", "X-Cluster-Client-Ip", "X-Forwarded-For", "X-Real-Ip",
	// the one request
	"Cf-Ray", "Traceparent", "Tracestate", "X-Amzn-Trace-Id", "X-B3-", "X-Cloud-Trace-Context", "X-Correlation-Id",
	"X-Request-Id", "X-Varnish",
}

// credentialsOf returns those of a request to the application.
func credentialsOf(r *http.Request) (who credentials) {
	hash := sha256.New()
	write := func(text string) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(text)))
		_, _ = hash.Write(size[:]) // cannot fail
		_, _ = io.WriteString(hash, text)
	}
	write(r.Host)
	write(r.RequestURI)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		write(string(r.TLS.PeerCertificates[0].Raw))
	} else {
		write("")
	}
	for _, name := range sortedKeys(r.Header) {
		if isListed(name, commonHeaders) {
			continue
		}
		for _, value := range r.Header[name] {
			write(name)
			write(value)
		}
	}
	hash.Sum(who[:0])
	return who
}

// maxAskBody is how large a response may be that is passed on to the client.
const maxAskBody = 64 << 10

// askResponse takes the response to a request to the application.
type askResponse struct {
	header   http.Header
	sent     http.Header // as it was when the response began
	status   int         // 0 as long as it has not
	body     bytes.Buffer
	tooLarge bool
}

// Header returns the header, until the response begins.
func (w *askResponse) Header() http.Header { return w.header }

// WriteHeader begins the response, unless the status is informational.
func (w *askResponse) WriteHeader(status int) {
	if w.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.status, w.sent = status, w.header.Clone()
}

// Write takes a part of the body. That of a yes is nothing to anybody.
func (w *askResponse) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.status < 300 {
		return len(p), nil
	}
	if w.tooLarge = w.tooLarge || w.body.Len()+len(p) > maxAskBody; w.tooLarge {
		return 0, errors.New("the body is too large")
	}
	return w.body.Write(p)
}

// FlushError begins the response.
func (w *askResponse) FlushError() error {
	w.WriteHeader(http.StatusOK)
	return nil
}

// EnableFullDuplex has nothing to do: there is no body to read.
func (w *askResponse) EnableFullDuplex() error { return nil }
