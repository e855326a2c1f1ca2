//go:build linux

package park

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// cut cuts b into parts of random sizes, some of them empty.
func cut(dice *rand.Rand, b []byte, most int) [][]byte {
	var parts [][]byte
	for len(b) > 0 {
		n := min(len(b), dice.IntN(most))
		parts = append(parts, b[:n:n])
		b = b[n:]
	}
	return parts
}

func TestAnAnswerOfAnyShapeIsReadAsOne(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		dice := dice(t)
		r := newRig(t, Options{}, 0)
		l := r.connect(k)
		all := pattern(300 << 10)
		for range 20 {
			g := r.park(l)
			want := all[:dice.IntN(1<<dice.IntN(19))]
			head := slices.Clone(want[:dice.IntN(len(want)+1)])
			if dice.IntN(4) == 0 {
				head = nil
			}
			parts := cut(dice, want[len(head):], 1+1<<(4+dice.IntN(13)))
			was := slices.Clone(parts)
			l.conn.Answer(head, parts, false)
			clear(head) // it is the caller's again
			wantRead(t, l.client, string(want))
			if err := receive(t, "Answered", g.answered); err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(parts, was, bytes.Equal) {
				t.Fatal("the list of parts was changed, which others may have too")
			}
			l.send("request")
			r.wantBack(l, "request")
		}
	})
}

// wantWriting waits until an answer is written in part.
func (l *link) wantWriting() {
	l.t.Helper()
	eventually(l.t, "it is written in part", func() bool {
		return l.conn.locked(func() bool { return l.conn.state == writing && l.conn.rest != nil })
	})
}

func TestABigAnswerIsWrittenWholeToWhoReadsSlowly(t *testing.T) {
	for name, last := range map[string]bool{"and is the last": true, "and another follows": false} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, k kind) {
				dice := dice(t)
				r := newRig(t, Options{}, 0)
				l := r.connectTight(k)
				g := r.park(l)
				want := pattern(4 << 20)
				l.conn.Answer(slices.Clone(want[:100]), cut(dice, want[100:], 100<<10), last)
				l.wantWriting()
				if !r.lot.Busy() || g.answers.Load() != 0 {
					t.Error("it is not busy, or the guest was told too early")
				}
				if n := r.lot.CloseIdle(func(*Conn, *Home) bool { return true }); n != 0 {
					t.Error("it was closed as if it were idle")
				}
				l.send("request") // before it has read the answer
				var (
					got  []byte
					room [16 << 10]byte
				)
				_ = l.client.SetReadDeadline(time.Now().Add(6 * patience))
				for len(got) < len(want) {
					n, err := l.client.Read(room[:1+dice.IntN(len(room))])
					if got = append(got, room[:n]...); err != nil && len(got) < len(want) {
						t.Fatalf("after %d bytes of %d: %v", len(got), len(want), err)
					}
					if dice.IntN(100) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				if !bytes.Equal(got, want) {
					t.Error("it is not what was sent")
				}
				if err := receive(t, "Answered", g.answered); err != nil {
					t.Errorf("answered with the error %v", err)
				}
				if last {
					l.wantAll(nil)
				} else {
					r.wantBack(l, "request")
					g := r.park(l)
					l.answer(g, "answer", false)
					wantRead(t, l.client, "answer")
				}
				if n := g.answers.Load(); n != 1 || g.left.Load() != 0 {
					t.Errorf("the guest was told %d times of its answer, and %d times of its client", n, g.left.Load())
				}
				if r.lot.Dropped() != 0 || r.lot.unsent.Load() != 0 {
					t.Errorf("%d were dropped, %d bytes are unsent", r.lot.Dropped(), r.lot.unsent.Load())
				}
			})
		})
	}
}

