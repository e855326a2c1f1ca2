//go:build !linux

package main

import "sync"

// network has all lines of a case, and the lock that they share.
type network struct{ mu sync.Mutex }

// plain makes lines for plain HTTP/1.1.
func (n *network) plain(t *target, count int, got got) (lines, error) {
	return newTripLines(&n.mu, t, protocolH1, count, 1, got), nil
}

// close ends what serves the lines, after they were closed.
func (n *network) close() {}
