package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a watcher that hands on what it is woken with.
type recorder chan Result

func (r recorder) Wake(result Result) { r <- result }

func publish(t testing.TB, s *Store, pairs ...string) Cursor {
	t.Helper()
	var batch []Publication
	for i := 0; i < len(pairs); i += 2 {
		batch = append(batch, Publication{Field: pairs[i], Data: pairs[i+1]})
	}
	_, cursor, err := s.Publish(batch)
	if err != nil {
		t.Fatal(err)
	}
	return cursor
}

// told writes a result as "field=data ... !missed".
func told(r Result) string {
	var words []string
	for _, m := range r.Messages {
		words = append(words, m.Field+"="+m.Data)
	}
	for _, f := range r.Missed {
		words = append(words, "!"+f)
	}
	return strings.Join(words, " ")
}

func read(s *Store, since Since, fields ...string) Result {
	return s.Read(Query{Fields: fields, Since: since})
}

func wantTold(t *testing.T, r Result, want string) {
	t.Helper()
	if got := told(r); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func watch(t testing.TB, s *Store, since Since, fields ...string) (*Watch, recorder) {
	t.Helper()
	w := make(recorder, 1)
	watch, result, err := s.Watch(Query{Fields: fields, Since: since}, w)
	if err != nil {
		t.Fatal(err)
	}
	if watch == nil {
		t.Fatalf("the watch was not kept: there was %q", told(result))
	}
	return watch, w
}

func TestCursorGoesOnWithoutLossOrRepeat(t *testing.T) {
	s := New(DefaultLimits())
	start := s.Cursor()
	publish(t, s, "a", "1", "b", "2", "a", "3")
	r := read(s, SinceCursor(start), "a", "b")
	wantTold(t, r, "a=1 b=2 a=3")
	wantTold(t, read(s, SinceCursor(r.Cursor), "a", "b"), "")
	publish(t, s, "b", "4")
	wantTold(t, read(s, SinceCursor(r.Cursor), "a", "b"), "b=4")
	wantTold(t, read(s, SinceCursor(r.Cursor), "a"), "")
	wantTold(t, read(s, SinceFirst(), "b"), "b=2 b=4")
	wantTold(t, read(s, SinceLast(2), "a", "b"), "a=3 b=4")
	wantTold(t, read(s, SinceLast(0), "a", "b"), "")
	wantTold(t, read(s, SinceNow(), "a", "b"), "")
}

func TestValuesAreComparedAsTheContractSays(t *testing.T) {
	s := New(DefaultLimits())
	publish(t, s, "n", "10", "w", "blue", "x", "1")
	given := func(v string) Seen { return Seen{v, true} }
	for _, test := range []struct {
		n, w Seen
		want string
	}{
		{given("9"), given("blue"), "n=10"},
		{given("10"), given("blue"), ""},
		{given("10.0"), given("red"), "w=blue"},
		{given("11"), given("blue"), ""},
		{given("ten"), given("blue"), "n=10"},
		{Seen{}, Seen{}, "n=10 w=blue"},
	} {
		r := read(s, SinceValues([]Seen{test.n, test.w}), "n", "w")
		wantTold(t, r, test.want)
	}
	r := read(s, SinceValues([]Seen{given("9"), given("blue")}), "n", "w")
	wantTold(t, read(s, SinceCursor(r.Cursor), "n", "w"), "") // w is not given after all
	wantTold(t, read(s, SinceValues([]Seen{{}}), "unknown"), "")
}

func TestEveryCursorThatCannotBeServedIsToldOfItsGap(t *testing.T) {
	limits := DefaultLimits()
	limits.History = 2
	s := New(limits)
	start := s.Cursor()
	publish(t, s, "a", "1", "a", "2", "a", "3", "b", "x")
	wantTold(t, read(s, SinceCursor(start), "a", "b"), "a=2 a=3 b=x !a")
	wantTold(t, read(s, SinceCursor(Cursor{s.epoch, 1}), "a"), "a=2 a=3")
	for name, since := range map[string]Since{
		"unreadable":      SinceLost(),
		"another epoch":   SinceCursor(Cursor{"other", 2}),
		"from the future": SinceCursor(Cursor{s.epoch, 99}),
	} {
		t.Run(name, func(t *testing.T) {
			r := read(s, since, "a", "b", "never")
			wantTold(t, r, "a=3 b=x !a !b !never")
			wantTold(t, read(s, SinceCursor(r.Cursor), "a", "b", "never"), "")
			if r.NewEpoch != (name == "another epoch") {
				t.Errorf("NewEpoch is %v", r.NewEpoch)
			}
		})
	}
}

func TestDeletionIsAGapForCursorsAndEndsWatches(t *testing.T) {
	s := New(DefaultLimits())
	c := publish(t, s, "a", "1", "b", "1")
	byCursor, told1 := watch(t, s, SinceCursor(c), "a", "b")
	_, told2 := watch(t, s, SinceValues([]Seen{{"1", true}}), "a")
	states, _ := s.Delete([]string{"a", "never"})
	if states[0].Watchers != 2 || states[1].Watchers != 0 {
		t.Errorf("states are %+v", states)
	}
	r := <-told1
	wantTold(t, r, "!a")
	wantTold(t, <-told2, "")
	if _, ok := byCursor.End(); ok {
		t.Error("a woken watch was ended")
	}
	wantTold(t, read(s, SinceCursor(r.Cursor), "a", "b"), "")
	wantTold(t, read(s, SinceCursor(c), "a", "b"), "!a")
	publish(t, s, "a", "2")
	wantTold(t, read(s, SinceCursor(r.Cursor), "a", "b"), "a=2")
	wantTold(t, read(s, SinceCursor(c), "a"), "a=2 !a")
}

func TestWatchersAreWokenOnceAndForgotten(t *testing.T) {
	s := New(DefaultLimits())
	w, woken := watch(t, s, SinceNow(), "a", "b", "c")
	publish(t, s, "b", "1", "c", "2")
	wantTold(t, <-woken, "b=1 c=2")
	if _, ok := w.End(); ok {
		t.Error("a woken watch was ended")
	}
	publish(t, s, "a", "3")
	select {
	case r := <-woken:
		t.Errorf("woken again with %q", told(r))
	default:
	}
	if f := s.fields["a"]; f.watchers != 0 || f.watching != nil {
		t.Error("the field keeps a watcher that is gone")
	}
}

func TestWatchersByValueAreOnlyWokenByNewerValues(t *testing.T) {
	s := New(DefaultLimits())
	publish(t, s, "id", "5")
	_, woken := watch(t, s, SinceValues([]Seen{{"7", true}}), "id")
	for _, v := range []string{"6", "7", "7.0", "-8"} {
		publish(t, s, "id", v)
	}
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.waking })
	select {
	case r := <-woken:
		t.Fatalf("woken with %q", told(r))
	default:
	}
	publish(t, s, "id", "8")
	wantTold(t, <-woken, "id=8")
}

