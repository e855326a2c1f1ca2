//go:build linux

package park

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// timed is a wheel whose firing is checked: everything that is set on it is to
// fire once, not early, and late by a tick at most.
type timed struct {
	*wheel
	t      *testing.T
	began  time.Time
	onFire func(*Conn) // called with mu held

	mu    sync.Mutex // guards what follows
	due   map[*Conn]time.Time
	fired int
}

func newTimed(t *testing.T) *timed {
	w := &timed{t: t, due: make(map[*Conn]time.Time), began: time.Now()}
	w.wheel = newWheel(func(c *Conn) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.isDue(c) {
			return // it was set anew or stopped by another that fired
		}
		w.fired++
		due, ok := w.due[c]
		if !ok {
			t.Errorf("at %v one fired that was not set", time.Since(w.began))
		} else if late := time.Since(due); late < 0 || late > wheelTick {
			t.Errorf("at %v one fired %v late", time.Since(w.began), late)
		}
		delete(w.due, c)
		if w.onFire != nil {
			w.onFire(c)
		}
	})
	return w
}

func (w *timed) set(c *Conn, d time.Duration) {
	w.mu.Lock()
	w.setLocked(c, d)
	w.mu.Unlock()
	synctest.Wait() // for those that are overdue for the wheel
}

func (w *timed) setLocked(c *Conn, d time.Duration) {
	w.due[c] = time.Now().Add(d)
	w.wheel.set(c, d)
	if d > 0 && w.isDue(c) {
		w.t.Errorf("what was set to %v is due at once", d)
	}
}

func (w *timed) stop(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopLocked(c)
}

func (w *timed) stopLocked(c *Conn) {
	delete(w.due, c)
	w.wheel.stop(c)
	if w.isDue(c) {
		w.t.Error("what was stopped is due")
	}
}

// sleep lets time pass, and checks that everything fired whose time it was.
func (w *timed) sleep(d time.Duration) {
	w.t.Helper()
	w.check()
	time.Sleep(d)
	synctest.Wait()
	w.check()
}

func (w *timed) check() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, due := range w.due {
		if late := time.Since(due); late > wheelTick {
			w.t.Fatalf("at %v one did not fire for %v", time.Since(w.began), late)
		}
	}
}

// wantFired checks how many have fired, and that no others are to fire.
func (w *timed) wantFired(n int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fired != n || len(w.due) > 0 {
		w.t.Errorf("%d fired instead of %d, and %d are still to fire", w.fired, n, len(w.due))
	}
}

// wantDisarmed checks that no timer is left that would wake anybody.
func (w *timed) wantDisarmed() {
	w.t.Helper()
	if w.used != [wheelLevels]uint64{} || w.wake != never || w.timer.Stop() {
		w.t.Errorf("the empty wheel is armed for tick %d, its slots are %x", w.wake, w.used)
	}
}

// anyTimeout returns one of up to 80 h, short ones as often as long ones, and
// often one at the border of a slot.
func anyTimeout(dice *rand.Rand) time.Duration {
	d := min(time.Duration(1)<<dice.IntN(49), 80*time.Hour)
	d = time.Duration(dice.Int64N(int64(d)))
	if dice.IntN(4) == 0 {
		border := wheelTick << (wheelBits * dice.IntN(wheelLevels))
		d = max(0, d.Round(border)+time.Duration(dice.IntN(3)-1)*wheelTick+time.Duration(dice.IntN(3)-1))
	}
	return d
}

func TestEveryLimitFiresOnceNeverEarlyAndAtMostATickLate(t *testing.T) {
	dice := dice(t)
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		time.Sleep(time.Duration(dice.Int64N(int64(100 * time.Hour))))
		const n = 3000
		for i := range n {
			w.set(&Conn{}, anyTimeout(dice))
			if i%100 == 0 {
				w.sleep(time.Duration(dice.IntN(int(time.Second))))
			}
		}
		w.sleep(81 * time.Hour)
		w.wantFired(n)
		w.wantDisarmed()
	})
}

func TestTheBordersOfAllSlotsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		for begin := range 3 {
			for level := range wheelLevels {
				slot := wheelTick << (wheelBits * level)
				for _, slots := range []int{1, 2, wheelSlots - 1, wheelSlots, wheelSlots + 1} {
					for _, more := range []time.Duration{-wheelTick, -1, 0, 1, wheelTick} {
						w.set(&Conn{}, time.Duration(slots)*slot+more)
					}
				}
			}
			w.sleep(time.Duration(begin)*time.Hour + 63*wheelTick + 1)
		}
		w.sleep(wheelTick << (wheelBits * wheelLevels) * 2)
		w.wantDisarmed()
		w.wantFired(3 * wheelLevels * 5 * 5)
	})
}

