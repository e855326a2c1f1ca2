package caddymodule

import (
	"io"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// headWriter is a response writer that has somebody look at the header of a response,
// or change it, just before it is written. It leaves the body as it is, and is to be
// embedded.
type headWriter struct {
	caddyhttp.ResponseWriterWrapper

	looker   headLooker
	answered bool // by a handler of ours
	status   int  // 0 as long as there is no response
}

// headLooker is told of the header of a response.
type headLooker interface {
	// beginHead is called once, just before the header is written, but not for
	// informational responses.
	beginHead()
}

// begin makes w one that writes to next and tells looker.
func (w *headWriter) begin(next http.ResponseWriter, looker headLooker) {
	w.ResponseWriter = next
	w.looker = looker
}

// WriteHeader begins the response, unless the status is informational.
func (w *headWriter) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if !isInformational(status) {
		w.status = status
		w.looker.beginHead()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// isInformational reports whether a response comes after that of the status.
func isInformational(status int) bool {
	return status < 200 && status != http.StatusSwitchingProtocols
}

// Write writes a part of the body.
func (w *headWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.ResponseWriterWrapper.Write(p)
}

// ReadFrom copies the body, where the system can do that without a buffer.
func (w *headWriter) ReadFrom(r io.Reader) (int64, error) {
	w.WriteHeader(http.StatusOK)
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError sends what was written so far, the header included.
func (w *headWriter) FlushError() error {
	w.WriteHeader(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *headWriter) setAnswered() { w.answered = true }

// setAnswered notes that a handler of ours answers through w, so that it is no
// application that does.
func setAnswered(w http.ResponseWriter) {
	for {
		if hw, ok := w.(interface{ setAnswered() }); ok {
			hw.setAnswered()
		}
		wrapper, wraps := w.(interface{ Unwrap() http.ResponseWriter })
		if !wraps {
			return
		}
		w = wrapper.Unwrap()
	}
}

// unlist takes names out of a header that lists some, such as Trailer.
func unlist(header http.Header, list string, drop func(name string) bool) {
	names := strings.Join(header[list], ",")
	listed := false
	for name := range strings.SplitSeq(names, ",") {
		listed = listed || drop(strings.TrimSpace(name))
	}
	if !listed {
		return
	}
	delete(header, list)
	for name := range strings.SplitSeq(names, ",") {
		if name = strings.TrimSpace(name); name != "" && !drop(name) {
			header.Add(list, name)
		}
	}
}

var _ io.ReaderFrom = (*headWriter)(nil)
