//go:build !unix || aix || solaris

package caddymodule

import "os"

// flock does nothing on this system.
func flock(string) (*os.File, error) { return nil, nil }