// What is set, stopped and set anew at random fires as a list of the same would.
func TestTheWheelFiresWhatAListWould(t *testing.T) {
	dice := dice(t)
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		conns := make([]Conn, 60)
		w.onFire = func(c *Conn) {
			switch dice.IntN(5) {
			case 0:
				w.setLocked(c, anyTimeout(dice))
			case 1:
				w.setLocked(&conns[dice.IntN(len(conns))], anyTimeout(dice)/1000)
			case 2:
				w.stopLocked(&conns[dice.IntN(len(conns))])
			}
		}
		for range 20000 {
			c := &conns[dice.IntN(len(conns))]
			switch dice.IntN(8) {
			case 0, 1, 2, 3:
				w.set(c, anyTimeout(dice))
			case 4:
				w.stop(c)
			case 5:
				w.sleep(time.Duration(dice.IntN(int(3 * wheelTick))))
			case 6:
				w.sleep(anyTimeout(dice) / time.Duration(1+dice.IntN(1000)))
			case 7: // to the very moment in which something is due
				w.sleep(w.untilFirst() + time.Duration(dice.IntN(2))*wheelTick)
			}
			if t.Failed() {
				return
			}
		}
		w.onFire = nil
		w.sleep(81 * time.Hour)
		w.wantFired(w.fired)
		w.sleep(81 * time.Hour)
		w.wantDisarmed()
	})
}

// untilFirst returns for how long the first limit goes on.
func (w *timed) untilFirst() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.SortedFunc(maps.Values(w.due), time.Time.Compare)
	if len(all) == 0 {
		return 0
	}
	return max(0, time.Until(all[0]))
}

func TestALimitSetAnewFiresAtItsNewTimeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		var c Conn
		for _, d := range []time.Duration{time.Second, time.Hour, time.Millisecond, 50 * time.Hour, 2 * time.Second} {
			w.set(&c, d)
		}
		w.sleep(60 * time.Hour)
		w.wantFired(1) // at its time, else there were an error already
	})
}

func TestAStoppedLimitDoesNotFireAndLeavesNothingArmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		var a, b, c Conn
		w.stop(&c)
		w.set(&a, time.Second)
		w.set(&b, time.Second)
		w.stop(&a)
		w.stop(&a)
		w.sleep(2 * time.Second)
		w.wantFired(1)
		w.wantDisarmed()
		w.stop(&b) // it has fired
		w.set(&b, time.Minute)
		w.stop(&b)
		w.sleep(time.Hour)
		w.wantDisarmed()
		w.wantFired(1)
	})
}

func TestALimitMaySetItselfAnewWhenItFires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		var c Conn
		w.onFire = func(c *Conn) {
			if w.fired < 10 {
				w.setLocked(c, time.Duration(w.fired-1)*10*time.Millisecond)
			}
		}
		w.set(&c, time.Second)
		w.sleep(2 * time.Second)
		w.wantFired(10)
	})
}

func TestVeryManyLimitsOnOneSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		conns := make([]Conn, 20000)
		for i := range conns {
			w.set(&conns[i], 55*time.Second)
		}
		stopped := 0
		for _, i := range rand.Perm(len(conns)) {
			switch i % 4 {
			case 0:
				w.stop(&conns[i])
				stopped++
			case 1:
				w.set(&conns[i], 55*time.Second)
			}
		}
		w.sleep(time.Minute)
		w.wantFired(len(conns) - stopped)
		w.wantDisarmed()
	})
}

func TestALimitSetAfterALongTimeIsKept(t *testing.T) {
	for name, far := range map[string]bool{"on an empty wheel": false, "before one that is far": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTimed(t)
				want := 0
				if far {
					w.set(&Conn{}, 80*time.Hour)
					want++
				}
				for _, pause := range []time.Duration{time.Second, time.Minute, 90 * time.Minute, 70 * time.Hour, 1000 * time.Hour} {
					w.sleep(pause + time.Millisecond)
					w.set(&Conn{}, 5*time.Millisecond)
					w.set(&Conn{}, 3*time.Second)
					want += 2
					w.sleep(4 * time.Second)
				}
				w.wantFired(want)
			})
		})
	}
}

func TestNothingTicksWhileNothingIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimed(t)
		runs := 0
		w.timer = time.AfterFunc(time.Hour, func() {
			runs++
			w.run()
		})
		w.timer.Stop()
		w.sleep(100 * time.Hour)
		if runs != 0 {
			t.Errorf("an empty wheel was turned %d times", runs)
		}
		w.set(&Conn{}, 80*time.Hour)
		w.sleep(100 * time.Hour)
		w.wantFired(1)
		if runs > 2*wheelLevels {
			t.Errorf("for one the wheel was turned %d times", runs)
		}
	})
}

func TestIsDueIsUndoneByWhoeverSetsOrStopsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			w             *wheel
			set, stop, as Conn
			mu            sync.Mutex
			told          = make(map[*Conn]bool)
		)
		w = newWheel(func(c *Conn) {
			mu.Lock()
			defer mu.Unlock()
			if len(told) == 0 { // before any of the others is looked at
				w.set(&set, time.Second)
				w.stop(&stop)
			}
			told[c] = w.isDue(c)
		})
		var first Conn
		for _, c := range []*Conn{&set, &stop, &as, &first} {
			w.set(c, time.Second)
			if w.isDue(c) {
				t.Error("it is due when it is set")
			}
		}
		time.Sleep(time.Second + wheelTick)
		synctest.Wait()
		mu.Lock()
		if len(told) != 4 || told[&set] || told[&stop] || !told[&as] || !told[&first] {
			t.Errorf("due are: set anew %v, stopped %v, as it was %v, the first %v", told[&set], told[&stop], told[&as], told[&first])
		}
		mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !told[&set] {
			t.Error("what was set anew is not due at its new time")
		}
	})
}
