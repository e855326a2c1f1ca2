package caddymodule

import (
	"net"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ListenerWrapper has a server accept parked connections from the listener that
// it accepts new ones from. Without it they come to the server on a listener of
// their own, which is gone when the configuration is loaded anew: then every
// client whose request was held connects anew once it was answered. With it the
// connections stay, and are served by the new configuration.
//
// It stands after `tls`, as it does when that is not listed. Its name in the
// Caddyfile is `comet`. Elsewhere than on Linux it does nothing.
type ListenerWrapper struct {
	server *caddyhttp.Server
}

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.comet",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

// Provision finds the server.
func (l *ListenerWrapper) Provision(ctx caddy.Context) error {
	l.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return nil
}

// UnmarshalCaddyfile parses it. It has no options.
func (l *ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // its name
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("the listener wrapper comet has no options")
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (l *ListenerWrapper) WrapListener(ln net.Listener) net.Listener {
	return wrapListener(ln, l.server)
}

var (
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
	_ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
)