// wantGone checks that a connection was ended, not only its sending half.
func (r *rig) wantGone(l *link) {
	r.t.Helper()
	r.wantParked(0)
	if len(r.lot.all()) != 0 || r.lot.unsent.Load() != 0 {
		r.t.Errorf("the lot still knows %d, and %d bytes are unsent", len(r.lot.all()), r.lot.unsent.Load())
	}
	if err := l.socket.SetDeadline(time.Time{}); err == nil {
		r.t.Error("its socket is not closed")
	}
}

func TestAnAnswerForWhichThereIsNoRoomIsDropped(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{MaxUnsent: 3 << 20}, 0)
		first, second := r.connectTight(k), r.connectTight(k)
		of1, of2 := r.park(first), r.park(second)
		want := pattern(2 << 20)
		first.conn.Answer(nil, [][]byte{want}, false)
		second.conn.Answer(nil, [][]byte{want}, false)
		if err := receive(t, "Answered", of2.answered); !errors.Is(err, ErrUnsent) {
			t.Errorf("the second was answered with the error %v", err)
		}
		if n := r.lot.Dropped(); n != 1 {
			t.Errorf("%d were dropped", n)
		}
		r.wantParked(1)
		wantRead(t, first.client, string(want))
		if err := receive(t, "Answered", of1.answered); err != nil {
			t.Errorf("the first was answered with the error %v", err)
		}
		third := r.connectTight(k) // there is room again
		of3 := r.park(third)
		third.conn.Answer(nil, [][]byte{want}, true)
		third.wantAll(want)
		if err := receive(t, "Answered", of3.answered); err != nil || of2.answers.Load() != 1 {
			t.Errorf("the third was answered with the error %v, the second %d times", err, of2.answers.Load())
		}
		_ = first.client.Close()
		eventually(t, "the first is idle no more", func() bool { return r.lot.Parked() == 0 })
	})
}

func TestAClientThatDoesNotReadIsDropped(t *testing.T) {
	for name, opts := range map[string]Options{
		"anything":   {Stall: 100 * time.Millisecond},
		"everything": {Stall: time.Hour, Slowest: 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, k kind) {
				r := newRig(t, opts, 0)
				l := r.connectTight(k)
				g := r.park(l)
				begin := time.Now()
				l.conn.Answer(nil, [][]byte{pattern(4 << 20)}, false)
				if name == "everything" {
					end, ended := make(chan struct{}), make(chan struct{})
					go func() { // it reads on, but would do so for much longer
						defer close(ended)
						for room := make([]byte, 2<<10); ; time.Sleep(time.Millisecond) {
							select {
							case <-end:
								return
							default:
								_, _ = l.wire.Read(room)
							}
						}
					}()
					defer func() { <-ended }()
					defer close(end)
				}
				if err := receive(t, "Answered", g.answered); !errors.Is(err, ErrSlow) {
					t.Errorf("it was answered with the error %v", err)
				}
				if took := time.Since(begin); took < 100*time.Millisecond {
					t.Errorf("it was dropped after %v", took)
				}
				if n := r.lot.Dropped(); n != 1 || g.answers.Load() != 1 {
					t.Errorf("%d were dropped, it was told %d times", n, g.answers.Load())
				}
				r.wantGone(l)
			})
		})
	}
}

func TestTheTimeBeginsAnewWhenAClientReads(t *testing.T) {
	r := newRig(t, Options{Stall: time.Hour, Slowest: 2 * time.Hour}, 0)
	l := r.connectTight(plain)
	g := r.park(l)
	want := pattern(1 << 20)
	l.conn.Answer(nil, [][]byte{want}, false)
	l.wantWriting()
	before := l.conn.due()
	time.Sleep(2 * wheelTick)
	wantRead(t, l.client, string(want[:512<<10]))
	eventually(t, "it begins anew", func() bool { return l.conn.due() > before })
	wantRead(t, l.client, string(want[512<<10:]))
	if err := receive(t, "Answered", g.answered); err != nil {
		t.Error(err)
	}
	if l.conn.due() != 0 {
		t.Error("there is a limit after the answer")
	}
}

