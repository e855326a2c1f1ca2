package wire

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // as RFC 6455 has it
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"golang.org/x/net/http/httpguts"
)

// SocketVersion is the version of the WebSocket protocol that there is: RFC 6455.
const SocketVersion = "13"

// isUpgrade reports whether a request asks for a WebSocket, as HTTP/1.1 does it.
func isUpgrade(header http.Header) bool {
	return httpguts.HeaderValuesContainsToken(header["Upgrade"], "websocket")
}

// AcceptSocket checks a request of HTTP/1.1 for a WebSocket, and returns what the
// answer says in Sec-WebSocket-Accept (RFC 6455, section 4.2).
func AcceptSocket(method string, header http.Header) (accept string, e *Error) {
	key := header.Get("Sec-WebSocket-Key")
	nonce, err := base64.StdEncoding.DecodeString(key)
	switch {
	case method != http.MethodGet:
		return "", badRequest("a WebSocket is asked for by GET, not by %.20q", method)
	case !httpguts.HeaderValuesContainsToken(header["Connection"], "upgrade"):
		return "", badRequest("the request has Upgrade: websocket, but no Connection: Upgrade; a proxy on the way may have to be told to hand both on")
	case header.Get("Sec-WebSocket-Version") != SocketVersion:
		return "", Errorf(http.StatusUpgradeRequired, "the request has no Sec-WebSocket-Version: %s, the only one there is", SocketVersion)
	case err != nil || len(nonce) != 16:
		return "", badRequest("Sec-WebSocket-Key is not 16 bytes in base64")
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // likewise
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// textFrame returns a frame of a server with a text.
func textFrame(text []byte) []byte { return ws.MustCompileFrame(ws.NewTextFrame(text)) }

// WatchedFrame tells a client what it watches now that it has changed that.
func WatchedFrame(fields []string) []byte {
	return textFrame(append(appendWatched([]byte{'{'}, fields), '}'))
}

// ErrorFrame tells a client that what it asked for over its WebSocket is not done.
func ErrorFrame(e *Error) []byte {
	text, _ := json.Marshal(struct { // a string and a number: cannot fail
		Error  string `json:"error"`
		Status int    `json:"status"`
	}{e.Detail, e.Status})
	return textFrame(text)
}

// Frames reads what a client sends over a WebSocket, in whatever pieces it comes. It
// keeps no more of it than MaxChange and one frame.
type Frames struct {
	unread []byte
	text   []byte // of a message that goes on
	inside bool   // a message
}

// Said is what a client said by a frame.
type Said struct {
	Text  []byte // a whole message; nil: it was none
	Reply []byte // the frame that answers it; nil: there is none
	Last  bool   // nothing is to be sent after that
	Wrong bool   // it may not be sent: that is why it is the last
}

// Add adds what came.
func (f *Frames) Add(b []byte) { f.unread = append(f.unread, b...) }

// Next returns what the client said next. It is not ok when more has to come. After
// what is the last it is not to be called.
func (f *Frames) Next() (said Said, ok bool) {
	for {
		frame, ok, refusal := f.frame()
		switch {
		case refusal != nil:
			return Said{Reply: refusal, Last: true, Wrong: true}, true
		case !ok:
			return said, false
		case frame.Header.OpCode == ws.OpPong:
			continue
		case frame.Header.OpCode == ws.OpPing:
			return Said{Reply: ws.MustCompileFrame(ws.NewPongFrame(frame.Payload))}, true
		case frame.Header.OpCode == ws.OpClose:
			return Said{Reply: closeReply(frame.Payload), Last: true}, true
		}
		f.text = append(f.text, frame.Payload...)
		if f.inside = !frame.Header.Fin; f.inside {
			continue
		}
		text := append([]byte{}, f.text...)
		f.text = nil
		if !utf8.Valid(text) {
			return Said{Reply: ws.CompiledCloseInvalidFramePayloadData, Last: true, Wrong: true}, true
		}
		return Said{Text: text}, true
	}
}

// Pending reports whether something has come of which more is to come.
func (f *Frames) Pending() bool { return f.inside || len(f.unread) > 0 }

// frame returns the next frame, without its mask. It is not ok when more has to
// come. A refusal is what is to be sent to who sent what may not be.
func (f *Frames) frame() (frame ws.Frame, ok bool, refusal []byte) {
	r := bytes.NewReader(f.unread)
	header, err := ws.ReadHeader(r)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return frame, false, nil
	}
	state := ws.StateServerSide
	if f.inside {
		state |= ws.StateFragmented
	}
	switch {
	case err != nil, ws.CheckHeader(header, state) != nil:
		return frame, false, ws.CompiledCloseProtocolError
	case header.OpCode == ws.OpBinary:
		return frame, false, ws.CompiledCloseUnsupportedData
	case header.OpCode.IsData() && header.Length > MaxChange-int64(len(f.text)):
		return frame, false, ws.CompiledCloseMessageTooBig
	case header.Length > int64(r.Len()):
		return frame, false, nil
	}
	start := len(f.unread) - r.Len()
	end := start + int(header.Length)
	payload := bytes.Clone(f.unread[start:end])
	ws.Cipher(payload, header.Mask, 0)
	if f.unread = f.unread[end:]; len(f.unread) == 0 {
		f.unread = nil
	}
	return ws.Frame{Header: header, Payload: payload}, true, nil
}

// closeReply returns what answers the frame by which a client closes: the same, when
// that is as it has to be.
func closeReply(payload []byte) []byte {
	if len(payload) == 0 {
		return ws.CompiledClose
	}
	code, reason := ws.ParseCloseFrameData(payload)
	if len(payload) == 1 || ws.CheckCloseFrameData(code, reason) != nil {
		return ws.CompiledCloseProtocolError
	}
	return ws.MustCompileFrame(ws.NewCloseFrame(payload))
}
