//go:build linux

package park

import "sync"

// gate lets few connections at a time go home. After one publication to ten
// thousand of them all their next requests come at once, and a server that is
// given all of them begins with all of them: it would have the goroutines and
// buffers of ten thousand requests of which it can handle only a few. One is
// through the gate when its server begins to read from it.
type gate struct {
	mu      sync.Mutex
	inside  int
	waiting []*Conn // from first on
	first   int
}

// gateWidth is how many connections are on their way to their servers: enough to
// keep all processors busy.
const gateWidth = 32

func (g *gate) enter(c *Conn) {
	g.mu.Lock()
	if g.inside == gateWidth {
		g.waiting, g.first = compact(g.waiting, g.first)
		g.waiting = append(g.waiting, c)
		g.mu.Unlock()
		return
	}
	g.inside++
	g.mu.Unlock()
	c.goHome()
}

func (g *gate) leave() {
	g.mu.Lock()
	if g.first == len(g.waiting) {
		g.inside--
		g.mu.Unlock()
		return
	}
	next := g.waiting[g.first]
	g.waiting[g.first] = nil
	if g.first++; g.first == len(g.waiting) {
		g.waiting, g.first = g.waiting[:0], 0
		if cap(g.waiting) > 1024 {
			g.waiting = nil
		}
	}
	g.mu.Unlock()
	next.goHome()
}
