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
	caddy.CustomLongDescription = longDescription
	caddycmd.Main()
}

const longDescription = `Comet is Caddy with one more module: server push for web applications that
already exist. It has the commands and the configuration of Caddy
(https://caddyserver.com/docs), and three commands of its own, which talk to a
running server:

	- 'comet publish' publishes to fields
	- 'comet watch' prints the messages of fields as they come
	- 'comet status' prints what the stores hold

To run it, in a folder with a Caddyfile, use:

	- 'comet run' to run it in the foreground
	- 'comet reload' to give it the changed Caddyfile
	- 'comet validate' to look whether that is right

'comet help' and the name of a command says more about it.`
