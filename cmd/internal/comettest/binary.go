package comettest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// built is the binary of this test process: made by the first test that needs
// one, used by all.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Main runs the tests and then removes the binary that was built for them. A
// package that starts servers calls it from its TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(comettest.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, "comettest:", err)
		}
	}
	return code
}

// Binary returns the path of the comet binary under test: the one that the
// environment variable COMET_BINARY names, else one built from this checkout
// with the flags of the environment, with -race when the tests have it.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("COMET_BINARY"); path != "" {
		return path
	}
	built.once.Do(func() { built.path, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func build() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	built.dir, err = os.MkdirTemp("", "comettest-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(built.dir, "comet")
	args := []string{"build", "-o", path}
	if Race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/comet")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building ./cmd/comet: %w\n%s", err, out)
	}
	return path, nil
}

// Root returns the folder of the module under test.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("looking for go.mod: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("looking for go.mod: the tests run outside of a module")
	}
	return filepath.Dir(mod), nil
}

// Result is what a finished command left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs the binary once with args, in a folder of its own, and returns what it
// wrote. The folder holds files, by name. The ports HTTP, HTTPS and so on
// are set, but nothing is expected to listen on them.
func Run(t testing.TB, files map[string]string, args ...string) Result {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return run(t, dir, environment(dir, pickPorts(t), nil), args)
}

func run(t testing.TB, dir string, env, args []string) Result {
	t.Helper()
	cmd := exec.Command(Binary(t), args...)
	cmd.Dir, cmd.Env = dir, env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	bind(cmd)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// RunWith runs the binary once with args, in the folders of a server and with its
// ports, but for those that are given.
func RunWith(t testing.TB, s *Server, ports map[string]int, args ...string) Result {
	t.Helper()
	all := maps.Clone(s.ports)
	maps.Copy(all, ports)
	return run(t, s.Dir, environment(s.Dir, all, s.env), args)
}

// Adapt has the binary adapt caddyfile, in a file named Caddyfile.
func Adapt(t testing.TB, caddyfile string) Result {
	t.Helper()
	return Run(t, map[string]string{"Caddyfile": caddyfile},
		"adapt", "--config", "Caddyfile", "--adapter", "caddyfile")
}

// Validate has the binary adapt and provision caddyfile without serving it, in a
// file named Caddyfile.
func Validate(t testing.TB, caddyfile string) Result {
	t.Helper()
	return Run(t, map[string]string{"Caddyfile": caddyfile},
		"validate", "--config", "Caddyfile", "--adapter", "caddyfile")
}
