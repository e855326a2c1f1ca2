package store

import (
	"sort"
	"strings"
	"time"
)

// Query says what a client watches and what it has seen of it.
type Query struct {
	Fields []string // without doubles
	Since  Since

	// Attended is whether who watches is counted by Attend.
	Attended bool
}

// Since says what a client has seen. Its zero value is what SinceLost returns.
type Since struct {
	kind   sinceKind
	cursor Cursor
	last   int
	seen   []Seen
}

type sinceKind uint8

const (
	lost sinceKind = iota
	byCursor
	fromNow
	fromFirst
	fromLast
	byValue
)

// Seen is the value of a field that a client has. When it is not Given the
// client has seen nothing, and any value is newer.
type Seen struct {
	Value string
	Given bool
}

// SinceLost is for a client whose cursor cannot be read: a gap, and the latest
// message of each field.
func SinceLost() Since { return Since{kind: lost} }

// SinceCursor is for a client that has seen all up to c. A cursor that this
// store has not issued is a gap.
func SinceCursor(c Cursor) Since { return Since{kind: byCursor, cursor: c} }

// SinceNow is for a client that wants what comes from now on.
func SinceNow() Since { return Since{kind: fromNow} }

// SinceFirst is for a client that wants all that is kept.
func SinceFirst() Since { return Since{kind: fromFirst} }

// SinceLast is for a client that wants the last n messages of all its fields
// together, or as many as are kept.
func SinceLast(n int) Since { return Since{kind: fromLast, last: n} }

// SinceValues is for a client that knows values, one for each field of the
// query. It is given the latest message of each field that is newer than its
// value: greater, when both are decimal numbers, and different otherwise.
func SinceValues(seen []Seen) Since { return Since{kind: byValue, seen: seen} }

// IsByValue reports whether it is of SinceValues.
func (s Since) IsByValue() bool { return s.kind == byValue }

// MaxResult bounds a result, and with it the time that the store is locked for
// it: it holds as many messages as fit into so many bytes, with resultOverhead
// for each, and at least one. The rest is there after its cursor.
const (
	MaxResult      = 1 << 20
	resultOverhead = 128
)

// Result is what a client is given.
type Result struct {
	// Cursor is what to go on from.
	Cursor Cursor

	// Messages are those that the client has not seen, in order of position.
	Messages []*Message

	// Missed names the fields of which the client has a gap; nil when there is
	// none.
	Missed []string

	// NewEpoch is whether that is because the cursor was of another epoch.
	NewEpoch bool
}

// Ready reports whether there is something to tell the client.
func (r *Result) Ready() bool { return len(r.Messages) > 0 || r.Missed != nil }

// Watcher is who waits for a result.
type Watcher interface {
	// Wake is called once, with something to tell, or with nothing to tell when a
	// field watched by value was deleted. It must not block, and may call any
	// method of the store.
	Wake(Result)
}

// Watch is a watcher in its place. The store forgets it when it wakes it.
type Watch struct {
	store   *Store
	watcher Watcher // nil once it was taken out
	byValue bool
	counted bool     // not by Attend
	after   Position // when not byValue
	nodes   []node   // one for each field
	one     [1]node  // room for nodes when there is one, as there mostly is
}

// node is a watch in the list of one field.
type node struct {
	prev, next *node
	list       *watchList
	field      *field
	watch      *Watch
	seen       *seenValue // when the watch is by value
}

// seenValue is a Seen whose number was read once, since it is compared with every
// value that comes.
type seenValue struct {
	Seen
	number   decimal
	isNumber bool
}

func newSeenValue(seen Seen) *seenValue {
	number, isNumber := parseDecimal(seen.Value)
	return &seenValue{seen, number, isNumber}
}

// watchList is a list of nodes in the order of their coming.
type watchList struct{ first, last *node }

func (l *watchList) push(n *node) {
	n.list, n.prev, n.next = l, l.last, nil
	if l.last != nil {
		l.last.next = n
	} else {
		l.first = n
	}
	l.last = n
}

func (l *watchList) remove(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.first = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.last = n.prev
	}
	n.list, n.prev, n.next = nil, nil, nil
}

