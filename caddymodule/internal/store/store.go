package store

import (
	"container/heap"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Limits bounds a store.
type Limits struct {
	// History is how many messages a field keeps, its value included. The
	// value itself is kept always. Default: 1000.
	History int

	// HistoryAge is how long a message is kept. The value itself stays.
	// Default: 1 h.
	HistoryAge time.Duration

	// FieldIdle is after how long a field that was neither published nor
	// watched is forgotten. Default: 30 days.
	FieldIdle time.Duration

	// MaxFields is how many fields may have a value. When there are more, the
	// one that was neither published nor watched for longest is forgotten.
	// Default: 1,000,000.
	MaxFields int

	// MaxMemory bounds the bytes of names, values and messages, with what the
	// store itself needs to keep them. When there are more, the oldest messages
	// are forgotten, then fields as with MaxFields. Default: 256 MiB.
	MaxMemory int64
}

// DefaultLimits returns the limits of a store for which none are configured.
func DefaultLimits() Limits {
	return Limits{
		History:    1000,
		HistoryAge: time.Hour,
		FieldIdle:  30 * 24 * time.Hour,
		MaxFields:  1_000_000,
		MaxMemory:  256 << 20,
	}
}

// ErrFull is returned when the store may take no new field or no more bytes,
// because what it has is watched or was itself published in the same batch.
var ErrFull = errors.New("the store is full")

// BumpError is returned by Publish for a bump of a field whose value is not a
// decimal number.
type BumpError struct{ Field string }

// Error names the field.
func (e *BumpError) Error() string {
	return fmt.Sprintf("field %q cannot be bumped: its value is not a decimal number", e.Field)
}

// Store keeps fields, and wakes those who watch them. Its methods may be called
// from any goroutine.
type Store struct {
	mu     sync.Mutex
	limits Limits

	epoch    string
	position Position

	// forgotten is the highest position at which a field that is not in fields
	// may have had a message.
	forgotten Position

	fields    map[string]*field
	published int      // fields with a value
	idle      idleList // those of them that are not watched
	expiring  expiring // those of them that keep more than their value

	messages    int   // that are kept, values included
	memory      int64 // of the fields with a value: names, values and messages
	history     int64 // of that, messages that are not the value
	watchedOnly int64 // names of the fields without a value

	publishedMessages uint64 // ever
	publishedBytes    uint64
	evictedMessages   uint64
	evictedFields     uint64

	wakes  []wake // watchers that were taken off and not yet woken
	waking bool   // a goroutine is at it

	sweeper *time.Timer // for what goes by age; nil while nothing will
	sweepAt time.Time   // when it is set for
	closed  bool
}

// New returns an empty store in an epoch of its own.
func New(limits Limits) *Store {
	return &Store{limits: limits, epoch: newEpoch(), fields: map[string]*field{}}
}

// SetLimits changes what bounds the store. What is over the new limits goes.
func (s *Store) SetLimits(limits Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limits == s.limits {
		return
	}
	s.limits = limits
	now := time.Now()
	for _, f := range s.fields {
		s.trim(f, now)
	}
	s.makeRoom()
	s.sweep(now)
}

// Close ends what the store does by itself. It goes on to answer.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.disarm()
}

// Cursor returns the cursor of this moment: a client that goes on from it gets
// all that comes.
func (s *Store) Cursor() Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor(s.position)
}

func (s *Store) cursor(p Position) Cursor { return Cursor{Epoch: s.epoch, Position: p} }

// Stats are the numbers of a store.
type Stats struct {
	Fields   int   // that have a value
	Messages int   // that are kept, values included
	Memory   int64 // bytes, as Limits.MaxMemory counts them

	// What happened since the store was made.
	PublishedMessages uint64
	PublishedBytes    uint64 // of data
	EvictedMessages   uint64 // because of MaxMemory
	EvictedFields     uint64 // because of MaxFields or MaxMemory
}

