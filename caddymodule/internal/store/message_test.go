package store

import (
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

func TestAllWhoAreSentAMessageInOneEncodingShareIt(t *testing.T) {
	m := &Message{Data: "x"}
	encode := func(as Encoding) *Encoded {
		return m.Encoded(as, func(m *Message) []byte { return []byte(m.Data + strconv.Itoa(int(as))) })
	}
	const encodings, times = 5, 20
	var (
		got  [encodings][times]*Encoded
		done sync.WaitGroup
	)
	for as := range Encoding(encodings) {
		for i := range times {
			done.Go(func() { got[as][i] = encode(as) })
		}
	}
	done.Wait()
	for as := range got {
		for _, e := range got[as] {
			if e != got[as][0] || string(e.Bytes) != "x"+strconv.Itoa(as) {
				t.Errorf("encoding %d: %q at %p; the first is at %p", as, e.Bytes, e, got[as][0])
			}
		}
	}
	runtime.KeepAlive(&got)
}

func TestAnEncodingGoesWithTheLastWhoHasIt(t *testing.T) {
	m := &Message{Data: "x"}
	built := 0
	build := func(*Message) []byte { built++; return make([]byte, 1<<10) }
	kept := m.Encoded(0, build)
	m.Encoded(1, build)
	for deadline := time.Now().Add(10 * time.Second); m.encodings.Load().find(1) != nil; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("nobody has it, and it is still there")
		}
	}
	m.Encoded(2, build)
	n := 0
	for e := m.encodings.Load(); e != nil; e = e.next {
		n++
	}
	if n != 2 || m.Encoded(0, build) != kept || built != 3 {
		t.Errorf("%d encodings are listed, %d were built", n, built)
	}
	runtime.KeepAlive(kept)
}