// Read returns what there is for q now. The cursor is good to go on from also
// when the result is not ready.
func (s *Store) Read(q Query) Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read(q)
}

func (s *Store) read(q Query) Result {
	var room [8]*field
	fields := room[:0]
	now := time.Now()
	for _, name := range q.Fields {
		f := s.fields[name]
		if f != nil {
			s.trim(f, now)
		}
		fields = append(fields, f)
	}
	g := gathering{store: s, names: q.Fields, fields: fields}
	switch q.Since.kind {
	case byCursor:
		if c := q.Since.cursor; c.Epoch == s.epoch && c.Position <= s.position {
			return g.after(c.Position)
		}
		result := g.lost()
		result.NewEpoch = q.Since.cursor.Epoch != s.epoch
		return result
	case fromNow:
		return Result{Cursor: s.cursor(s.position)}
	case fromFirst:
		return g.result(g.runs(nil, 0), nil)
	case fromLast:
		return g.last(q.Since.last)
	case byValue:
		var room [8]*seenValue
		seen := room[:0]
		for _, v := range q.Since.seen {
			seen = append(seen, newSeenValue(v))
		}
		return g.newer(seen)
	default:
		return g.lost()
	}
}

// Watch returns what there is for q now or, when that is nothing, keeps w to be
// woken when there is something; then the watch is not nil. It returns ErrFull
// when w would be the one watcher too many of fields that nobody has published.
func (s *Store) Watch(q Query, w Watcher) (*Watch, Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	result := s.read(q)
	if result.Ready() {
		return nil, result, nil
	}
	if !s.hasRoom(q.Fields) {
		return nil, result, ErrFull
	}
	watch := &Watch{store: s, watcher: w, byValue: q.Since.kind == byValue, counted: !q.Attended, after: s.position}
	if q.Since.kind == byCursor {
		watch.after = q.Since.cursor.Position
	}
	if len(q.Fields) <= len(watch.one) { // there may be none
		watch.nodes = watch.one[:len(q.Fields)]
	} else {
		watch.nodes = make([]node, len(q.Fields))
	}
	for i := range watch.nodes {
		n := &watch.nodes[i]
		n.watch, n.field = watch, s.field(q.Fields[i])
		if watch.byValue {
			seen := q.Since.seen[i]
			seen.Value = strings.Clone(seen.Value) // else it keeps the whole request
			n.seen = newSeenValue(seen)
		}
		if watch.counted {
			s.count(n.field)
		}
		n.field.watch(n)
	}
	return watch, result, nil
}

// hasRoom reports whether fields may be watched, of which some may be unknown.
func (s *Store) hasRoom(names []string) bool {
	var unknown int64
	for _, name := range names {
		if s.fields[name] == nil {
			unknown += nameSize(name)
		}
	}
	return unknown == 0 || s.watchedOnly+unknown <= s.limits.MaxMemory
}

// count counts a watcher of f.
func (s *Store) count(f *field) {
	if f.idle {
		s.idle.remove(f)
	}
	f.watchers++
}

// uncount takes back what count did.
func (s *Store) uncount(f *field, now time.Time) {
	f.watchers--
	if f.watchers == 0 {
		f.watching = nil
		s.rest(f, now)
	}
}

// Attendance is of who watches fields again and again, and counts as a watcher of
// them between that too.
type Attendance struct {
	store  *Store
	fields []*field
}

// Attend counts a watcher of fields, until End. Its queries are Attended. It returns
// ErrFull as Watch does.
func (s *Store) Attend(fields []string) (*Attendance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasRoom(fields) {
		return nil, ErrFull
	}
	a := &Attendance{store: s, fields: make([]*field, len(fields))}
	for i, name := range fields {
		a.fields[i] = s.field(name)
		s.count(a.fields[i])
	}
	return a, nil
}

// End ends the attendance, of which there is no watch any more. It may be called
// more than once.
func (a *Attendance) End() {
	s := a.store
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, f := range a.fields {
		s.uncount(f, now)
	}
	a.fields = nil
	s.arm(now)
}

