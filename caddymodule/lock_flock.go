//go:build unix && !aix && !solaris

package caddymodule

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flock opens the file at path, makes it when there is none, and locks it until
// it is closed. It returns errFlocked when another process has locked it.
func flock(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = file.Close()
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EWOULDBLOCK):
				return nil, errFlocked
			}
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		locked, err := file.Stat()
		if err == nil {
			if there, err := os.Stat(path); err == nil && os.SameFile(locked, there) {
				return file, nil
			}
		}
		_ = file.Close() // who had it removed it
	}
}
