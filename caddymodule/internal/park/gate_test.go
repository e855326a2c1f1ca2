//go:build linux

package park

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// newGate returns a gate, and connections that go through it to a home.
func newGate(n int) (*gate, *Home, []*Conn) {
	lot := &Lot{}
	home := newHome(0)
	conns := make([]*Conn, n)
	for i := range conns {
		conns[i] = &Conn{lot: lot, home: home, early: []byte("a request")}
	}
	return &lot.gate, home, conns
}

func (h *Home) queued() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.queue)
}

func TestTheGateLetsFewInAndTheOthersInTheirOrder(t *testing.T) {
	gate, home, conns := newGate(5 * gateWidth)
	for _, c := range conns {
		gate.enter(c)
	}
	for i, want := range conns {
		if inside, most := home.queued(), min(gateWidth, len(conns)-i); inside != most {
			t.Fatalf("%d are inside after %d have passed, want %d", inside, i, most)
		}
		got, err := home.Accept()
		if err != nil || got != want {
			t.Fatalf("as number %d came %p and the error %v, want %p", i, got, err, want)
		}
		if inside := home.queued(); inside > gateWidth-1 {
			t.Fatalf("another was let in when one was accepted that has not read yet: %d wait", inside)
		}
		var room [4]byte
		_, _ = got.Read(room[:])
		_, _ = got.Read(room[:]) // that is not another one
	}
	if gate.inside != 0 || len(gate.waiting) != 0 {
		t.Errorf("in the end %d are inside and %d wait", gate.inside, len(gate.waiting))
	}
}

func TestWhoLeavesTheGateWithNobodyWaitingMakesRoom(t *testing.T) {
	gate, home, conns := newGate(3 * gateWidth)
	for i, c := range conns {
		gate.enter(c)
		if home.queued() != 1 {
			t.Fatalf("number %d was not let in", i)
		}
		got, _ := home.Accept()
		_, _ = got.Read(make([]byte, 1))
	}
	if gate.inside != 0 {
		t.Errorf("%d are inside", gate.inside)
	}
}

func TestTheQueueAtTheGateLetsGoOfItsRoomAfterABurst(t *testing.T) {
	gate, _, conns := newGate(5000)
	for _, c := range conns {
		gate.enter(c)
	}
	for range conns {
		gate.leave()
	}
	if gate.inside != 0 || len(gate.waiting) != 0 || gate.first != 0 || cap(gate.waiting) > 1024 {
		t.Errorf("%d are inside, %d wait, with room for %d", gate.inside, len(gate.waiting), cap(gate.waiting))
	}
}

func TestTheQueueAtTheGateStaysSmallWhenItNeverEmpties(t *testing.T) {
	gate, home, conns := newGate(gateWidth + 10)
	for _, c := range conns {
		gate.enter(c)
	}
	for i := range 100_000 {
		c, err := home.Accept()
		if err != nil {
			t.Fatal(err)
		}
		gate.enter(c.(*Conn))
		gate.leave()
		if cap(gate.waiting) > 8192 {
			t.Fatalf("10 wait, and after %d that have passed there is room for %d", i, cap(gate.waiting))
		}
	}
}

func TestManyAtTheGateAtOnceAllPassOnce(t *testing.T) {
	noneLeft(t)
	gate, home, conns := newGate(2000)
	var (
		inside, most atomic.Int64
		passed       = make([]int, 0, len(conns))
		numbers      = make(map[*Conn]int)
		mu           sync.Mutex
		all          sync.WaitGroup
	)
	for i, c := range conns {
		numbers[c] = i
	}
	for half := range 4 {
		all.Go(func() {
			for i := half; i < len(conns); i += 4 {
				gate.enter(conns[i])
			}
		})
	}
	for range 4 {
		all.Go(func() {
			for range len(conns) / 4 {
				c, err := home.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				n := inside.Add(1) + int64(home.queued())
				for now := most.Load(); n > now && !most.CompareAndSwap(now, n); now = most.Load() {
				}
				mu.Lock()
				passed = append(passed, numbers[c.(*Conn)])
				mu.Unlock()
				inside.Add(-1)
				_, _ = c.Read(make([]byte, 1))
			}
		})
	}
	all.Wait()
	// Those who accept count late: each may be counted twice.
	if n := most.Load(); n > gateWidth+4 {
		t.Errorf("%d were inside", n)
	}
	slices.Sort(passed)
	for i, got := range passed {
		if got != i {
			t.Fatalf("number %d is in the place of %d of those who passed", got, i)
		}
	}
	if gate.inside != 0 || len(passed) != len(conns) {
		t.Errorf("%d are inside, %d passed", gate.inside, len(passed))
	}
}

func TestAConnectionThatIsClosedUnreadLeavesTheGate(t *testing.T) {
	r := newRig(t, Options{}, 0)
	var links []*link
	for range gateWidth + 5 {
		l := r.connect(plain)
		links = append(links, l)
		g := r.park(l)
		l.answer(g, "answer", false)
		l.send("request")
	}
	for range links {
		if err := r.back().Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the gate is empty", func() bool {
		gate := &r.lot.gate
		gate.mu.Lock()
		defer gate.mu.Unlock()
		return gate.inside == 0
	})
}