func TestAClientThatBreaksOffItsAnswerIsClosed(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, 0)
		l := r.connectTight(k)
		g := r.park(l)
		l.conn.Answer(nil, [][]byte{pattern(4 << 20)}, false)
		l.wantWriting()
		_ = l.wire.SetLinger(0)
		_ = l.wire.Close()
		if err := receive(t, "Answered", g.answered); err == nil || errors.Is(err, ErrSlow) || errors.Is(err, ErrUnsent) {
			t.Errorf("answered with the error %v", err)
		}
		if n := r.lot.Dropped(); n != 0 || g.left.Load() != 0 {
			t.Errorf("%d were dropped; the guest was told %d times that its client left, after it had answered", n, g.left.Load())
		}
		r.wantGone(l)
	})
}

// To write over TLS sets a deadline, which the server has not asked for.
func TestAServerIsNotHurtByDeadlinesOfAnswers(t *testing.T) {
	r := newRig(t, Options{Stall: time.Second}, 0)
	type back struct{ l *link }
	var all []back
	for _, k := range []kind{plain, tls12, tls13} {
		for _, size := range []int{100, 200 << 10} {
			l := r.connect(k)
			g := r.park(l)
			want := string(pattern(size))
			l.conn.Answer(nil, [][]byte{[]byte(want)}, false)
			wantRead(t, l.client, want)
			if err := receive(t, "Answered", g.answered); err != nil {
				t.Fatal(err)
			}
			l.send("request")
			r.wantBack(l, "request")
			all = append(all, back{l})
		}
	}
	time.Sleep(1100 * time.Millisecond) // until that deadline is over
	for i, b := range all {
		answer := fmt.Sprintf("answer %d", i)
		if _, err := io.WriteString(b.l.conn, answer); err != nil {
			t.Errorf("the server cannot write: %v", err)
			continue
		}
		wantRead(t, b.l.client, answer)
		b.l.send("next")
		wantRead(t, b.l.conn, "next")
	}
}

// checkAdvance checks advance with parts of the given sizes.
func checkAdvance(t *testing.T, sizes []byte, n int64) {
	t.Helper()
	all := pattern(256 * len(sizes))
	var (
		parts [][]byte
		whole []byte
	)
	for _, size := range sizes {
		parts = append(parts, all[len(whole):len(whole)+int(size)])
		whole = append(whole, parts[len(parts)-1]...)
	}
	n = max(0, min(n, int64(len(whole))))
	was := slices.Clone(parts)
	left := advance(parts, n)
	if !bytes.Equal(bytes.Join(left, nil), whole[n:]) {
		t.Errorf("after %d bytes of parts of %v, other bytes are left", n, sizes)
	}
	if n == int64(len(whole)) && len(left) > 0 {
		t.Errorf("after all %d bytes of parts of %v there is something left: %v", n, sizes, left)
	}
	if n > 0 && len(left) > 0 && len(left[0]) == 0 {
		t.Errorf("after %d bytes of parts of %v, what is left begins with nothing", n, sizes)
	}
	for i := range parts {
		if len(parts[i]) != len(was[i]) || len(was[i]) > 0 && &parts[i][0] != &was[i][0] {
			t.Errorf("after %d bytes of parts of %v, part %d is another", n, sizes, i)
		}
	}
}

func TestAdvanceLeavesWhatFollows(t *testing.T) {
	for _, sizes := range [][]byte{nil, {0}, {1}, {3}, {0, 3}, {3, 0}, {0, 0}, {2, 3}, {2, 0, 0, 3}, {0, 1, 1, 1, 0, 5, 0}} {
		var size int64
		for _, s := range sizes {
			size += int64(s)
		}
		for n := range size + 1 {
			checkAdvance(t, sizes, n)
		}
	}
}

func FuzzAdvance(f *testing.F) {
	f.Add([]byte{}, int64(0))
	f.Add([]byte{3, 0, 4}, int64(3))
	f.Add([]byte{0, 200, 0, 255}, int64(300))
	f.Fuzz(checkAdvance)
}