func TestManyWatchersWithNothingNewerKeepNobodyFromBeingWoken(t *testing.T) {
	s := New(DefaultLimits())
	publish(t, s, "id", "1")
	for range 5 * wakeChunk {
		watch(t, s, SinceValues([]Seen{{"99", true}}), "id")
	}
	_, woken := watch(t, s, SinceValues([]Seen{{"2", true}}), "id")
	_, other := watch(t, s, SinceNow(), "other")
	for _, v := range []string{"2", "1", "3"} {
		publish(t, s, "id", v)
	}
	wantTold(t, <-woken, "id=3")
	publish(t, s, "other", "x")
	wantTold(t, <-other, "other=x")
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.waking })
}

func TestDeletionEndsWatchesThatAreJustBeingLookedAt(t *testing.T) {
	s := New(DefaultLimits())
	publish(t, s, "id", "5")
	var ended []recorder
	for range 5 * wakeChunk {
		_, w := watch(t, s, SinceValues([]Seen{{"9", true}}), "id")
		ended = append(ended, w)
	}
	publish(t, s, "id", "6")
	s.Delete([]string{"id"})
	for _, w := range ended {
		wantTold(t, <-w, "")
	}
}

func TestAGapIsToldOnceThoughItsMessagesComeInParts(t *testing.T) {
	limits := DefaultLimits()
	limits.History = 3
	s := New(limits)
	c := s.Cursor()
	big := strings.Repeat("x", 400<<10)
	for range 5 {
		publish(t, s, "b", big, "a", big)
	}
	missed := map[string]int{}
	var messages int
	for range 10 {
		r := read(s, SinceCursor(c), "a", "b")
		for _, f := range r.Missed {
			missed[f]++
		}
		messages += len(r.Messages)
		c = r.Cursor
	}
	if missed["a"] != 1 || missed["b"] != 1 || messages != 6 {
		t.Errorf("missed %v, %d messages", missed, messages)
	}
}

