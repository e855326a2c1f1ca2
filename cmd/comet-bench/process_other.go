//go:build !linux

package main

import (
	"errors"
	"time"
)

// process is a server that is measured from outside: on Linux alone.
type process struct{}

var errProcess = errors.New("--pid: memory and CPU of a server can be measured on Linux alone")

func newProcess(int) (*process, error) { return nil, errProcess }

func (p *process) cpu() (time.Duration, error) { return 0, errProcess }

func (p *process) rss() (int64, error) { return 0, errProcess }

func sleep(d time.Duration) { time.Sleep(d) }

// raiseDescriptors returns how many file descriptors the process may have: Go has
// raised the limit at the start, and what it is not enough for fails when it happens.
func raiseDescriptors() (uint64, error) { return 1 << 20, nil }
