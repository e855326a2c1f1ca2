package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// Two processes with one data directory would share a store's file, each with
// messages that the other does not know, and nothing else would tell: Caddy
// listens in a way that lets both have the same ports. So a process locks the
// file of each store that it has open. The lock is on a file beside it, because
// the store's own is renamed, and goes with the process, however that ends. On
// systems without flock there is none.

// lockSuffix is on the name of the file that is locked. It is there as long as
// the store is open, and has the process's number in it.
const lockSuffix = ".lock"

// lockPatience is for how long a lock is waited for, beyond the time over which
// a process that exits answers its held requests.
const lockPatience = 2 * time.Second

// inUseError says that another process has the lock.
type inUseError struct {
	store, path string
	pid         int // 0: it is not known
}

func (e *inUseError) Error() string {
	who := "another process"
	if e.pid != 0 {
		who = fmt.Sprintf("the process %d", e.pid)
	}
	return fmt.Sprintf("the store %s is in use: %s has locked %s; stop that process, or give this one another data directory "+
		"(the environment variable XDG_DATA_HOME), or its comet blocks another store (store NAME)", e.store, who, e.path)
}

// errFlocked is what flock returns when another process has the lock.
var errFlocked = errors.New("another process has locked it")

// lock locks the store's file for this process. It waits for one that is about to
// exit, and returns an *inUseError when the other stays.
func (p *pool) lock() (*os.File, error) {
	path := p.path() + lockSuffix
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	p.mu.Lock()
	patience := p.limits.drain + lockPatience
	p.mu.Unlock()
	deadline := time.Now().Add(patience)
	for told := false; ; told = true {
		file, err := flock(path)
		if err == nil && file != nil {
			// For people, and for inUseError. The lock is there without it.
			_ = file.Truncate(0)
			_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
		if !errors.Is(err, errFlocked) {
			return file, err
		}
		inUse := &inUseError{store: p.name, path: path}
		if content, err := os.ReadFile(path); err == nil {
			inUse.pid, _ = strconv.Atoi(strings.TrimSpace(string(content)))
		}
		if time.Now().After(deadline) || caddy.Exiting() {
			return nil, inUse
		}
		if !told {
			p.logger().Warn("another process uses the store: waiting for it to exit",
				zap.Int("pid", inUse.pid), zap.String("file", path), zap.Duration("patience", patience))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// unlock lets go of what lock returned. The file goes first: whoever locks it
// after that sees that it is not the one at its path any more.
func unlock(file *os.File) {
	if file != nil {
		_ = os.Remove(file.Name())
		_ = file.Close()
	}
}