// Stats returns the numbers of this moment.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Fields:            s.published,
		Messages:          s.messages,
		Memory:            s.memory,
		PublishedMessages: s.publishedMessages,
		PublishedBytes:    s.publishedBytes,
		EvictedMessages:   s.evictedMessages,
		EvictedFields:     s.evictedFields,
	}
}

// State is what a field holds.
type State struct {
	Field    string
	Value    *Message // nil when it was never published
	Watchers int
}

// States returns what fields hold at one moment, in the order asked for, and
// the cursor of that moment.
func (s *Store) States(fields []string) ([]State, Cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]State, len(fields))
	for i, name := range fields {
		states[i].Field = name
		if f := s.fields[name]; f != nil {
			states[i].Value, states[i].Watchers = f.value(), f.watchers
		}
	}
	return states, s.cursor(s.position)
}

// Publish appends each publication to its field, in order and all at the same
// moment, and wakes the watchers of these fields.
//
// It returns once they are in the store: what is sent to the watchers is sent by
// others. The states are those of the fields just after, one for each
// publication, with the watchers there were. It returns ErrFull when the store
// has no room, and a *BumpError; then nothing was published.
func (s *Store) Publish(batch []Publication) ([]State, Cursor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.admit(batch); err != nil {
		return nil, s.cursor(s.position), err
	}
	now := time.Now()
	states := make([]State, len(batch))
	for i := range batch {
		p := &batch[i]
		f := s.field(p.Field)
		m := &Message{
			Field: f.name,
			Data:  p.Data,
			Type:  strings.Clone(p.Type), // else they keep the whole request
			Event: strings.Clone(p.Event),
			Time:  now,
		}
		if p.Bump {
			m.Data = "1"
			if v := f.value(); v != nil {
				m.Data, _ = nextWhole(v.Data) // admit has tried it
			}
		}
		s.append(f, m, now)
		s.publishedMessages++
		s.publishedBytes += uint64(len(m.Data))
		states[i] = State{Field: f.name, Value: m, Watchers: f.watchers}
		s.wake(f, false)
	}
	s.makeRoom()
	s.arm(now)
	return states, s.cursor(s.position), nil
}

// admit reports whether all of the batch can be published, and changes nothing.
func (s *Store) admit(batch []Publication) error {
	var (
		fields = s.published - s.idle.len            // that cannot be forgotten
		bytes  = s.memory - s.history - s.idle.bytes // likewise
		seen   map[string]struct{}
	)
	if len(batch) > 1 {
		seen = make(map[string]struct{}, len(batch))
	}
	for i := range batch {
		p := &batch[i]
		bytes += int64(len(p.Data)+len(p.Type)+len(p.Event)) + messageOverhead
		if seen != nil {
			if _, again := seen[p.Field]; again {
				continue
			}
			seen[p.Field] = struct{}{}
		}
		f := s.fields[p.Field]
		switch {
		case f == nil || f.value() == nil:
			fields++
			bytes += nameSize(p.Field)
		case f.idle: // it stays, and its value becomes history
			fields++
			bytes += nameSize(p.Field)
		default: // its value becomes history
			bytes -= f.value().size()
		}
		if p.Bump && f != nil && f.value() != nil {
			if _, err := nextWhole(f.value().Data); err != nil {
				return &BumpError{Field: p.Field}
			}
		}
	}
	if fields > s.limits.MaxFields || bytes > s.limits.MaxMemory {
		return ErrFull
	}
	return nil
}

// field returns the field of that name, and makes it when there is none. It
// counts as watched only until it gets a value.
func (s *Store) field(name string) *field {
	f := s.fields[name]
	if f == nil {
		name = strings.Clone(name) // else it keeps the whole request
		f = &field{name: name, floor: s.forgotten, expires: -1}
		s.fields[name] = f
		s.watchedOnly += nameSize(name)
	}
	return f
}

