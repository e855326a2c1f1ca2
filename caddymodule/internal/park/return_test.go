//go:build linux

package park

import (
	"sync"
	"testing"
	"time"
)

// A server that shuts down closes the connections that wait for a request, at the moment
// when the goroutine of one closes it because nothing came.
func TestAConnectionThatComesBackIsClosedByTwo(t *testing.T) {
	onEach(t, func(t *testing.T, k kind) {
		r := newRig(t, Options{}, time.Hour)
		l := r.connect(k)
		c := r.comeHome(l, request)
		wantRead(t, c, request)
		Of(c).Return()
		if _, err := c.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		wantRead(t, l.client, "answer")
		Of(c).Await()
		_, _ = c.Read(make([]byte, 1))
		_ = r.home.Close()
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { _ = c.Close() })
		}
		all.Wait()
	})
}
