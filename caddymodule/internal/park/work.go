//go:build linux

package park

import "sync"

// Task is something short that a worker does.
type Task interface {
	// Do must not block. The scratch is for the bytes of an answer; it is of use
	// until Do returns.
	Do(*Scratch)
}

// Scratch is room for the bytes of an answer that a worker uses again.
type Scratch struct{ Bytes []byte }

// maxScratch is how large a scratch may be that is kept.
const maxScratch = 64 << 10

// workers do tasks in the order in which they were posted.
type workers struct {
	mu      sync.Mutex
	more    sync.Cond
	tasks   []Task // from first on
	first   int
	idle    int
	total   int
	stopped bool
}

func (w *workers) start(n int) {
	w.more.L = &w.mu
	w.total = n
	for range n {
		go w.run()
	}
}

func (w *workers) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.more.Broadcast()
}

func (w *workers) post(t Task) {
	w.mu.Lock()
	w.tasks, w.first = compact(w.tasks, w.first)
	w.tasks = append(w.tasks, t)
	wake := w.idle > 0
	w.mu.Unlock()
	if wake {
		w.more.Signal()
	}
}

// compact moves what is left of a queue, from first on, to its beginning when that
// is the smaller part: else it would grow for ever when it never empties.
func compact[T any](queue []T, first int) ([]T, int) {
	if first < 1024 || first < len(queue)/2 {
		return queue, first
	}
	n := copy(queue, queue[first:])
	clear(queue[n:])
	return queue[:n], 0
}

// busy reports whether there are tasks that are not done.
func (w *workers) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.tasks) > 0 || w.idle < w.total
}

// workBatch is how many tasks a worker takes at once.
const workBatch = 16

func (w *workers) run() {
	var (
		batch   [workBatch]Task
		scratch Scratch
	)
	for {
		n := w.take(batch[:])
		if n == 0 {
			return
		}
		for i, t := range batch[:n] {
			t.Do(&scratch)
			batch[i] = nil
		}
		if cap(scratch.Bytes) > maxScratch {
			scratch.Bytes = nil
		}
	}
}

// take moves the next tasks to batch. It waits until there is one, and returns 0
// when the workers are stopped.
func (w *workers) take(batch []Task) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.tasks) == 0 {
		if w.stopped {
			return 0
		}
		w.idle++
		w.more.Wait()
		w.idle--
	}
	n := copy(batch, w.tasks[w.first:])
	clear(w.tasks[w.first : w.first+n])
	w.first += n
	if w.first == len(w.tasks) {
		w.first = 0
		w.tasks = w.tasks[:0]
		if cap(w.tasks) > 1024 {
			w.tasks = nil
		}
	}
	return n
}
