package caddymodule

import "golang.org/x/sys/unix"

// installedMemory returns how many bytes of memory the machine has.
func installedMemory() (int64, bool) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, false
	}
	return int64(uint64(info.Totalram) * uint64(info.Unit)), true
}
