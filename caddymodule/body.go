package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// bodyStall is for how long a client may send nothing of a body.
const bodyStall = 10 * time.Second

// bodyTime is in what time a body must be there, whatever its size.
const bodyTime = 60 * time.Second

// maxDiscard is how much of a body that is too large is read on, to be thrown
// away: a client that is still sending when its connection is closed may never
// see why.
const (
	maxDiscard   = 16 << 20
	discardStall = time.Second
)

// readBody reads the body of a request, of at most limit bytes. After an error
// net/http closes the connection when the rest of the body is still on it, and
// does so gently: with a "Connection: close" of our own it would cut it off.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) (string, *wire.Error) {
	if r.Body == nil || r.ContentLength == 0 { // Body itself may have something around it
		return "", nil
	}
	stalling := &stallReader{
		body:  r.Body,
		rc:    http.NewResponseController(w),
		stall: bodyStall,
		end:   time.Now().Add(bodyTime),
	}
	if r.ContentLength > limit {
		if r.Header.Get("Expect") == "" { // else it is not being sent
			stalling.discard()
		}
		return "", wire.Errorf(http.StatusRequestEntityTooLarge, "the body has %d bytes, and at most %d are allowed", r.ContentLength, limit)
	}
	var body bytes.Buffer
	if r.ContentLength > 0 {
		body.Grow(int(min(r.ContentLength, maxGrow)) + bytes.MinRead) // what it asks for to see the end
	}
	n, err := body.ReadFrom(io.LimitReader(stalling, limit+1))
	switch {
	case n > limit:
		stalling.discard()
		return "", wire.Errorf(http.StatusRequestEntityTooLarge, "the body has more than the %d bytes that are allowed", limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", wire.Errorf(http.StatusRequestTimeout, "the body did not come in time")
	case err != nil:
		return "", wire.Errorf(http.StatusBadRequest, "the body cannot be read: %v", err)
	}
	stalling.done()
	return body.String(), nil
}

// maxGrow is how much is set aside for a body before it came.
const maxGrow = 1 << 20

// stallReader sets a deadline for each read of a body.
type stallReader struct {
	body  io.Reader
	rc    *http.ResponseController
	stall time.Duration
	end   time.Time
}

func (s *stallReader) Read(p []byte) (int, error) {
	deadline := time.Now().Add(s.stall)
	if deadline.After(s.end) {
		deadline = s.end
	}
	_ = s.rc.SetReadDeadline(deadline) // not supported: then the server's own timeouts are what there is
	return s.body.Read(p)
}

// discard reads what is coming, and throws it away.
func (s *stallReader) discard() {
	s.stall = discardStall
	_, _ = io.CopyN(io.Discard, s, maxDiscard)
}

func (s *stallReader) done() { _ = s.rc.SetReadDeadline(time.Time{}) }

// dropReadTimeout lifts the server's read_timeout from a request whose body was
// read, since net/http goes on reading the connection to see when the client
// leaves, and takes that timeout for it. The wrappers that Caddy puts around a
// ResponseWriter would keep the timeout, so it is lifted below them.
func dropReadTimeout(w http.ResponseWriter) {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// writeError writes an answer that says what was wrong.
func writeError(w http.ResponseWriter, e *wire.Error, asJSON bool) error {
	contentType, body := e.Body(asJSON)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(e.Status)
	_, err := w.Write(body)
	_ = err // the client left
	return nil
}
