//go:build !unix

package caddymodule

// maxDescriptors returns how many file descriptors the process may have.
func maxDescriptors() (uint64, bool) { return 0, false }
