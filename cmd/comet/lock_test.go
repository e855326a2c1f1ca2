package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// brief is a configuration whose process exits at once, so that another one does
// not wait long for its store.
func brief(more string) string {
	return comettest.Global("comet {\n drain 100ms\n}\ncomet other {\n drain 100ms\n}\n"+more) + "http://127.0.0.1:{$HTTP} {\n" + open + "\n}\n"
}

// sameData has a server use the data directory of another.
func sameData(s *comettest.Server) comettest.Option {
	return comettest.Env("XDG_DATA_HOME", filepath.Join(s.Dir, "data"))
}

func lockFile(s *comettest.Server, store string) string {
	return filepath.Join(s.Dir, "data", "caddy", "comet", store+".store.lock")
}

func TestASecondProcessDoesNotStartWithTheStoreOfAnother(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, brief(""))
	comettest.Publish(t, s, "id=1")
	cursor := now(t, s)
	held := comettest.Hold(t, s, "id=1")
	pid := fmt.Sprint(s.Pid)

	if content, err := os.ReadFile(lockFile(s, "default")); err != nil || strings.TrimSpace(string(content)) != pid {
		t.Errorf("the lock file has %q, %v; want the process %s", content, err, pid)
	}
	for _, command := range []string{"adapt", "validate"} {
		r := comettest.RunWith(t, s, nil, command, "--config", "Caddyfile", "--adapter", "caddyfile")
		if r.Code != 0 {
			t.Errorf("%s: exit code %d, %s; want that it needs no lock", command, r.Code, r.Stderr)
		}
	}
	// Once on the same ports, which Caddy lets it have, and once on others.
	for _, ports := range []map[string]int{nil, {"HTTP": s.Port("HTTP2ND"), "ADMIN": s.Port("DOOR")}} {
		r := comettest.RunWith(t, s, ports, "run", "--config", "Caddyfile", "--adapter", "caddyfile")
		if r.Code == 0 {
			t.Fatalf("it started: %s", r.Stderr)
		}
		lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
		end := lines[len(lines)-1]
		for _, want := range []string{"the store default is in use", "the process " + pid, lockFile(s, "default"), "stop that process", "XDG_DATA_HOME", "store NAME"} {
			if !strings.Contains(end, want) {
				t.Errorf("the error is %q; want %q in it", end, want)
			}
		}
		if !strings.Contains(r.Stderr, "waiting for it to exit") || !strings.Contains(r.Stderr, `"pid":`+pid) {
			t.Errorf("no line says who is waited for: %s", r.Stderr)
		}
	}

	// The first one has lost nothing by that.
	comettest.Publish(t, s, "id=2")
	wantText(t, comettest.Await(t, held), "YES\n")
	before := len(s.Logs())
	s.Restart(t)
	if fresh := s.Logs()[before:]; strings.Contains(fresh, "not orderly") {
		t.Errorf("the exit counts as a crash:\n%s", fresh)
	}
	wantTexts(t, since(t, s, cursor, "id"), "id=2")
	s.Stop(t)
	if files := stateFiles(t, s.Dir); len(files) != 2 || !strings.HasSuffix(files[0], ".store") || !strings.HasSuffix(files[1], ".store") {
		t.Errorf("after an orderly exit there are %q; want the stores alone", files)
	}
}

func TestAStartWaitsForTheProcessThatExits(t *testing.T) {
	t.Parallel()
	slow := strings.ReplaceAll(brief(""), "drain 100ms", "drain 2s")
	s := comettest.Start(t, slow)
	comettest.Publish(t, s, "id=1")
	first, second := comettest.Hold(t, s, "id=1"), comettest.Hold(t, s, "id=1")
	cursor := now(t, s)
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	comettest.Eventually(t, comettest.Deadline, func() bool { return strings.Contains(s.Logs(), "byeee") }, "it does not exit")
	next := comettest.Start(t, slow, sameData(s))
	s.WaitExit(t)
	for _, held := range []<-chan comettest.Answer{first, second} {
		wantText(t, comettest.Await(t, held), "NO\n")
	}
	wantValue(t, next, "id", "1")
	if a := since(t, next, cursor, "id"); a.Missed() {
		t.Errorf("got %s; want no gap", a)
	}
	if !strings.Contains(next.Logs(), "waiting for it to exit") {
		t.Errorf("no line says that it waits:\n%s", next.Logs())
	}
}

func TestACrashTakesItsLockWithIt(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, brief(""))
	comettest.Publish(t, s, "id=1")
	s.Kill(t)
	if _, err := os.Stat(lockFile(s, "default")); err != nil {
		t.Errorf("%v: there is nothing to be in the way", err)
	}
	begun := time.Now()
	s.Restart(t)
	if strings.Contains(s.Logs(), "waiting for it to exit") {
		t.Errorf("it waited for a dead process:\n%s", s.Logs())
	}
	t.Logf("started after %s", time.Since(begun))
}

func TestAReloadThatWantsTheStoreOfAnotherProcessChangesNothing(t *testing.T) {
	t.Parallel()
	other := comettest.Start(t, brief(""))
	mine := func(stores string) string {
		return comettest.Global("comet first {\n drain 100ms\n}\ncomet default {\n drain 100ms\n}") + stores
	}
	site := func(name, port string) string {
		return "http://127.0.0.1:{$" + port + "} {\n comet {\n store " + name + "\n publish /config\n hold /push\n }\n}\n"
	}
	alone := strings.Replace(mine(site("first", "HTTP")), "comet default {\n drain 100ms\n}", "", 1)
	s := comettest.Start(t, alone, sameData(other))
	comettest.Publish(t, s, "id=1")
	held := comettest.Hold(t, s, "id=1")

	err := s.TryReload(mine(site("first", "HTTP") + site("default", "HTTP2ND") + site("third", "DOOR")))
	if err == nil || !strings.Contains(err.Error(), "the store default is in use") || !strings.Contains(err.Error(), fmt.Sprint(other.Pid)) {
		t.Errorf("the reload: %v; want that it fails", err)
	}
	if _, err := os.Stat(lockFile(other, "third")); err == nil {
		t.Error("the reload that failed left a store locked")
	}
	wantValue(t, s, "id", "1")
	s.Reload(t, alone) // and keeps the lock
	comettest.Publish(t, s, "id=2")
	wantText(t, comettest.Await(t, held), "YES\n")
	if content, _ := os.ReadFile(lockFile(other, "first")); strings.TrimSpace(string(content)) != fmt.Sprint(s.Pid) {
		t.Errorf("the lock file has %q; want %d", content, s.Pid)
	}

	other.Stop(t)
	s.Reload(t, mine(site("first", "HTTP")+site("default", "HTTP2ND")))
	if content, _ := os.ReadFile(lockFile(other, "default")); strings.TrimSpace(string(content)) != fmt.Sprint(s.Pid) {
		t.Errorf("the lock file has %q; want %d", content, s.Pid)
	}
}
