package caddymodule

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/encode"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Client is a handler that serves comet.js, the client for browsers: a classic
// script that defines `Comet`, and with `?module` an ES module that exports it. It
// answers every request that reaches it. See docs/client.md for how it is used.
//
// It is served compressed, by zstd or gzip, to clients that accept that.
type Client struct {
	scripts *scripts
}

// clientMaxAge is how long browsers use what they have without asking: the script
// of an older version works with a newer server.
const clientMaxAge = time.Hour

// clientMethods is the Allow header of comet.js.
const clientMethods = "GET, HEAD"

//go:embed client/comet.js
var clientSource string

// scripts is comet.js in its two forms.
type scripts struct {
	classic, module script
}

// script is one form of comet.js: by the name of each encoding, with "" for none.
type script map[string]representation

type representation struct {
	body []byte
	etag string
}

// clientEncodings are the encodings of a script, the preferred one first.
var clientEncodings = []string{"zstd", "gzip"}

// loadScripts makes the scripts when the first configuration has them served.
var loadScripts = sync.OnceValue(func() *scripts {
	module := strip(clientSource)
	return &scripts{classic: newScript(classic(module)), module: newScript(module)}
})

// clientExport is the last line of the ES module.
const clientExport = "export { Comet, Comet as default };\n"

// classic makes a script that defines Comet, and nothing else, of the ES module.
func classic(module string) string {
	body := strings.TrimSuffix(module, clientExport)
	return "(() => {\n'use strict';\n" + body + "globalThis.Comet = Comet;\n})();\n"
}

// strip takes comments, indentation and empty lines off the source of comet.js. In
// it two slashes are a comment when they begin a line, or stand between spaces.
func strip(source string) string {
	var stripped strings.Builder
	for line := range strings.Lines(source) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " // ")
		if line != "" && !strings.HasPrefix(line, "//") {
			stripped.WriteString(line + "\n")
		}
	}
	return stripped.String()
}

func newScript(text string) script {
	var zipped bytes.Buffer
	writer, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err == nil {
		_, err = writer.Write([]byte(text))
	}
	if err == nil {
		err = writer.Close()
	}
	if err != nil {
		panic(err) // the level exists, and a buffer takes all
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // the options are right
	}
	hash := sha256.Sum256([]byte(text))
	name := hex.EncodeToString(hash[:8])
	return script{
		"":     {[]byte(text), `"` + name + `"`},
		"gzip": {zipped.Bytes(), `"` + name + `-gzip"`},
		"zstd": {encoder.EncodeAll([]byte(text), nil), `"` + name + `-zstd"`},
	}
}

// CaddyModule returns the Caddy module information.
func (Client) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.comet_client",
		New: func() caddy.Module { return new(Client) },
	}
}

// Provision makes the scripts.
func (c *Client) Provision(caddy.Context) error {
	c.scripts = loadScripts()
	return nil
}

// ServeHTTP serves the script.
func (c *Client) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	setAnswered(w)
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", clientMethods)
		return writeError(w, wire.Errorf(http.StatusMethodNotAllowed, "the client is read by %s", clientMethods), false)
	}
	served := c.scripts.classic
	if query, err := url.ParseQuery(queryOf(r)); err == nil && query.Has("module") {
		served = c.scripts.module
	}
	form := served[""]
	header.Add("Vary", "Accept-Encoding")
	for _, encoding := range encode.AcceptedEncodings(r, clientEncodings) {
		if encoded, ok := served[encoding]; ok {
			form = encoded
			header.Set("Content-Encoding", encoding)
			break
		}
	}
	header.Set("Content-Type", "text/javascript; charset=utf-8")
	header.Set("Cache-Control", "max-age="+strconv.Itoa(int(clientMaxAge.Seconds())))
	header.Set("Access-Control-Allow-Origin", "*") // pages of other sites may import it
	header.Set("ETag", form.etag)
	header.Set("Content-Length", strconv.Itoa(len(form.body)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(form.body))
	return nil
}

var (
	_ caddy.Provisioner           = (*Client)(nil)
	_ caddyhttp.MiddlewareHandler = (*Client)(nil)
)
