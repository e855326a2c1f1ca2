package caddymodule

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// maxSessionBody is how large a request may be that changes what a stream watches.
const maxSessionBody = 64 << 10

// changeSession answers a request that changes what a stream watches. It is for
// clients that cannot send on the connection of their stream.
func (h *Hold) changeSession(w http.ResponseWriter, r *http.Request, route wire.HoldRoute, session string) error {
	body, e := readBody(w, r, maxSessionBody)
	var change wire.Change
	if e == nil {
		change, e = wire.ReadChange(route, body)
	}
	var fields []string
	if e == nil {
		fields, e = h.pool.change(h, session, change)
	}
	if e != nil {
		return h.refuse(w, r, wire.JSON, e)
	}
	h.note(r, outcomeNow, outcomeField(outcomeNow))
	cursor := h.pool.store.Cursor()
	answer := wire.Watched(cursor, fields)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(answer)))
	header.Set(headerCursor, cursor.String())
	header.Set(headerField, wire.FieldList(fields))
	_, err := w.Write(answer)
	_ = err // the client left; what it asked for is done
	return nil
}

// change changes what the stream of a session watches, which is held by the route h,
// and returns what that is now.
func (p *pool) change(h *Hold, session string, change wire.Change) ([]string, *wire.Error) {
	p.mu.Lock()
	s := p.sessions[session]
	if s != nil && s.route != h {
		s = nil
	}
	p.mu.Unlock()
	if s == nil {
		return nil, errNoSession
	}
	return s.change(change)
}

var errNoSession = wire.Errorf(http.StatusNotFound, "there is no stream of that session on this route; it may have ended")

// change changes what the stream watches, and returns what that is now.
func (s *stream) change(change wire.Change) ([]string, *wire.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == answered || s.ended {
		return nil, errNoSession
	}
	fields, e := change.Apply(s.query.Fields)
	if e != nil {
		return nil, e
	}
	// What there is to tell of the fields before is read again, with the others.
	s.query.Fields, s.query.Since = fields, store.SinceCursor(s.at)
	s.result = nil
	if s.watch != nil {
		if _, ended := s.watch.End(); !ended {
			s.changed = true // the store is about to wake it
			return slices.Clone(fields), nil
		}
		s.watch = nil
	}
	if s.stage == waiting && s.head == nil {
		s.watchOn()
		s.pokeIfWaiting()
	}
	return slices.Clone(fields), nil
}