func TestAWatchThatEndsLeavesNothingBehind(t *testing.T) {
	s := New(DefaultLimits())
	publish(t, s, "known", "1")
	w, _ := watch(t, s, SinceNow(), "known", "unknown")
	if s.idle.len != 0 || s.watchedOnly == 0 {
		t.Error("the watched fields count as idle, or as published")
	}
	r, ok := w.End()
	if !ok || r.Ready() {
		t.Errorf("ended: %v, told %q", ok, told(r))
	}
	if len(s.fields) != 1 || s.idle.len != 1 || s.watchedOnly != 0 {
		t.Errorf("%d fields, %d idle, %d bytes watched only", len(s.fields), s.idle.len, s.watchedOnly)
	}
}

func TestAWatchOfNothingIsNeverWoken(t *testing.T) {
	s := New(DefaultLimits())
	w, told := watch(t, s, SinceCursor(publish(t, s, "a", "1")))
	publish(t, s, "a", "2")
	if len(told) != 0 || len(w.Fields()) != 0 {
		t.Errorf("it watches %v", w.Fields())
	}
	if r, ok := w.End(); !ok || r.Ready() {
		t.Errorf("ended: %v, %+v", ok, r)
	}
}

func TestFieldsThatAreOnlyWatchedAreBoundedAndTakeNothingFromPublishers(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxFields, limits.MaxMemory = 2, 10*nameSize("w00")
	s := New(limits)
	var watches []*Watch
	for i := range 10 {
		w, _ := watch(t, s, SinceNow(), fmt.Sprintf("w%02d", i))
		watches = append(watches, w)
	}
	if w, _, err := s.Watch(Query{Fields: []string{"w10"}, Since: SinceNow()}, make(recorder, 1)); err != ErrFull {
		t.Errorf("one too many: %v, %v", w, err)
	}
	if _, _, err := s.Watch(Query{Fields: []string{"w00"}, Since: SinceNow()}, make(recorder, 1)); err != nil {
		t.Errorf("another watcher of a field that is there: %v", err)
	}
	publish(t, s, "a", "1", "b", "1")
	watches[3].End()
	if w, _ := watch(t, s, SinceNow(), "w10"); w == nil {
		t.Error("the place of one that left is not free")
	}
	checkBooks(t, s)
}

func TestMessagesAndFieldsGoByAgeWithTheirGapTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		limits.HistoryAge, limits.FieldIdle = time.Minute, time.Hour
		s := New(limits)
		defer s.Close()
		start := s.Cursor()
		publish(t, s, "a", "1")
		time.Sleep(30 * time.Second)
		second := publish(t, s, "a", "2")
		time.Sleep(29 * time.Second)
		wantTold(t, read(s, SinceCursor(start), "a"), "a=1 a=2")
		time.Sleep(time.Second)
		wantTold(t, read(s, SinceCursor(start), "a"), "a=2 !a")
		time.Sleep(50 * time.Minute)
		wantTold(t, read(s, SinceFirst(), "a"), "a=2") // the value stays
		wantTold(t, read(s, SinceCursor(Cursor{s.epoch, 1}), "a"), "a=2")

		w, _ := watch(t, s, SinceCursor(second), "a")
		time.Sleep(2 * time.Hour) // watched: not idle
		wantTold(t, read(s, SinceFirst(), "a"), "a=2")
		if _, ok := w.End(); !ok {
			t.Fatal("the watch was gone")
		}
		time.Sleep(61 * time.Minute)
		s.mu.Lock()
		if len(s.fields) != 0 || s.memory != 0 || s.history != 0 || s.idle.bytes != 0 || s.sweeper != nil {
			t.Errorf("%d fields, %d bytes, timer %v", len(s.fields), s.memory, s.sweeper)
		}
		s.mu.Unlock()
		wantTold(t, read(s, SinceCursor(Cursor{s.epoch, 1}), "a"), "!a")
		wantTold(t, read(s, SinceCursor(second), "a"), "")
	})
}

