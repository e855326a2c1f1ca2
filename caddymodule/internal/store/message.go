package store

import (
	"sync/atomic"
	"time"
	"weak"
)

// Publication is what a publisher puts on a field.
type Publication struct {
	Field string
	Data  string
	Type  string // Content-Type as published; empty: plain text
	Event string // optional name of the event

	// Bump publishes the next whole number after the field's value instead of
	// Data, or 1 when it has none.
	Bump bool
}

// Message is one publication to one field. It never changes.
type Message struct {
	Field    string
	Data     string
	Type     string
	Event    string
	Time     time.Time // when it was published
	Position Position

	encoded atomic.Pointer[weak.Pointer[Encoded]]
}

// messageOverhead is what a message costs beside its bytes, as counted against
// Limits.MaxMemory: the struct, its place in the history and the allocator's
// rounding. The benchmarks measure it.
const messageOverhead = 144

func (m *Message) size() int64 {
	return int64(len(m.Data)+len(m.Type)+len(m.Event)) + messageOverhead
}

// Encoded is what a message looks like in one format.
type Encoded struct{ Bytes []byte }

// Encoded returns what build makes of the message, and builds it only when
// nobody has it any more: all who are being sent a message share one copy, which
// goes when the last of them lets go of what was returned. The bytes must not be
// changed. It is meant for one encoding, the same in every call.
func (m *Message) Encoded(build func(*Message) []byte) *Encoded {
	if kept := m.encoded.Load(); kept != nil {
		if e := kept.Value(); e != nil {
			return e
		}
	}
	e := &Encoded{Bytes: build(m)}
	kept := weak.Make(e)
	m.encoded.Store(&kept)
	return e
}
