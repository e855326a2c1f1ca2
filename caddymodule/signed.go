package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// leastKey is how long the key of a signed route is at least, in bytes.
const leastKey = 16

// expandKey returns the key that s stands for.
func expandKey(s string) (string, error) {
	key, err := expandSecret("key", s)
	if err == nil && len(key) < leastKey {
		err = fmt.Errorf("the key %s has %d bytes, and can be guessed; make one by openssl rand -hex 32", s, len(key))
	}
	return key, err
}

// checkSignature returns what lets r watch, at a route that asks for a signature, or
// why it may not.
func (h *Hold) checkSignature(r *http.Request) (wire.Signature, error) {
	s, err := wire.ReadSignature(queryOf(r))
	switch {
	case err != nil:
		err = fmt.Errorf("it is not signed: %w", err)
	case !slices.ContainsFunc(h.keys, s.IsBy):
		err = fmt.Errorf("the signature is not that of the fields %q until %d by a key of the route", s.Fields, s.Until.Unix())
	case !time.Now().Before(s.Until):
		err = fmt.Errorf("the signature was good until %s", s.Until.UTC().Format(time.RFC3339))
	}
	return s, err
}

// refuseUnsigned answers a request whose signature is not good.
func (h *Hold) refuseUnsigned(w http.ResponseWriter, r *http.Request, format wire.Format, err error) error {
	h.logger.Warn("refused to hold", append(callerOf(r), zap.String("reason", err.Error()))...)
	return h.refuse(w, r, format, wire.Errorf(http.StatusForbidden, "what is watched here has to be signed by the application, and not long ago; the server's log says more"))
}

// errSigned is the answer to who wants to watch more than was signed.
var errSigned = wire.Errorf(http.StatusForbidden, "what is watched here is signed: ask for a stream of its own for other fields")
