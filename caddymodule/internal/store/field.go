package store

import "time"

// field is a named place in the store. It is in Store.fields while it has a
// value or is watched.
type field struct {
	name     string
	messages []*Message // oldest first from head on; the last one is the value
	head     int        // what is below it has been forgotten and is nil

	// floor is the highest position at which the field may have had a message
	// that is not kept: a cursor below it has a gap.
	floor Position

	watching *watchList // in the order of their coming; nil when there are none
	watchers int        // those in watching, and those taken off but not yet woken

	bytes  int64         // of its messages
	parsed *parsedNumber // of its value; nil until somebody compares with it

	active             time.Time // when it was last published, or its last watcher left
	idlePrev, idleNext *field    // in Store.idle; it has a value and no watcher
	idle               bool
	expires            int // index in Store.expiring, -1 when all it keeps is the value
}

// fieldOverhead is what a field costs beside its name and messages, as counted
// against Limits.MaxMemory: the struct and its entry in the map.
const fieldOverhead = 224

func nameSize(name string) int64 { return int64(len(name)) + fieldOverhead }

// kept returns the messages of f, oldest first.
func (f *field) kept() []*Message { return f.messages[f.head:] }

// value returns the latest message, nil when f was never published.
func (f *field) value() *Message {
	if n := len(f.messages); n > f.head {
		return f.messages[n-1]
	}
	return nil
}

// parsedNumber is a value as a number, when it is one.
type parsedNumber struct {
	of       *Message
	number   decimal
	isNumber bool
}

// number returns the value of f as a number, and whether it is one. It is read
// once, however many compare with it.
func (f *field) number() (decimal, bool) {
	if v := f.value(); f.parsed == nil || f.parsed.of != v {
		number, isNumber := parseDecimal(v.Data)
		f.parsed = &parsedNumber{v, number, isNumber}
	}
	return f.parsed.number, f.parsed.isNumber
}

// end returns the lowest position from which a cursor has seen all of f.
func (f *field) end() Position {
	if v := f.value(); v != nil {
		return v.Position
	}
	return f.floor
}

// after returns the kept messages with a position above p.
func (f *field) after(p Position) []*Message {
	kept := f.kept()
	low, high := 0, len(kept)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if kept[mid].Position <= p {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return kept[low:]
}

// shift forgets the oldest message and returns it.
func (f *field) shift() *Message {
	m := f.messages[f.head]
	f.bytes -= m.size()
	f.messages[f.head] = nil
	f.head++
	f.floor = m.Position
	if f.head*2 >= len(f.messages) {
		n := copy(f.messages, f.messages[f.head:])
		clear(f.messages[n:])
		f.messages, f.head = f.messages[:n], 0
	}
	return m
}

// idleList holds the fields that have a value and no watcher, the longest idle
// one first. Its zero value is empty.
type idleList struct {
	first, last *field
	len         int
	bytes       int64 // of the names and values of its fields
}

func (l *idleList) push(f *field) {
	f.idle, f.idlePrev, f.idleNext = true, l.last, nil
	if l.last != nil {
		l.last.idleNext = f
	} else {
		l.first = f
	}
	l.last = f
	l.len++
	l.bytes += nameSize(f.name) + f.value().size()
}

func (l *idleList) remove(f *field) {
	if f.idlePrev != nil {
		f.idlePrev.idleNext = f.idleNext
	} else {
		l.first = f.idleNext
	}
	if f.idleNext != nil {
		f.idleNext.idlePrev = f.idlePrev
	} else {
		l.last = f.idlePrev
	}
	f.idle, f.idlePrev, f.idleNext = false, nil, nil
	l.len--
	l.bytes -= nameSize(f.name) + f.value().size()
}

// expiring is a heap of the fields that keep more than their value, by their
// oldest message. It implements heap.Interface.
type expiring []*field

func (e expiring) Len() int { return len(e) }

func (e expiring) Less(i, j int) bool {
	return e[i].kept()[0].Position < e[j].kept()[0].Position
}

func (e expiring) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].expires, e[j].expires = i, j
}

func (e *expiring) Push(x any) {
	f := x.(*field)
	f.expires = len(*e)
	*e = append(*e, f)
}

func (e *expiring) Pop() any {
	old := *e
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*e = old[:len(old)-1]
	f.expires = -1
	return f
}
