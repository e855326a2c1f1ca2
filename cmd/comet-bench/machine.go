package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine is what was measured on, and what was measured.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Comet  string `json:"comet"`
	Nginx  string `json:"nginx"`
	Date   string `json:"date"`
}

// newMachine asks the machine; what it does not tell stays empty.
func newMachine(ctx context.Context, b *binaries) machine {
	m := machine{
		Cores: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		CPU: said("/proc/cpuinfo", "model name"), Memory: said("/proc/meminfo", "MemTotal"),
		Date: time.Now().UTC().Format(time.DateOnly),
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(kernel))
	}
	if b.comet != "" {
		m.Comet = output(ctx, b.comet, "version")
	}
	if b.nginx != "" {
		m.Nginx = strings.TrimPrefix(output(ctx, b.nginx, "-v"), "nginx version: ")
		for _, name := range []string{"libnginx-mod-nchan", "libnginx-mod-http-lua"} {
			if version := output(ctx, "dpkg-query", "-W", "-f", "${Version}", name); version != "" {
				m.Nginx += ", " + name + " " + version
			}
		}
	}
	return m
}

// said returns the first value of a name in a file of "name: value" lines.
func said(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// output returns the first line that a program writes, "" when it fails.
func output(ctx context.Context, program string, args ...string) string {
	text, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}
