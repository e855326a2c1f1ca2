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

	encodings atomic.Pointer[encoding]
}

// messageOverhead is what a message costs beside its bytes, as counted against
// Limits.MaxMemory: the struct, its place in the history and the allocator's
// rounding. The benchmarks measure it.
const messageOverhead = 144

func (m *Message) size() int64 {
	return int64(len(m.Data)+len(m.Type)+len(m.Event)) + messageOverhead
}

// Encoding is one of the ways in which messages are encoded. Who encodes them
// numbers these.
type Encoding uint8

// Encoded is what a message looks like in one encoding.
type Encoded struct{ Bytes []byte }

// encoding is a list of the encodings of a message that somebody may have. It
// never changes: there is another in its place.
type encoding struct {
	as   Encoding
	what weak.Pointer[Encoded]
	next *encoding
}

// find returns what the message is encoded as, nil when nobody has it.
func (e *encoding) find(as Encoding) *Encoded {
	for ; e != nil; e = e.next {
		if e.as == as {
			return e.what.Value()
		}
	}
	return nil
}

// without returns the list without one encoding, and those that nobody has.
func (e *encoding) without(as Encoding) *encoding {
	if e == nil {
		return nil
	}
	rest := e.next.without(as)
	if e.as == as || e.what.Value() == nil {
		return rest
	}
	return &encoding{e.as, e.what, rest}
}

// Encoded returns what build makes of the message, and builds it only when
// nobody has it any more: all who are being sent a message in one encoding share
// one copy, which goes when the last of them lets go of what was returned. The
// bytes must not be changed. For one encoding, build is the same in every call.
func (m *Message) Encoded(as Encoding, build func(*Message) []byte) *Encoded {
	var built *Encoded
	for {
		kept := m.encodings.Load()
		if e := kept.find(as); e != nil {
			return e
		}
		if built == nil {
			built = &Encoded{Bytes: build(m)}
		}
		if m.encodings.CompareAndSwap(kept, &encoding{as, weak.Make(built), kept.without(as)}) {
			return built
		}
	}
}