// append makes m the value of f.
func (s *Store) append(f *field, m *Message, now time.Time) {
	if f.idle {
		s.idle.remove(f)
	}
	if old := f.value(); old == nil {
		s.published++
		s.watchedOnly -= nameSize(f.name)
		s.memory += nameSize(f.name)
	} else {
		s.history += old.size()
	}
	s.position++
	m.Position = s.position
	f.messages = append(f.messages, m)
	f.bytes += m.size()
	s.messages++
	s.memory += m.size()
	s.trim(f, now)
	s.rest(f, now)
}

// rest notes that f was just published, or just left by its last watcher.
func (s *Store) rest(f *field, now time.Time) {
	f.active = now
	if f.watchers > 0 {
		return
	}
	if f.value() == nil {
		s.forget(f)
		return
	}
	s.idle.push(f)
}

// forget takes f, which is not watched, out of the store.
func (s *Store) forget(f *field) {
	s.forgotten = max(s.forgotten, f.end())
	if f.value() == nil {
		s.watchedOnly -= nameSize(f.name)
	} else {
		if f.idle {
			s.idle.remove(f)
		}
		s.empty(f)
		s.watchedOnly -= nameSize(f.name)
	}
	delete(s.fields, f.name)
}

// empty takes the value and all messages of f away.
func (s *Store) empty(f *field) {
	f.floor = f.end()
	s.memory -= f.bytes
	s.history -= f.bytes - f.value().size()
	s.messages -= len(f.kept())
	f.messages, f.head, f.bytes, f.parsed = nil, 0, 0, nil
	if f.expires >= 0 {
		heap.Remove(&s.expiring, f.expires)
	}
	s.published--
	s.memory -= nameSize(f.name)
	s.watchedOnly += nameSize(f.name)
}

// trim forgets what f keeps beyond the limits of a field.
func (s *Store) trim(f *field, now time.Time) {
	before := len(f.kept())
	for len(f.kept()) > max(s.limits.History, 1) {
		s.shift(f)
	}
	for len(f.kept()) > 1 && s.tooOld(f.kept()[0], now) {
		s.shift(f)
	}
	if after := len(f.kept()); after != before || after > 1 != (f.expires >= 0) {
		s.order(f)
	}
}

func (s *Store) tooOld(m *Message, now time.Time) bool {
	return now.Sub(m.Time) >= s.limits.HistoryAge
}

// shift forgets the oldest message of f, which is not its value. The caller
// calls order after the last one.
func (s *Store) shift(f *field) {
	size := f.shift().size()
	s.messages--
	s.memory -= size
	s.history -= size
}

// order puts f where it belongs in the order of what goes next.
func (s *Store) order(f *field) {
	switch more := len(f.kept()) > 1; {
	case more && f.expires < 0:
		heap.Push(&s.expiring, f)
	case more:
		heap.Fix(&s.expiring, f.expires)
	case f.expires >= 0:
		heap.Remove(&s.expiring, f.expires)
	}
}

// makeRoom forgets what can be forgotten until the store is within its limits:
// messages first, then fields.
func (s *Store) makeRoom() {
	for s.memory > s.limits.MaxMemory && len(s.expiring) > 0 {
		f := s.expiring[0]
		s.shift(f)
		s.order(f)
		s.evictedMessages++
	}
	for s.idle.len > 0 && (s.memory > s.limits.MaxMemory || s.published > s.limits.MaxFields) {
		s.forget(s.idle.first)
		s.evictedFields++
	}
}

// Delete takes the fields and their messages away, a gap for all cursors of
// before, and wakes their watchers. Fields that do not exist are left alone.
func (s *Store) Delete(fields []string) ([]State, Cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]State, len(fields))
	for i, name := range fields {
		states[i].Field = name
		f := s.fields[name]
		if f == nil {
			continue
		}
		states[i].Watchers = f.watchers
		if f.idle {
			s.idle.remove(f)
		}
		if f.value() != nil {
			s.empty(f)
		}
		s.position++
		f.floor = s.position
		s.wake(f, true)
		if f.watchers == 0 {
			s.forget(f)
		}
	}
	return states, s.cursor(s.position)
}