func TestAFullStoreForgetsTheLongestIdleFieldsAndKeepsTheWatched(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxFields = 3
	s := New(limits)
	start := s.Cursor()
	publish(t, s, "a", "1", "b", "1", "c", "1")
	publish(t, s, "a", "2")
	w, _ := watch(t, s, SinceNow(), "b")
	publish(t, s, "d", "1") // c is the longest idle
	wantTold(t, read(s, SinceFirst(), "a", "b", "c", "d"), "a=1 b=1 a=2 d=1")
	wantTold(t, read(s, SinceCursor(start), "c"), "!c")
	watchD, _ := watch(t, s, SinceNow(), "d")
	watchA, _ := watch(t, s, SinceNow(), "a")
	_, _, err := s.Publish([]Publication{{Field: "a", Data: "3"}, {Field: "e", Data: "1"}})
	if err != ErrFull {
		t.Errorf("the error is %v", err)
	}
	wantTold(t, read(s, SinceLast(1), "a"), "a=2") // nothing of the batch
	for _, w := range []*Watch{w, watchD, watchA} {
		w.End()
	}
	if _, _, err := s.Publish([]Publication{{Field: "p"}, {Field: "q"}, {Field: "r"}, {Field: "s"}}); err != ErrFull {
		t.Errorf("four fields in a store for three: %v", err)
	}
	publish(t, s, "p", "", "q", "", "r", "")
	if s.published != 3 {
		t.Errorf("%d fields", s.published)
	}
}

func TestMemoryIsBoundedAndItsGapsAreTold(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxMemory = 1 << 20
	s := New(limits)
	start := s.Cursor()
	big := strings.Repeat("x", 100<<10)
	for range 50 {
		publish(t, s, "a", big, "b", "small")
		if s.memory > limits.MaxMemory {
			t.Fatalf("%d bytes", s.memory)
		}
	}
	r := read(s, SinceCursor(start), "a")
	if len(r.Missed) != 1 || len(r.Messages) < 5 {
		t.Errorf("%d messages, missed %q", len(r.Messages), r.Missed)
	}
	for i := range 30 { // values alone: fields go
		publish(t, s, fmt.Sprint("f", i), big)
	}
	if s.memory > limits.MaxMemory || s.published > 11 {
		t.Errorf("%d bytes in %d fields", s.memory, s.published)
	}
	if _, _, err := s.Publish([]Publication{{Field: "huge", Data: strings.Repeat("x", 2<<20)}}); err != ErrFull {
		t.Errorf("the error is %v", err)
	}
}

func TestAResultIsBoundedAndGoesOnFromItsCursor(t *testing.T) {
	s := New(DefaultLimits())
	c := s.Cursor()
	var want []string
	for i := range 40 {
		field := fmt.Sprint("f", i%3)
		data := fmt.Sprint(i, strings.Repeat("x", 100<<10))
		publish(t, s, field, data)
		want = append(want, data)
	}
	var got []string
	for range 100 {
		r := read(s, SinceCursor(c), "f0", "f1", "f2")
		if len(r.Messages) == 0 {
			break
		}
		size := 0
		for _, m := range r.Messages {
			size += len(m.Data)
			got = append(got, m.Data)
		}
		if size > MaxResult {
			t.Errorf("%d bytes in one result", size)
		}
		if last := r.Messages[len(r.Messages)-1]; r.Cursor.Position != last.Position {
			t.Errorf("the cursor is at %d, the last message at %d", r.Cursor.Position, last.Position)
		}
		c = r.Cursor
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d messages, want %d, in order", len(got), len(want))
	}
}

func TestBumpCountsOnFromAnyNumber(t *testing.T) {
	s := New(DefaultLimits())
	bump := func() error {
		_, _, err := s.Publish([]Publication{{Field: "n", Bump: true}})
		return err
	}
	for _, want := range []string{"1", "2"} {
		if err := bump(); err != nil {
			t.Fatal(err)
		}
		wantTold(t, read(s, SinceLast(1), "n"), "n="+want)
	}
	publish(t, s, "n", "words")
	if _, ok := bump().(*BumpError); !ok {
		t.Error("words were bumped")
	}
	wantTold(t, read(s, SinceLast(1), "n"), "n=words")
}

