//go:build !linux

package main

import (
	"context"
	"errors"
)

// runFloor would serve an epoll loop, which only Linux has.
func runFloor(context.Context, string) error {
	return errors.New("the floor is an epoll loop: it runs on Linux alone")
}
