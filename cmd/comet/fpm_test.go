package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// phpWorkers is how many requests a PHP of these tests answers at a time: few, so
// that it is seen when they are held.
const phpWorkers = 2

// startPHP runs php-fpm in dir, with more lines for its pool's configuration, and
// returns its socket, and what ends it before the test does.
func startPHP(t *testing.T, fpm, dir string, pool ...string) (socket string, stop func()) {
	t.Helper()
	socket, config := phpSocket(dir), filepath.Join(dir, "fpm.conf")
	text := fmt.Sprintf(`[global]
error_log = %[1]s/error.log
daemonize = no

[application]
listen = %[2]s
pm = static
pm.max_children = %[3]d
access.log = %[1]s/access.log
access.format = "%%m %%f"
catch_workers_output = yes
`, dir, socket, phpWorkers)
	if name := unprivileged(); name != "" { // it will not run as root
		text += "user = " + name + "\n"
	}
	text += strings.Join(pool, "\n") + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stop = startDaemon(t, filepath.Join(dir, "output.log"), fpm, "-F", "-y", config)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "error.log"))
			t.Logf("PHP's error.log:\n%s", log)
		}
	})
	awaitSocket(t, socket)
	return socket, stop
}

// phpSocket is the socket of the PHP in dir. A socket's path must be short.
func phpSocket(dir string) string { return filepath.Join(dir, "php.sock") }

// startDaemon runs a command that stays in the foreground, and returns what ends
// it before the test does. What it says goes to a file.
func startDaemon(t *testing.T, output, command string, args ...string) (stop func()) {
	t.Helper()
	// The shell ends the command when its own input ends: with the test, or with the
	// test's process, whatever becomes of that.
	cmd := exec.Command("sh", append([]string{
		"-c", `out=$1; shift; "$0" "$@" >"$out" 2>&1 & read -r _; kill "$!"; wait`,
		command, output,
	}, args...)...)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		input.Close()
		_ = cmd.Wait() // the exit code is that of a process told to end
		if t.Failed() {
			log, _ := os.ReadFile(output)
			t.Logf("%s:\n%s", filepath.Base(command), log)
		}
	})
	t.Cleanup(stop)
	return stop
}

// awaitSocket waits until a server accepts connections at a Unix socket. Its file is there
// before.
func awaitSocket(t *testing.T, socket string) {
	t.Helper()
	comettest.Eventually(t, comettest.Deadline, func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}, "nobody listens at ", socket)
}

// unprivileged returns the user that servers are told to run as, which is nobody's
// business when they are not started by root: then it is empty.
func unprivileged() string {
	if os.Geteuid() != 0 {
		return ""
	}
	if _, err := user.Lookup("www-data"); err != nil {
		return "nobody"
	}
	return "www-data"
}

// findPHP returns the path of a php-fpm that has these extensions. The test is
// skipped when there is none.
func findPHP(t *testing.T, extensions ...string) string {
	t.Helper()
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin")
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, "php-fpm*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, fpm := range found {
			out, err := exec.Command(fpm, "-m").Output()
			modules := strings.Fields(string(out))
			missing := func(extension string) bool { return !slices.Contains(modules, extension) }
			if err == nil && !slices.ContainsFunc(extensions, missing) {
				return fpm
			}
		}
	}
	t.Skipf("no php-fpm with %s here; testdata/setup installs it on Debian", strings.Join(extensions, " and "))
	return ""
}