func TestNextWholeAndNewer(t *testing.T) {
	for value, want := range map[string]string{
		"0": "1", "9": "10", "099": "100", "5.5": "6", "-1": "0", "-3": "-2", "-2.5": "-2", "-0.5": "0",
		"-10": "-9", "-100": "-99", "1.0": "2", "-1.0": "0", "-0": "1",
		"99999999999999999999999999": "100000000000000000000000000",
	} {
		if got, err := nextWhole(value); got != want || err != nil {
			t.Errorf("nextWhole(%s) = %s, %v; want %s", value, got, err, want)
		}
	}
	for _, value := range []string{"", "-", "1.", ".5", "+1", "1e3", " 1", "1 ", "0x1", "--1"} {
		if got, err := nextWhole(value); err == nil {
			t.Errorf("nextWhole(%q) = %s", value, got)
		}
	}
	for _, test := range []struct {
		value, seen string
		want        bool
	}{
		{"2", "1", true},
		{"1", "2", false},
		{"10", "9", true},
		{"1.10", "1.1", false},
		{"1.11", "1.1", true},
		{"-1", "-2", true},
		{"-2", "-1", false},
		{"0", "-0", false},
		{"0.00", "-0.0", false},
		{"1", "-1", true},
		{"100000000000000000000000000001", "100000000000000000000000000000", true},
		{"a", "b", true},
		{"b", "a", true},
		{"a", "a", false},
		{"1", "a", true},
		{"", "0", true},
	} {
		f := &field{messages: []*Message{{Data: test.value}}}
		if got := f.isNewer(newSeenValue(Seen{test.seen, true})); got != test.want {
			t.Errorf("newer(%q, %q) = %v", test.value, test.seen, got)
		}
	}
}

func TestCursorsAreReadBackAndNothingElseIs(t *testing.T) {
	c := New(DefaultLimits()).Cursor()
	c.Position = 1<<64 - 1
	if got, err := ParseCursor(c.String()); err != nil || got != c {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{
		"", ".", "a", "a.", ".1", "a.01", "a.+1", "a.-1", "a.1 ", "a.1.1", "A.1", "a b.1",
		"a.18446744073709551616", strings.Repeat("a", 33) + ".1", "é.1", "now",
	} {
		if c, err := ParseCursor(s); err == nil {
			t.Errorf("ParseCursor(%q) = %v", s, c)
		}
	}
}

// TestConcurrentPublishersAndClientsLoseNothing has clients of several fields go
// on by cursor, by watching and by reading, while others publish, watch and
// leave.
func TestConcurrentPublishersAndClientsLoseNothing(t *testing.T) {
	const publishers, each = 8, 2000
	limits := DefaultLimits()
	limits.History = publishers * each
	s := New(limits)
	var fields []string
	for i := range publishers {
		fields = append(fields, fmt.Sprint("f", i))
	}
	var wg sync.WaitGroup
	start := s.Cursor()
	for range 4 {
		wg.Go(func() {
			cursor, last, n := start, Position(0), 0
			next := make([]int, publishers)
			for n < publishers*each {
				w := make(recorder, 1)
				watch, r, err := s.Watch(Query{Fields: fields, Since: SinceCursor(cursor)}, w)
				if err != nil {
					t.Error(err)
					return
				}
				if watch != nil {
					if rand.IntN(4) == 0 {
						if ended, ok := watch.End(); ok {
							r = ended
						} else {
							r = <-w
						}
					} else {
						r = <-w
					}
				}
				for _, m := range r.Messages {
					var f, i int
					fmt.Sscanf(m.Field+" "+m.Data, "f%d %d", &f, &i)
					if m.Position <= last || i != next[f] {
						t.Errorf("field %d: message %d at %d after %d, want %d", f, i, m.Position, last, next[f])
						return
					}
					last, next[f] = m.Position, i+1
					n++
				}
				if r.Missed != nil {
					t.Errorf("missed %q", r.Missed)
					return
				}
				cursor = r.Cursor
			}
		})
	}
	for i, field := range fields {
		wg.Go(func() {
			for j := range each {
				publish(t, s, field, fmt.Sprint(j), "noise", fmt.Sprint(i))
			}
		})
	}
	wg.Wait()
	checkBooks(t, s)
}

// checkBooks recounts what the store counts as it goes.
func checkBooks(t *testing.T, s *Store) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var memory, history, watchedOnly, idleBytes int64
	published, idle, expiring, messages := 0, 0, 0, 0
	for _, f := range s.fields {
		v := f.value()
		if v == nil {
			watchedOnly += nameSize(f.name)
			if f.watchers == 0 {
				t.Errorf("field %s has neither value nor watcher", f.name)
			}
			continue
		}
		published++
		memory += nameSize(f.name)
		for _, m := range f.kept() {
			memory += m.size()
		}
		messages += len(f.kept())
		history -= v.size()
		for _, m := range f.kept() {
			history += m.size()
		}
		if len(f.kept()) > 1 {
			expiring++
		}
		if f.idle != (f.watchers == 0) {
			t.Errorf("field %s: idle %v with %d watchers", f.name, f.idle, f.watchers)
		}
		if f.idle {
			idle++
			idleBytes += nameSize(f.name) + v.size()
		}
	}
	if messages != s.messages || memory != s.memory || history != s.history || watchedOnly != s.watchedOnly || idleBytes != s.idle.bytes ||
		published != s.published || idle != s.idle.len || expiring != len(s.expiring) {
		t.Errorf("counted messages %d, kept %d", messages, s.messages)
		t.Errorf("counted memory %d history %d watched %d idle %d/%d published %d expiring %d; kept %d %d %d %d/%d %d %d",
			memory, history, watchedOnly, idle, idleBytes, published, expiring,
			s.memory, s.history, s.watchedOnly, s.idle.len, s.idle.bytes, s.published, len(s.expiring))
	}
}

