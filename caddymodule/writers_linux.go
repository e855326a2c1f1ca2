package caddymodule

import (
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// writers is the chain of response writers that handlers have put around the one
// of net/http. The answer to a parked request is written past them. That may be
// when all they do is look at the answer, or change its header: their part is
// then done beforehand.
type writers struct {
	outer  http.ResponseWriter
	inner  any // the last one around bottom; nil: there is none
	bottom http.Hijacker
}

// knownWriters are the types of writers that leave the body as it is. What they
// do to the header they do in WriteHeader.
var knownWriters = map[string]bool{
	"*caddyhttp.ResponseWriterWrapper": true,
	"*caddyhttp.responseRecorder":      true, // the access log, and metrics
	"*caddyhttp.readDeadlineWriter":    true,
	"*caddyhttp.IdleTimeoutWriter":     true,
	"*headers.responseWriterWrapper":   true,
	"*caddymodule.applicationWriter":   true,
	"*caddymodule.cursorWriter":        true,
}

// writersOf returns the chain that ends in w. It is not ok when there is a writer
// in it that may change the answer, such as that of templates.
func writersOf(w http.ResponseWriter) (writers, bool) {
	chain := writers{outer: w}
	for {
		wrapper, wraps := w.(interface{ Unwrap() http.ResponseWriter })
		if !wraps {
			var ok bool
			chain.bottom, ok = w.(http.Hijacker)
			return chain, ok
		}
		if !knownWriters[reflect.TypeOf(w).String()] {
			return chain, false
		}
		if recorder, ok := w.(caddyhttp.ResponseRecorder); ok && recorder.Buffer() != nil {
			return chain, false
		}
		chain.inner = w
		w = wrapper.Unwrap()
	}
}

// writeHeader has all writers do to the header of a successful answer what they
// do when it is written. It is called when the connection was taken from
// net/http.
func (c writers) writeHeader() {
	if c.inner == nil {
		return
	}
	bottom := headerOnly{c.outer.Header()}
	if wrapper := embedded(c.inner); wrapper != nil {
		wrapper.ResponseWriter = bottom
		c.outer.WriteHeader(http.StatusOK)
	}
}

// embedded returns the wrapper that a writer of Caddy is built on.
func embedded(w any) *caddyhttp.ResponseWriterWrapper {
	if wrapper, ok := w.(*caddyhttp.ResponseWriterWrapper); ok {
		return wrapper
	}
	field := reflect.ValueOf(w).Elem().FieldByName("ResponseWriterWrapper")
	if !field.IsValid() {
		return nil
	}
	if field.Kind() != reflect.Pointer {
		field = field.Addr()
	}
	wrapper, _ := reflect.TypeAssert[*caddyhttp.ResponseWriterWrapper](field)
	return wrapper
}

// headerOnly is a response writer in whose place there is nothing any more.
type headerOnly struct{ header http.Header }

func (h headerOnly) Header() http.Header         { return h.header }
func (h headerOnly) Write(p []byte) (int, error) { return len(p), nil }
func (h headerOnly) WriteHeader(int)             {}
