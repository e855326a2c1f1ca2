//go:build linux

package park

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// part sends a part of an answer and waits until it is written.
func (l *link) part(g *guest, part string) {
	l.t.Helper()
	l.conn.Send([]byte(part), nil)
	receive(l.t, "Sent", g.sent)
}

// wantDropped checks that the client was dropped because it does not read, the first
// one of the lot.
func (r *rig) wantDropped(g *guest) {
	r.t.Helper()
	if err := receive(r.t, "Answered", g.answered); !errors.Is(err, ErrSlow) {
		r.t.Errorf("answered with the error %v", err)
	}
	if n := r.lot.Dropped(); n != 1 {
		r.t.Errorf("%d were dropped", n)
	}
}

func TestAnAnswerMayBeSentInParts(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		for range 2 { // also when it comes again
			g := r.park(l)
			l.part(g, "one ")
			wantRead(t, l.client, "one ")
			l.part(g, "two ")
			l.conn.Send([]byte("three "), [][]byte{[]byte("four "), []byte("five ")})
			receive(t, "Sent", g.sent)
			if !l.conn.is(waiting) || r.lot.Parked() != 1 {
				t.Fatal("it does not wait")
			}
			l.answer(g, "six", false)
			wantRead(t, l.client, "two three four five six")
			l.send("next")
			r.wantBack(l, "next")
			if n := g.answers.Load(); n != 1 {
				t.Errorf("it was told of %d answers", n)
			}
		}
	})
}

func TestAPartThatTheClientReadsSlowlyIsSentWhole(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connectTight(k)
		g := r.park(l)
		large := pattern(1 << 20)
		l.conn.Send(large[:100], [][]byte{large[100:]})
		select {
		case <-g.sent:
			t.Fatal("it is sent before it was read")
		case <-time.After(20 * time.Millisecond):
		}
		wantRead(t, l.client, string(large))
		receive(t, "Sent", g.sent)
		l.part(g, "and more")
		wantRead(t, l.client, "and more")
		l.answer(g, "", true)
		l.wantAll(nil)
	})
}

func TestAClientThatDoesNotReadItsPartIsDropped(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{Stall: 50 * time.Millisecond}, 0)
		l := r.connectTight(k)
		g := r.park(l)
		l.part(g, "one")
		l.conn.Send(pattern(1<<20), nil)
		r.wantDropped(g)
		r.wantParked(0)
	})
}

func TestAGuestIsAskedWhetherAClientMayGoOnNotToReadAPart(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{Patience: 20 * time.Millisecond}, 0)
		l := r.connectTight(k)
		g := r.park(l)
		l.part(g, "one")
		if n := g.stalls.Load(); n != 0 {
			t.Errorf("it was asked %d times of a client that reads", n)
		}
		large := pattern(1 << 20)
		l.conn.Send(large, nil)
		eventually(t, "it is asked again and again", func() bool { return g.stalls.Load() >= 3 })
		wantRead(t, l.client, "one"+string(large))
		receive(t, "Sent", g.sent)
		l.conn.Send(large, nil)
		g.impatient.Store(true)
		r.wantDropped(g)
		if n := g.answers.Load(); n != 1 {
			t.Errorf("it was told of %d answers", n)
		}
		r.wantParked(0)
	})
}

func TestNobodyIsAskedOfTheEndOfAnAnswer(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{Patience: time.Millisecond, Stall: 100 * time.Millisecond}, 0)
		l := r.connectTight(k)
		g := r.park(l)
		g.impatient.Store(true)
		l.conn.Answer(pattern(1<<20), nil, true)
		if err := receive(t, "Answered", g.answered); !errors.Is(err, ErrSlow) {
			t.Errorf("answered with the error %v", err)
		}
		if n := g.stalls.Load(); n != 0 {
			t.Errorf("it was asked %d times", n)
		}
	})
}

func TestAGuestIsToldOfAClientThatLeftWhileAPartWasWritten(t *testing.T) {
	for _, k := range []kind{plain, tls12} { // of TLS 1.3 the word that it leaves is behind what it has not read
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, Options{}, 0)
			l := r.connectTight(k)
			g := r.park(l)
			large := pattern(1 << 20)
			l.conn.Send(large, nil)
			_ = l.wire.CloseWrite()
			eventually(t, "it is noticed", func() bool { return k != plain || l.conn.locked(func() bool { return l.conn.hangup }) })
			if g.left.Load() != 0 {
				t.Error("it was told while the part was written")
			}
			wantRead(t, l.client, string(large))
			receive(t, "Sent", g.sent)
			eventually(t, "it is told", func() bool { return g.left.Load() == 1 })
			l.answer(g, "bye", false)
			wantRead(t, l.client, "bye")
			r.wantParked(0)
		})
	}
}

func TestAGuestSetsANewLimitAfterEachPart(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		g := newGuest()
		if err := l.conn.Park(g, r.home, time.Hour); err != nil {
			t.Fatal(err)
		}
		for i := range int64(3) {
			l.part(g, "part")
			wantRead(t, l.client, "part")
			l.conn.SetLimit(10 * time.Millisecond)
			eventually(t, "it is told", func() bool { return g.expired.Load() == i+1 })
		}
		l.answer(g, "end", true)
		l.wantAll([]byte("end"))
	})
}

func TestALimitIsNotSetWhileAPartIsWritten(t *testing.T) {
	r := newRig(t, Options{}, 0)
	l := r.connectTight(plain)
	g := r.park(l)
	large := pattern(1 << 20)
	l.conn.Send(large, nil)
	l.conn.SetLimit(time.Millisecond)
	time.Sleep(5 * wheelTick)
	if g.expired.Load() != 0 || !l.conn.is(writing) {
		t.Error("it is over")
	}
	wantRead(t, l.client, string(large))
	receive(t, "Sent", g.sent)
	l.answer(g, "", true)
	got := new(bytes.Buffer)
	if _, err := got.ReadFrom(l.client); err != nil || got.Len() != 0 {
		t.Errorf("read %d bytes and the error %v", got.Len(), err)
	}
}