// TestAgainstAModel does random things to a small store and compares what every
// cursor is told with a list of all that was ever published.
func TestAgainstAModel(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		limits := DefaultLimits()
		limits.History = 1 + rnd.IntN(4)
		limits.MaxFields = 2 + rnd.IntN(4)
		limits.MaxMemory = int64(2000 + rnd.IntN(6000))
		s := New(limits)
		type event struct {
			field, data string
			position    Position
			deleted     bool
		}
		var all []event
		names := []string{"a", "b", "c", "d", "e"}
		var watches []*Watch
		for range 150 {
			name := names[rnd.IntN(len(names))]
			switch rnd.IntN(8) {
			case 0:
				before := s.position
				s.Delete([]string{name})
				if s.position > before {
					all = append(all, event{field: name, position: s.position, deleted: true})
				}
			case 1:
				if w, _, _ := s.Watch(Query{Fields: []string{name, "w" + name}, Since: SinceNow()}, make(recorder, 1)); w != nil {
					watches = append(watches, w)
				}
			case 2:
				if len(watches) > 0 {
					watches[0].End()
					watches = watches[1:]
				}
			default:
				var batch []Publication
				for range 1 + rnd.IntN(2) {
					batch = append(batch, Publication{Field: names[rnd.IntN(len(names))], Data: strings.Repeat("x", rnd.IntN(300)) + fmt.Sprint(len(all), len(batch))})
				}
				states, _, err := s.Publish(batch)
				if err == nil {
					for _, st := range states {
						all = append(all, event{field: st.Field, data: st.Value.Data, position: st.Value.Position})
					}
				}
			}
			fields := []string{names[rnd.IntN(3)], names[3+rnd.IntN(2)]}
			after := Position(rnd.IntN(int(s.position) + 1))
			r := read(s, SinceCursor(Cursor{s.epoch, after}), fields...)
			gap := make(map[string]bool)
			for _, f := range r.Missed {
				gap[f] = true
			}
			have := make(map[Position]string)
			for i, m := range r.Messages {
				have[m.Position] = m.Data
				if i > 0 && m.Position <= r.Messages[i-1].Position {
					t.Fatalf("seed %d: out of order", seed)
				}
			}
			for _, e := range all {
				if e.position <= after || !slices.Contains(fields, e.field) || gap[e.field] {
					continue
				}
				if e.deleted {
					t.Fatalf("seed %d: the deletion of %s at %d was hidden from %d", seed, e.field, e.position, after)
				}
				if have[e.position] != e.data {
					t.Fatalf("seed %d: %s at %d was hidden from %d", seed, e.field, e.position, after)
				}
			}
			if s.published > limits.MaxFields || s.memory > limits.MaxMemory {
				t.Fatalf("seed %d: %d fields, %d bytes", seed, s.published, s.memory)
			}
		}
		eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.waking })
		checkBooks(t, s)
		s.Close()
	}
}

func eventually(t testing.TB, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
	}
}
