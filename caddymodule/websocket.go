package caddymodule

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// headerAccept answers the key of a request for a WebSocket.
const headerAccept = "Sec-WebSocket-Accept"

// isConnect reports whether r asks for a WebSocket as HTTP/2 (RFC 8441) and HTTP/3
// (RFC 9220) do it. Servers tell the method in two ways.
func isConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect && (r.Header.Get(":protocol") == "websocket" || r.Proto == "websocket")
}

// asUpgrade returns the method and the header of r as they would be if it asked for
// its WebSocket over HTTP/1.
func asUpgrade(r *http.Request) (method string, header http.Header) {
	if !isConnect(r) {
		return r.Method, r.Header
	}
	header = maps.Clone(r.Header)
	header.Set("Upgrade", "websocket")
	return http.MethodGet, header
}

// acceptSocket returns what the answer to a request for a WebSocket says of its key,
// if it has one, or why there is none.
func (h *Hold) acceptSocket(r *http.Request, format wire.Format) (accept string, e *wire.Error) {
	switch {
	case format != wire.WS:
		return "", wire.Errorf(http.StatusBadRequest, "a WebSocket has the format ws, and no other")
	case !isConnect(r) && !r.ProtoAtLeast(1, 1):
		return "", wire.Errorf(http.StatusBadRequest, "there are no WebSockets over HTTP/1.0; a proxy on the way may have to be told to speak HTTP/1.1")
	case !isConnect(r):
		if accept, e = wire.AcceptSocket(r.Method, r.Header); e != nil {
			return "", e
		}
	}
	// A browser lets every page open a WebSocket to everywhere, with the cookies of
	// its visitor, and leaves it to the server.
	origin := r.Header.Get("Origin")
	switch {
	case origin == "" || isOfSite(origin, r):
	case h.CORS == nil || !h.CORS.allows(origin):
		return "", wire.Errorf(http.StatusForbidden, "%s", notAllowed(origin))
	case !h.CORS.Credentials && hasCredentials(r):
		return "", wire.Errorf(http.StatusForbidden, "pages of the origin %.300q may not ask here as whom their visitor is known; to let them, list the origin in the cors block of this route, with credentials", origin)
	}
	return accept, nil
}

// hasCredentials reports whether r has what browsers send by themselves to say who
// their user is.
func hasCredentials(r *http.Request) bool {
	return r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" || r.TLS != nil && len(r.TLS.PeerCertificates) > 0
}

// isOfSite reports whether an origin is that of the site which r came to. Schemes
// are not compared: a proxy may speak TLS in place of the server. It may also have
// another name for it, and say that of the site; a page cannot.
func isOfSite(origin string, r *http.Request) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	forwarded, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Host"), ",")
	return slices.ContainsFunc([]string{r.Host, strings.TrimSpace(forwarded)}, func(host string) bool {
		return strings.EqualFold(withoutUsualPort(u.Host, u.Scheme), withoutUsualPort(host, u.Scheme))
	})
}

// withoutUsualPort returns a host without the port that its scheme has anyway.
func withoutUsualPort(host, scheme string) string {
	return strings.TrimSuffix(host, ":"+usualPorts[scheme])
}

// socket is what a stream over a WebSocket has more than others: a client that says
// something.
type socket struct {
	accept string      // what answers the key; empty: there was none
	frames wire.Frames // not guarded: one goroutine at a time hears
	silent int         // for how many heartbeats nothing whole was heard; guarded by stream.mu
	reads  bool        // what the client said, and is to answer that first; likewise
	reply  []byte      // to what the client said; likewise
	closes bool        // with the reply; likewise
}

// maxSilent is for how many heartbeats a client need not be heard, though it is to
// answer each. It may take as long for what it says.
const maxSilent = 2

// isSilent is called before a heartbeat. It reports whether the client is taken to be
// gone.
func (k *socket) isSilent() bool {
	k.silent++
	return k.silent > maxSilent
}

// hear is given what came over the WebSocket of s. It reports whether more is to be
// heard now: not before what the client said is answered. Then readOn is called.
func (s *stream) hear(b []byte) (more bool) {
	s.socket.frames.Add(b)
	return s.readOn()
}

