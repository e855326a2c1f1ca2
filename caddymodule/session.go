package caddymodule

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// changeSession answers a request that changes what a stream watches. It is for
// clients that cannot send on the connection of their stream.
func (h *Hold) changeSession(w http.ResponseWriter, r *http.Request, route wire.HoldRoute, session string) error {
	body, e := readBody(w, r, wire.MaxChange)
	var change wire.Change
	if e == nil {
		change, e = wire.ReadChange(route, body)
	}
	var fields []string
	if e == nil {
		fields, e = h.change(r, session, change)
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

// change changes what the stream of a session watches, and returns what that is now.
// It may have come to another route of the same store: then both must allow what it
// is to watch.
func (h *Hold) change(r *http.Request, session string, change wire.Change) ([]string, *wire.Error) {
	p := h.pool
	p.mu.Lock()
	s := p.sessions[session]
	p.mu.Unlock()
	if s == nil {
		return nil, errNoSession
	}
	s.looking.Lock() // or another route might have been found for what it watches now
	defer s.looking.Unlock()
	if route := s.holding(); route != h {
		allowed, err := route.expand(r)
		if err != nil {
			return nil, wire.Errorf(http.StatusForbidden, "%v", err)
		}
		if e := change.Check(allowed); e != nil {
			return nil, e
		}
	}
	return s.change(change)
}

var errNoSession = wire.Errorf(http.StatusNotFound, "there is no stream of that session; it may have ended")

// change changes what the stream watches, and returns what that is now. It is called
// with s.looking locked.
func (s *stream) change(change wire.Change) ([]string, *wire.Error) {
	if len(change.Watch) > 0 && s.holding().keys != nil {
		return nil, errSigned
	}
	if s.granted != nil && slices.ContainsFunc(change.Watch, func(name string) bool { return !slices.Contains(s.granted, name) }) {
		return nil, errNotGranted
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == answered || s.ended {
		return nil, errNoSession
	}
	fields, e := change.Apply(s.query.Fields)
	if e != nil {
		return nil, e
	}
	attendance, err := s.pool.store.Attend(fields)
	if err != nil {
		return nil, wire.Errorf(http.StatusServiceUnavailable, "%v", err)
	}
	added := slices.DeleteFunc(slices.Clone(fields), func(name string) bool { return slices.Contains(s.query.Fields, name) })
	s.late = keepLate(s.late, fields)
	if change.After != nil && len(added) > 0 {
		s.late = append(s.late, store.Query{Fields: added, Since: store.SinceCursor(*change.After)})
	}
	// What there is to tell of the fields before is read again, with the others.
	s.query.Fields, s.query.Since = fields, store.SinceCursor(s.at)
	s.result = nil
	defer s.attendance.End() // when the watch is ended
	s.attendance = attendance
	if s.watch != nil {
		if _, ended := s.watch.End(); !ended {
			s.changed = true // the store is about to wake it
			return slices.Clone(fields), nil
		}
		s.watch = nil
	}
	if s.stage == waiting && s.beginning == nil {
		s.watchOn()
		s.pokeIfWaiting()
	}
	return slices.Clone(fields), nil
}

// keepLate returns what is still to be told of late, now that fields are watched. A
// field is in one of them at most, so there are no more than fields.
func keepLate(late []store.Query, fields []string) []store.Query {
	var kept []store.Query
	for _, q := range late {
		q.Fields = slices.DeleteFunc(q.Fields, func(name string) bool { return !slices.Contains(fields, name) })
		if len(q.Fields) > 0 {
			kept = append(kept, q)
		}
	}
	return kept
}

// tellLate tells what there is next of fields that are new to the stream, and that
// the client wants from a time before where the stream is. Its messages have their
// own cursors, and the last of it that of the stream: a client that is cut between
// is told something twice. It reports whether there was something.
func (s *stream) tellLate(p *part) bool {
	for len(s.late) > 0 {
		piece, told, more := s.nextLate(&s.late[0])
		if !more {
			s.late = s.late[1:]
		}
		if told {
			p.tell(piece)
			return true
		}
	}
	return false
}

// nextLate returns what is to be told of late next, if there is something, and moves
// it on. There is more when not all of it is told.
func (s *stream) nextLate(late *store.Query) (piece wire.Piece, told, more bool) {
	result := s.pool.store.Read(*late)
	all := len(result.Messages)
	result.Messages = slices.DeleteFunc(result.Messages, func(m *store.Message) bool { return m.Position > s.at.Position })
	if result.Missed != nil { // but for what will be told of in its turn
		rest := s.pool.store.Read(store.Query{Fields: late.Fields, Since: store.SinceCursor(s.at)})
		result.Missed = slices.DeleteFunc(result.Missed, func(name string) bool { return slices.Contains(rest.Missed, name) })
		if len(result.Missed) == 0 {
			result.Missed = nil
		}
	}
	if !result.Ready() {
		return piece, false, false
	}
	last := result.Cursor
	result.Cursor = s.at
	piece = s.style.Value().Piece(result)
	switch n := len(result.Messages); {
	case piece.Cursor != s.at: // it did not fit
		late.Since = store.SinceCursor(piece.Cursor)
		more = true
	case n > 0 && n == all && last.Position < s.at.Position:
		late.Since = store.SinceCursor(last)
		more = true
	}
	return piece, true, more
}