func (f *field) watch(n *node) {
	if f.watching == nil {
		f.watching = new(watchList)
	}
	f.watching.push(n)
}

// End takes the watch out of the store, unless Wake was or is being called, and
// reports whether it did. The result is what there is at this moment, mostly
// nothing.
func (w *Watch) End() (Result, bool) {
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.watcher == nil {
		return Result{}, false
	}
	result := s.takeOut(w)
	return result, true
}

// Fields returns the names of what is watched, also when that is over.
func (w *Watch) Fields() []string {
	names := make([]string, len(w.nodes))
	for i := range w.nodes {
		names[i] = w.nodes[i].field.name
	}
	return names
}

// takeOut takes w out of all its lists and returns what there is for it.
func (s *Store) takeOut(w *Watch) Result {
	now := time.Now()
	var room [8]*field
	fields := room[:0]
	for i := range w.nodes {
		s.trim(w.nodes[i].field, now)
		fields = append(fields, w.nodes[i].field)
	}
	g := gathering{store: s, fields: fields}
	var result Result
	if w.byValue {
		var room [8]*seenValue
		seen := room[:0]
		for i := range w.nodes {
			seen = append(seen, w.nodes[i].seen)
		}
		result = g.newer(seen)
	} else {
		result = g.after(w.after)
	}
	for i := range w.nodes {
		n := &w.nodes[i]
		n.list.remove(n)
		if w.counted {
			s.uncount(n.field, now)
		}
	}
	w.watcher = nil
	s.arm(now)
	return result
}

// wake is a list of watchers to be woken.
type wake struct {
	field *field
	list  *watchList
	all   bool // also those by value who have nothing newer
}

// wake takes the watchers of f off, to be woken by another goroutine.
func (s *Store) wake(f *field, all bool) {
	for i := range s.wakes {
		if all && s.wakes[i].field == f { // taken off before, and not yet looked at
			s.wakes[i].all = true
		}
	}
	if f.watching == nil || f.watching.first == nil {
		return
	}
	s.wakes = append(s.wakes, wake{f, f.watching, all})
	f.watching = nil
	if !s.waking {
		s.waking = true
		go s.wakeAll()
	}
}

// wakeChunk is how many watchers are looked at while the lock is held once.
const wakeChunk = 64

// wakeAll wakes the watchers in wakes until there are none.
func (s *Store) wakeAll() {
	type woken struct {
		watcher Watcher
		result  Result
	}
	chunk := make([]woken, 0, wakeChunk)
	for {
		s.mu.Lock()
		for looked := 0; looked < wakeChunk && len(s.wakes) > 0; looked++ {
			next := s.wakes[0]
			n := next.list.first
			if n == nil {
				s.wakes[0] = wake{}
				s.wakes = s.wakes[1:]
				continue
			}
			if w := n.watch; next.all || !w.byValue || n.field.isNewer(n.seen) {
				watcher := w.watcher
				chunk = append(chunk, woken{watcher, s.takeOut(w)})
			} else {
				next.list.remove(n)
				n.field.watch(n)
			}
		}
		done := len(s.wakes) == 0
		if done {
			s.wakes, s.waking = nil, false
		}
		s.mu.Unlock()
		for i := range chunk {
			chunk[i].watcher.Wake(chunk[i].result)
			chunk[i] = woken{}
		}
		if done {
			return
		}
		chunk = chunk[:0]
	}
}

// isNewer reports whether the value of f is newer than what was seen: greater,
// when both are decimal numbers, and different otherwise.
func (f *field) isNewer(seen *seenValue) bool {
	v := f.value()
	if v == nil {
		return false
	}
	if !seen.Given {
		return true
	}
	if seen.isNumber {
		if number, ok := f.number(); ok {
			return number.compare(seen.number) > 0
		}
	}
	return v.Data != seen.Value
}

// gathering makes a result of what some fields hold at one moment. A field is
// nil when the store does not know it; only then its name is needed.
type gathering struct {
	store  *Store
	names  []string
	fields []*field
}

func (g *gathering) name(i int) string {
	if f := g.fields[i]; f != nil {
		return f.name
	}
	return g.names[i]
}

