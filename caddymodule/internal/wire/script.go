package wire

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// What stands around each object of an iframe.
const (
	scriptStart = "<script>comet("
	scriptEnd   = ")</script>\n"
)

// scriptOf returns a script that calls comet with a message. JSON is JavaScript
// but for two things. Nothing in it may end the script or begin a comment of
// HTML, nor a line where JavaScript sees one: <, >, & and U+2028 and U+2029, which
// stand in strings alone, are escaped. And see scriptData.
func scriptOf(m *store.Message, epoch string) []byte {
	var b bytes.Buffer
	b.WriteString(scriptStart)
	json.HTMLEscape(&b, messageObject(m, epoch, scriptData))
	b.WriteString(scriptEnd)
	return b.Bytes()
}

// scriptData is appendData for JavaScript, in which an object with the key
// __proto__ is not what it is in JSON, and with two of them an error. Data that may
// have one is parsed as JSON there.
func scriptData(b []byte, m *store.Message) []byte {
	if isJSON(mediaType(m.Type)) && mayHaveProto.MatchString(m.Data) {
		return append(appendString(append(b, "JSON.parse("...), m.Data), ')')
	}
	return appendData(b, m)
}

// mayHaveProto matches __proto__, also with some of its letters escaped.
var mayHaveProto = regexp.MustCompile(`__proto__|\\u00(5[fF]|6[fF]|7[024])`)

// paddedHead is how many bytes the head of an iframe has at least: no browser has
// waited for more of them before it runs the first script.
const paddedHead = 2 << 10

// iframeHead returns the page of an iframe up to its first script: it defines the
// function that they call. That calls the callback of the parent. A parent of
// another origin, or that has no such function, is sent the object as a message.
// Without a parent nothing is called: whoever opens the page would choose what.
func iframeHead(callback string) []byte {
	b := []byte(strings.ReplaceAll(`<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Comet</title><script>
function comet(message) {
	var callback, body = document.body;
	while (body.firstChild) body.removeChild(body.firstChild);
	if (parent === window) return;
	try { callback = parent.document && parent.NAME; } catch (e) {}
	if (typeof callback == "function") parent.NAME(message);
	else parent.postMessage(message, "*");
}
</script></head><body>
`, "NAME", callback))
	b = append(b, "<!--"...)
	if missing := paddedHead - len(b) - len("-->\n"); missing > 0 {
		b = append(b, strings.Repeat(" ", missing)...)
	}
	return append(b, "-->\n"...)
}
