//go:build linux

package park

import (
	"math"
	"math/bits"
	"sync"
	"time"
)

// wheel is a hierarchical timing wheel: the time limits of all connections, with
// one runtime timer between them. To set or stop one takes constant time and
// allocates nothing, and nothing ticks while nothing is due.
//
// Level 0 has a slot for each of the next 64 ticks, level 1 one for each of the
// next 64 times 64 ticks, and so on. A slot of a higher level is dealt out to the
// lower ones when its time begins, so that what is due is never early, and late
// by a tick at most.
type wheel struct {
	fire func(*Conn) // called for what is due, without any lock held

	mu    sync.Mutex
	start time.Time // when tick 0 was
	now   int64     // the tick up to which all that was due was fired
	slots [wheelLevels][wheelSlots]*Conn
	used  [wheelLevels]uint64 // which slots are not empty
	timer *time.Timer
	wake  int64 // the tick for which timer is set; never: it is not
}

const (
	wheelTick   = 16 * time.Millisecond
	wheelBits   = 6
	wheelSlots  = 1 << wheelBits
	wheelLevels = 4 // 16 ms, 1 s, 65 s, 70 min a slot

	never = math.MaxInt64
)

// limit is the place of a connection on the wheel. Guarded by wheel.mu.
type limit struct {
	next, prev *Conn
	due        int64 // a tick; 0: not on the wheel
	level      uint8
	slot       uint8
}

func newWheel(fire func(*Conn)) *wheel {
	w := &wheel{fire: fire, start: time.Now(), wake: never}
	w.timer = time.AfterFunc(time.Hour, w.run)
	w.timer.Stop()
	return w
}

// set has c fire after d, instead of when it was set to before.
func (w *wheel) set(c *Conn, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.takeOut(c)
	elapsed := time.Since(w.start)
	if w.used == [wheelLevels]uint64{} {
		w.now = max(w.now, int64(elapsed/wheelTick)) // nobody turned it meanwhile
	}
	due := int64((elapsed + d + wheelTick - 1) / wheelTick)
	w.put(c, max(due, w.now+1))
	if next := w.next(); next < w.wake {
		w.arm(next)
	}
}

// stop has c not fire.
func (w *wheel) stop(c *Conn) {
	w.mu.Lock()
	w.takeOut(c)
	w.mu.Unlock()
}

// isDue reports whether the time limit of c is over: it may have been set anew
// since it was found to be.
func (w *wheel) isDue(c *Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.limit.due != 0 && c.limit.due <= w.now
}

func (w *wheel) arm(tick int64) {
	w.wake = tick
	w.timer.Reset(time.Until(w.start.Add(time.Duration(tick) * wheelTick)))
}

// put puts c, which is not on the wheel, into the slot of a tick that is to come.
func (w *wheel) put(c *Conn, due int64) {
	l := &c.limit
	l.due = due
	level := 0
	for delta := due - w.now; delta >= wheelSlots && level < wheelLevels-1; delta >>= wheelBits {
		level++
	}
	at := due >> (wheelBits * level)
	if last := w.now>>(wheelBits*level) + wheelSlots - 1; at > last {
		at = last // beyond the wheel: it is dealt out again from there
	}
	slot := at & (wheelSlots - 1)
	l.level, l.slot = uint8(level), uint8(slot)
	first := &w.slots[level][slot]
	l.prev, l.next = nil, *first
	if *first != nil {
		(*first).limit.prev = c
	}
	*first = c
	w.used[level] |= 1 << slot
}

func (w *wheel) takeOut(c *Conn) {
	l := &c.limit
	if l.due == 0 {
		return
	}
	if l.prev != nil {
		l.prev.limit.next = l.next
	} else if first := &w.slots[l.level][l.slot]; *first == c {
		*first = l.next
		if l.next == nil {
			w.used[l.level] &^= 1 << l.slot
		}
	}
	if l.next != nil {
		l.next.limit.prev = l.prev
	}
	*l = limit{}
}

// next returns the next tick at which there is something to do.
func (w *wheel) next() int64 {
	next := int64(never)
	for level := range wheelLevels {
		if w.used[level] == 0 {
			continue
		}
		base := w.now >> (wheelBits * level)
		ahead := bits.TrailingZeros64(bits.RotateLeft64(w.used[level], -int((base+1)&(wheelSlots-1))))
		next = min(next, (base+1+int64(ahead))<<(wheelBits*level))
	}
	return next
}

// run fires what is due, and arms the timer for what follows.
func (w *wheel) run() {
	var due []*Conn
	w.mu.Lock()
	w.wake = never
	for until := int64(time.Since(w.start) / wheelTick); ; {
		next := w.next()
		if next > until {
			// Also when there is nothing at all: what is set next counts from here.
			w.now = max(w.now, until)
			if next != never {
				w.arm(next)
			}
			break
		}
		w.now = next
		due = w.turn(due)
	}
	w.mu.Unlock()
	for _, c := range due {
		w.fire(c)
	}
}

// turn empties the slots of the tick that has begun. What is due stays marked as
// such until it is set or stopped.
func (w *wheel) turn(due []*Conn) []*Conn {
	for level := wheelLevels - 1; level >= 0; level-- {
		if w.now&(1<<(wheelBits*level)-1) != 0 {
			continue // the slot of this level goes on
		}
		slot := (w.now >> (wheelBits * level)) & (wheelSlots - 1)
		c := w.slots[level][slot]
		w.slots[level][slot] = nil
		w.used[level] &^= 1 << slot
		for c != nil {
			next := c.limit.next
			at := c.limit.due
			c.limit = limit{}
			if at > w.now {
				w.put(c, at)
			} else {
				c.limit.due = at
				due = append(due, c)
			}
			c = next
		}
	}
	return due
}
