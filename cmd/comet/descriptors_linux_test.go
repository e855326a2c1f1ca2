package main_test

import (
	"syscall"
	"testing"
)

// descriptors says whether a process, and so each of its children, may have n open
// files. The Go runtime has raised the limit to the most that is allowed.
func descriptors(t *testing.T, n int) bool {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return limit.Max >= uint64(n)
}
