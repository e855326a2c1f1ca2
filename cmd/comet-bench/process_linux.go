package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server that is measured from outside: its process and those that
// descend from it, so that a pid of nginx's master means its workers too.
type process struct{ pid int }

// newProcess returns the process of a pid, when it may be measured.
func newProcess(pid int) (*process, error) {
	p := &process{pid: pid}
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); err != nil {
		return nil, fmt.Errorf("--pid %d: there is no such process", pid)
	}
	_, err := p.cpu()
	if err == nil {
		_, err = p.rss()
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("--pid %d: not permitted to look at this process: run as its user, or as root", pid)
	}
	if err != nil {
		return nil, fmt.Errorf("--pid %d: %w", pid, err)
	}
	return p, nil
}

// all returns the folders in /proc of the process and its descendants.
func (p *process) all() ([]string, error) {
	folders := []string{filepath.Join("/proc", strconv.Itoa(p.pid))}
	for i := 0; i < len(folders); i++ {
		lists, err := filepath.Glob(folders[i] + "/task/*/children")
		if err != nil {
			return nil, err
		}
		for _, list := range lists {
			children, err := os.ReadFile(list)
			if err != nil && !gone(err) {
				return nil, err
			}
			for child := range strings.FieldsSeq(string(children)) {
				folders = append(folders, filepath.Join("/proc", child))
			}
		}
	}
	return folders, nil
}

// cpu returns how long the threads of the process have been on a CPU.
func (p *process) cpu() (time.Duration, error) {
	folders, err := p.all()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for i, folder := range folders {
		threads, err := filepath.Glob(folder + "/task/*/schedstat")
		if err != nil {
			return 0, err
		}
		if i == 0 && len(threads) == 0 {
			return 0, errors.New("the process has ended")
		}
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if gone(err) {
				continue
			}
			if err != nil {
				return 0, err
			}
			running, _, _ := bytes.Cut(text, []byte(" "))
			nanoseconds, err := strconv.ParseInt(string(running), 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(nanoseconds)
		}
	}
	return sum, nil
}

// rss returns the resident memory of the process in bytes.
func (p *process) rss() (int64, error) {
	folders, err := p.all()
	if err != nil {
		return 0, err
	}
	var sum int64
	for i, folder := range folders {
		text, err := os.ReadFile(folder + "/smaps_rollup")
		if i > 0 && gone(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		_, rest, _ := bytes.Cut(text, []byte("\nRss:"))
		words := strings.Fields(string(rest[:min(len(rest), 80)]))
		if len(words) == 0 {
			return 0, errors.New("smaps_rollup has no Rss")
		}
		kib, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += kib << 10
	}
	return sum, nil
}

// gone says whether a file of /proc could not be read because its process or thread
// ended.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// sleep pauses more finely than time.Sleep, which rounds up to a millisecond.
func sleep(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&left, nil) // when it is interrupted, the caller looks at the clock
}

// raiseDescriptors raises the limit of file descriptors to what the process may have,
// and returns it.
func raiseDescriptors() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	limit.Cur = limit.Max
	return limit.Max, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}