// floor returns the position below which a cursor has a gap in field i.
func (g *gathering) floor(i int) Position {
	if f := g.fields[i]; f != nil {
		return f.floor
	}
	return g.store.forgotten
}

// after returns all messages after p.
func (g *gathering) after(p Position) Result {
	var missed []int
	for i := range g.fields {
		if p < g.floor(i) {
			missed = append(missed, i)
		}
	}
	var room [8][]*Message
	return g.result(g.runs(room[:0], p), missed)
}

// lost returns the latest message of each field, all of them missed.
func (g *gathering) lost() Result {
	var (
		missed = make([]int, 0, len(g.fields))
		runs   = make([][]*Message, 0, len(g.fields))
	)
	for i, f := range g.fields {
		missed = append(missed, i)
		if f != nil && f.value() != nil {
			runs = append(runs, f.messages[len(f.messages)-1:])
		}
	}
	return g.result(runs, missed)
}

// last returns the last n messages.
func (g *gathering) last(n int) Result {
	// the lowest position after which there are not more than n
	p := sort.Search(int(g.store.position), func(p int) bool {
		count := 0
		for _, f := range g.fields {
			if f != nil {
				count += len(f.after(Position(p)))
			}
		}
		return count <= n
	})
	var room [8][]*Message
	return g.result(g.runs(room[:0], Position(p)), nil)
}

// runs appends the kept messages after p, a run for each field that has any.
func (g *gathering) runs(runs [][]*Message, p Position) [][]*Message {
	for _, f := range g.fields {
		if f == nil {
			continue
		}
		if run := f.after(p); len(run) > 0 {
			runs = append(runs, run)
		}
	}
	return runs
}

// newer returns the latest message of each field that is newer than what was
// seen of it.
func (g *gathering) newer(seen []*seenValue) Result {
	var (
		room [8][]*Message
		runs = room[:0]
	)
	for i, f := range g.fields {
		if f == nil {
			continue
		}
		if f.isNewer(seen[i]) {
			runs = append(runs, f.messages[len(f.messages)-1:])
		}
	}
	return g.result(runs, nil)
}

// result merges the runs by position, as far as MaxResult allows.
//
// The cursor is that of the last message, but not before what is told of the
// fields otherwise: a gap, or a value that is not newer. When there is more than
// fits, a gap that the cursor does not pass yet is told with what follows.
func (g *gathering) result(runs [][]*Message, missed []int) Result {
	s := g.store
	result := Result{Cursor: s.cursor(s.position)}
	if len(runs) == 0 {
		for _, i := range missed {
			result.Missed = append(result.Missed, g.name(i))
		}
		return result
	}
	result.Messages = make([]*Message, 0, min(len(runs[0]), 16))
	for size := 0; len(runs) > 0; {
		i := lowest(runs)
		m := runs[i][0]
		size += len(m.Data) + len(m.Field) + resultOverhead
		if size > MaxResult && len(result.Messages) > 0 {
			break
		}
		result.Messages = append(result.Messages, m)
		runs = dropFirst(runs, i)
	}
	p := result.Messages[len(result.Messages)-1].Position
	if len(runs) == 0 {
		for i, f := range g.fields {
			p = max(p, g.floor(i))
			if f != nil {
				p = max(p, f.end())
			}
		}
	}
	for _, i := range missed {
		if g.floor(i) <= p {
			result.Missed = append(result.Missed, g.name(i))
		}
	}
	result.Cursor.Position = p
	return result
}

// lowest returns which of the runs begins with the lowest position.
func lowest(runs [][]*Message) int {
	best := 0
	for i := 1; i < len(runs); i++ {
		if runs[i][0].Position < runs[best][0].Position {
			best = i
		}
	}
	return best
}

// dropFirst takes the first message of run i away, and the run when it was its
// last.
func dropFirst(runs [][]*Message, i int) [][]*Message {
	runs[i] = runs[i][1:]
	if len(runs[i]) > 0 {
		return runs
	}
	runs[i] = runs[len(runs)-1]
	return runs[:len(runs)-1]
}
