package comettest

import (
	"os/exec"
	"syscall"
)

// bind makes the child end when the test process does, so that a test run that
// is cut off leaves no server behind.
func bind(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
