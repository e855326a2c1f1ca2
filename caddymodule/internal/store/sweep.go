package store

import "time"

// Nothing in the store ticks. What goes by age is left out when it is asked
// for, whether or not it is still there, and is taken out of memory by one timer
// that is set only while there is something to take, for when the first of it
// goes. It is not set more often than every sweepEvery.
const sweepEvery = time.Second

// arm sets the timer when there is something to wait for that it is not yet set
// for.
func (s *Store) arm(now time.Time) {
	next, ok := s.nextExpiry()
	if !ok || s.closed || (s.sweeper != nil && !next.Before(s.sweepAt)) {
		return
	}
	s.disarm()
	wait := next.Sub(now)
	if wait > 0 { // else it is the rest of a sweep
		wait = max(wait, sweepEvery)
	}
	s.sweepAt = now.Add(wait)
	s.sweeper = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			s.sweep(time.Now())
		}
	})
}

// nextExpiry returns when the first message or field goes by age.
func (s *Store) nextExpiry() (next time.Time, ok bool) {
	if len(s.expiring) > 0 {
		next, ok = s.expiring[0].kept()[0].Time.Add(s.limits.HistoryAge), true
	}
	if f := s.idle.first; f != nil {
		if at := f.active.Add(s.limits.FieldIdle); !ok || at.Before(next) {
			next, ok = at, true
		}
	}
	return next, ok
}

// sweepChunk is of how many fields the store takes what is too old while it is
// locked once.
const sweepChunk = 1000

// sweep forgets what has reached its age, and sets the timer for what is next.
func (s *Store) sweep(now time.Time) {
	s.disarm()
	room := sweepChunk
	for ; room > 0 && len(s.expiring) > 0 && s.tooOld(s.expiring[0].kept()[0], now); room-- {
		s.trim(s.expiring[0], now)
	}
	for f := s.idle.first; room > 0 && f != nil && now.Sub(f.active) >= s.limits.FieldIdle; f = s.idle.first {
		s.forget(f)
		room--
	}
	s.arm(now)
}

func (s *Store) disarm() {
	if s.sweeper != nil {
		s.sweeper.Stop()
		s.sweeper = nil
	}
}
