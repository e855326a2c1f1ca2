package caddymodule

import "sync"

// textCache shares texts of which many are the same, such as the headers of the
// requests and answers of a route.
type textCache struct {
	mu    sync.Mutex
	known map[string]*string
}

// maxTexts is how many different ones are shared. With more, as when a header has
// a cookie, each is likely to be the only one of its kind.
const maxTexts = 64

// intern returns b as a string that may be shared.
func (c *textCache) intern(b []byte) *string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.known[string(b)]; ok {
		return s
	}
	if c.known == nil || len(c.known) == maxTexts {
		c.known = make(map[string]*string)
	}
	s := string(b)
	c.known[s] = &s
	return &s
}
