//go:build !linux

package caddymodule

// installedMemory returns how many bytes of memory the machine has.
func installedMemory() (int64, bool) { return 0, false }
