// Package caddymodule is Comet: server push for web applications that already
// exist, as a module for Caddy. It holds long-poll requests against fields in
// memory, and answers them when the backend publishes.
//
// This package is the glue: the app, the handlers and their Caddyfile. What
// fields and messages are is in internal/store, and what clients send and are
// told in internal/wire.
package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// Version is the version of this module.
const Version = "v0.1.0-dev"

func init() {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(Publish{})
	caddy.RegisterModule(Hold{})
	caddy.RegisterModule(Client{})
	caddy.RegisterModule(new(Touch))
	caddy.RegisterModule(FromResponses{})
	caddy.RegisterModule(Cursor{})
	caddy.RegisterModule(MatchPath{})
	caddy.RegisterModule(Admin{})
	caddy.RegisterModule(ListenerWrapper{})
	httpcaddyfile.RegisterGlobalOption("comet", parseGlobalOption)
	httpcaddyfile.RegisterDirective("comet", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("comet", httpcaddyfile.Before, "encode")
}
