//go:build !race

package comettest

// Race says whether the test binary, and with it the server, looks for data races.
const Race = false
