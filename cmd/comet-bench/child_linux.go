package main

import (
	"os/exec"
	"syscall"
)

// endWithUs makes a server end when this program does, however that comes about.
func endWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
