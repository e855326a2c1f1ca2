// Command comet is Caddy with its standard modules and Comet: server push for
// web applications that already exist.
package main

import (
	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-comet/caddy-comet/caddymodule"
)

func main() {
	// Caddy prints its own version after this one.
	caddy.CustomVersion = "comet " + caddymodule.Version + " caddy"
	caddy.CustomBinaryName = "comet" // in the help
	caddycmd.Main()
}
