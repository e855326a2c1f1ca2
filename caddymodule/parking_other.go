//go:build !linux

package caddymodule

import (
	"errors"
	"net"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// newParking returns an error: connections can be parked on Linux only.
func newParking(bool, *zap.Logger) (holder, error) { return nil, errors.ErrUnsupported }

func parkedNow() (parked int, dropped int64) { return 0, 0 }

func closeAllIdle() {}

func parkingBusy() bool { return false }

func passageOf(*http.Request) *passage { return nil }

func returnAfter(*http.Request) {}

func connState(net.Conn, http.ConnState) {}

func wrapListener(ln net.Listener, _ *caddyhttp.Server) net.Listener { return ln }
