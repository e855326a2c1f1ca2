//go:build unix

package caddymodule

import "golang.org/x/sys/unix"

// maxDescriptors returns how many file descriptors the process may have.
func maxDescriptors() (uint64, bool) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return uint64(limit.Cur), true // it is signed on some systems
}
