package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// askRequest returns the request that asks for uri, with the header of r.
func askRequest(r *http.Request, uri string) (*http.Request, error) {
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		return nil, err
	}
	header := make(http.Header, len(r.Header)+1)
	for name, values := range r.Header {
		if !isListed(name, heldHeaders) && !slices.Contains(connectionHeaders, name) {
			header[name] = values
		}
	}
	delete(header, ":protocol") // of a WebSocket over HTTP/2
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

// heldHeaders are about the request that is to be held, and not about who sent it. Those
// that end in a hyphen are prefixes.
var heldHeaders = []string{"Comet-", "Content-", "Expect", "If-", "Last-Event-Id", "Range", "Sec-Websocket-"}

// connectionHeaders are about a connection, and not for who is behind it. What a client
// names besides in `Connection` may be what a proxy has said of it, and stays.
var connectionHeaders = []string{
	"Connection", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade",
}

// asker stands for all by which an application may know who sent a request: those of one
// asker are given one response.
type asker [sha256.Size]byte

// commonHeaders say nothing of who sent a request, or something else with each. Those that
// end in a hyphen are prefixes.
var commonHeaders = []string{
	"Accept", "Accept-", "Cache-Control", "Dnt", "Origin", "Pragma", "Priority", "Purpose", "Referer", "Save-Data",
	"Sec-", "Upgrade-Insecure-Requests", "User-Agent", "X-Requested-With",
	"Cf-Ray", "Traceparent", "Tracestate", "X-Amzn-Trace-Id", "X-B3-", "X-Cloud-Trace-Context", "X-Correlation-Id",
	"X-Request-Id", "X-Varnish",
}

// askerOf returns who sent a request to the application.
func askerOf(r *http.Request) asker {
	k := keyHash{sha256.New()}
	k.add(r.Host, r.RequestURI, clientAddr(r).String())
	certificate := ""
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		certificate = string(r.TLS.PeerCertificates[0].Raw)
	}
	k.add(certificate)
	names := slices.DeleteFunc(sortedKeys(r.Header), func(name string) bool { return isListed(name, commonHeaders) })
	k.addHeaders(r.Header, names)
	return asker(k.hash.Sum(nil))
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
	if w.status != 0 || isInformational(status) {
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
