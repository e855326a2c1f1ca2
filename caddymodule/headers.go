package caddymodule

import "sync"

// headerCache shares the header of answers between the requests of a route, which
// mostly have the same.
type headerCache struct {
	mu    sync.Mutex
	known map[string]string
}

// maxHeaders is how many different ones are shared: with more, as when a header
// tells of the client, each is likely to be the only one of its kind.
const maxHeaders = 64

// intern returns b as a string that may be shared.
func (c *headerCache) intern(b []byte) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.known[string(b)]; ok {
		return s
	}
	if c.known == nil || len(c.known) == maxHeaders {
		c.known = make(map[string]string)
	}
	s := string(b)
	c.known[s] = s
	return s
}
