package wire

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Format is how a held request is answered.
type Format string

// The formats there are. Those from SSE on are streams, of which one answer goes
// on and on; the others have an answer end with what it tells.
const (
	Text      Format = "text"      // YES or NO
	JSON      Format = "json"      // the messages
	Raw       Format = "raw"       // one message, as it was published
	JSONP     Format = "jsonp"     // JSON, as a script that calls a function with it
	SSE       Format = "sse"       // events, as the WHATWG has them
	NDJSON    Format = "ndjson"    // a line of JSON for each message
	Multipart Format = "multipart" // a part for each message, which replaces the one before
	Iframe    Format = "iframe"    // a page, with a script for each message
	WS        Format = "ws"        // frames of a WebSocket, a JSON text for each message
)

var formats = []Format{Text, JSON, Raw, JSONP, SSE, NDJSON, Multipart, Iframe, WS}

// Formats returns the names of all formats.
func Formats() []string { return names(formats) }

func names(formats []Format) []string {
	all := make([]string, len(formats))
	for i, f := range formats {
		all[i] = string(f)
	}
	return all
}

// IsStream reports whether answers in the format go on after what they told.
func (f Format) IsStream() bool { return slices.Index(formats, f) >= slices.Index(formats, SSE) }

// mediaTypes are the types by which Accept asks for formats. Raw and Iframe have
// none: what is raw may be of any type, and for text/html every page asks.
var mediaTypes = map[Format]string{
	Text:      "text/plain",
	JSON:      "application/json",
	JSONP:     "application/javascript",
	SSE:       "text/event-stream",
	NDJSON:    "application/x-ndjson",
	Multipart: "multipart/x-mixed-replace",
}

// readFormat returns the format that a request asks for: by name, by Upgrade, or
// by Accept.
func readFormat(route HoldRoute, name string, header http.Header) (Format, *Error) {
	upgrade := isUpgrade(header)
	offered := make([]string, len(route.Formats))
	for i, f := range route.Formats {
		offered[i] = mediaTypes[f]
	}
	var format Format
	switch accept := header["Accept"]; {
	case name != "":
		format = Format(name)
		if !slices.Contains(formats, format) {
			return "", badRequest("there is no format %.40q; this route has %s", name, strings.Join(names(route.Formats), ", "))
		}
		if !slices.Contains(route.Formats, format) {
			return "", Errorf(http.StatusNotAcceptable, "this route does not have the format %s; it has %s", name, strings.Join(names(route.Formats), ", "))
		}
	case upgrade:
		if !slices.Contains(route.Formats, WS) {
			return "", Errorf(http.StatusNotAcceptable, "this route has no WebSockets; it has the formats %s", strings.Join(names(route.Formats), ", "))
		}
		return WS, nil
	default:
		if i := negotiate(accept, offered); i >= 0 {
			format = route.Formats[i]
		} else if format = route.Formats[0]; format != Raw { // it may be what is asked for
			return "", Errorf(http.StatusNotAcceptable, "this route has nothing that the Accept header asks for; it has the formats %s", strings.Join(names(route.Formats), ", "))
		}
	}
	if format == WS && !upgrade {
		return "", Errorf(http.StatusUpgradeRequired, "the format ws is for WebSockets: the request has no Upgrade: websocket")
	}
	return format, nil
}

// Style is how one client is answered. What the format has no use for is not
// set, so that few styles differ.
type Style struct {
	Format   Format
	Wrap     bool   // SSE: the data is the object of the message
	Callback string // JSONP, Iframe: which function is called
}

// maxCallback bounds the name of a callback.
const maxCallback = 128

// defaultCallback is what an iframe calls when the client does not say.
const defaultCallback = "comet"

// read reads what a request says of its style beside the format.
func (s *Style) read(pairs []pair) *Error {
	switch wrap := first(pairs, "wrap"); wrap {
	case "":
	case "json":
		s.Wrap = s.Format == SSE
	default:
		return badRequest("wrap=%.40q is not json, which is all it can be", wrap)
	}
	if s.Format != JSONP && s.Format != Iframe {
		return nil
	}
	s.Callback = first(pairs, "callback")
	if s.Callback == "" && s.Format == Iframe {
		s.Callback = defaultCallback
	}
	switch {
	case s.Callback == "":
		return badRequest("the format jsonp wants callback=NAME, the function to call")
	case len(s.Callback) > maxCallback:
		return badRequest("the name of the callback has %d bytes, and at most %d are allowed", len(s.Callback), maxCallback)
	case !callbackPath.MatchString(s.Callback):
		return badRequest("callback=%.80q is not the name of a function, such as update or page.update", s.Callback)
	}
	for word := range strings.SplitSeq(s.Callback, ".") {
		if slices.Contains(reservedWords, word) {
			return badRequest("callback=%.80q has the reserved word %s in it", s.Callback, word)
		}
	}
	return nil
}

var callbackPath = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$]*(\.[A-Za-z_$][A-Za-z0-9_$]*)*$`)

// reservedWords are those of JavaScript, in strict code too.
var reservedWords = strings.Fields(`
	arguments await break case catch class const continue debugger default delete do else enum eval export extends
	false finally for function if implements import in instanceof interface let new null package private protected
	public return static super switch this throw true try typeof var void while with yield`)

// ContentType returns the Content-Type of answers in this style, empty when that
// depends on the message.
func (s Style) ContentType() string {
	switch s.Format {
	case Text:
		return TextType
	case Raw:
		return ""
	case JSONP:
		return "application/javascript; charset=utf-8"
	case Multipart:
		return "multipart/x-mixed-replace; boundary=" + boundary
	case Iframe:
		return "text/html; charset=utf-8"
	default:
		return mediaTypes[s.Format]
	}
}