// readOn is hear for what came before.
func (s *stream) readOn() (more bool) {
	said, ok := s.socket.frames.Next()
	s.mu.Lock()
	if said.Text != nil || !s.socket.frames.Pending() {
		s.socket.silent = 0
	}
	s.socket.reads = ok
	s.mu.Unlock()
	if !ok {
		return true
	}
	reply := said.Reply
	if said.Text != nil {
		reply = s.changeAs(said.Text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.socket.reads, s.socket.reply, s.socket.closes = false, reply, said.Last
	if said.Last && !s.ended {
		s.ended, s.why = true, outcomeLeft
		if said.Wrong {
			s.why = outcomeRefused
		}
	}
	s.pokeIfWaiting()
	return false
}

// changeAs changes what s watches as its client says, and returns the frame that
// answers it.
func (s *stream) changeAs(text []byte) []byte {
	var (
		fields []string
		change wire.Change
	)
	s.looking.Lock() // as Hold.change
	defer s.looking.Unlock()
	allowed, e := s.allowed()
	if e == nil {
		change, e = wire.ReadChange(allowed, string(text))
	}
	if e == nil {
		fields, e = s.change(change)
	}
	if e != nil {
		return wire.ErrorFrame(e)
	}
	return wire.WatchedFrame(fields)
}

// allowed returns what the route of s allows its request. It is called with s.looking
// locked.
func (s *stream) allowed() (wire.HoldRoute, *wire.Error) {
	route := s.holding()
	if route.fixed != nil {
		return *route.fixed, nil
	}
	if s.held.over {
		return wire.HoldRoute{}, errNoSession
	}
	r, err := s.waiter.look(route.access.server)
	if err != nil {
		return wire.HoldRoute{}, wire.Errorf(http.StatusInternalServerError, "the request cannot be looked at again: %v", err)
	}
	allowed, err := route.expand(r)
	if err != nil {
		return wire.HoldRoute{}, wire.Errorf(http.StatusForbidden, "%v", err)
	}
	return allowed, nil
}

// upgrade makes a WebSocket of what the request came on, and has it listened to.
func (g *goroutineStream) upgrade() error {
	g.replied = make(chan struct{}, 1)
	control := http.NewResponseController(g.writer)
	if g.socket.accept == "" { // HTTP/2 or HTTP/3
		g.writer.WriteHeader(http.StatusOK)
		if err := control.Flush(); err != nil {
			return err
		}
		g.listened = make(chan struct{})
		go func() {
			defer close(g.listened)
			g.listen(g.request.Body)
		}()
		return nil
	}
	header := g.writer.Header()
	header.Set("Connection", "Upgrade")
	header.Set("Upgrade", "websocket")
	header.Set(headerAccept, g.socket.accept)
	g.writer.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := http.NewResponseController(innermost(g.writer)).Hijack()
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Time{}) // the server may have left one
	if err := buffered.Flush(); err != nil {
		_ = conn.Close()
		return err
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // what is buffered is there
	g.conn = conn
	go func() {
		g.listen(io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn))
		// What is not read would reset the connection, and the client would lose what
		// it has not read yet.
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}()
	return nil
}

// innermost returns the writer of the server itself: those around it may be over
// with the request, and the connection of a WebSocket is not.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

// listen hears what the client says until it leaves, or all is over.
func (g *goroutineStream) listen(client io.Reader) {
	var room [512]byte
	for {
		n, err := client.Read(room[:])
		if n > 0 {
			for more := g.hear(room[:n]); !more; more = g.readOn() {
				if _, goesOn := <-g.replied; !goesOn {
					return
				}
			}
		}
		if err != nil {
			g.end(outcomeLeft)
			return
		}
	}
}

// closingTime is for how long a client may take to close its WebSocket when it was
// told to, as one that is parked.
const closingTime = time.Second

// hangUp ends a WebSocket when the last was sent, or nothing can be sent any more.
func (g *goroutineStream) hangUp(why outcome) {
	close(g.replied)
	switch {
	case g.conn == nil: // it ends with the request, which nobody is to use after that
		_ = g.request.Body.Close()
		<-g.listened
	case why == outcomeDropped:
		_ = g.conn.Close()
	default:
		if c, ok := g.conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
		_ = g.conn.SetReadDeadline(time.Now().Add(closingTime))
	}
}
