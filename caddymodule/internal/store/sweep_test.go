package store

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestALargeSweepIsDoneInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		limits.HistoryAge, limits.FieldIdle = time.Minute, time.Hour
		s := New(limits)
		defer s.Close()
		for i := range 3*sweepChunk + 1 {
			name := strconv.Itoa(i)
			publish(t, s, name, "1", name, "2")
		}
		time.Sleep(time.Minute + time.Second)
		s.mu.Lock()
		if len(s.expiring) != 0 || s.history != 0 {
			t.Errorf("%d fields keep old messages, of %d bytes", len(s.expiring), s.history)
		}
		s.mu.Unlock()
		time.Sleep(time.Hour)
		s.mu.Lock()
		if len(s.fields) != 0 || s.memory != 0 {
			t.Errorf("%d idle fields, %d bytes", len(s.fields), s.memory)
		}
		s.mu.Unlock()
	})
}
