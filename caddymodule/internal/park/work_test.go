//go:build linux

package park

import (
	"sync"
	"sync/atomic"
	"testing"
)

// taskFunc is a Task.
type taskFunc func(*Scratch)

func (f taskFunc) Do(s *Scratch) { f(s) }

// numbered is a Task that only has a number.
type numbered int

func (numbered) Do(*Scratch) {}

func startWorkers(t *testing.T, n int) *workers {
	t.Helper()
	noneLeft(t)
	w := new(workers)
	w.start(n)
	t.Cleanup(w.stop)
	return w
}

func TestOneWorkerDoesTasksInTheirOrder(t *testing.T) {
	w := startWorkers(t, 1)
	const n = 5000
	var (
		done []int
		end  = make(chan struct{})
	)
	for i := range n {
		w.post(taskFunc(func(*Scratch) {
			if done = append(done, i); len(done) == n {
				close(end)
			}
		}))
	}
	receive(t, "all tasks", end)
	for i, got := range done {
		if got != i {
			t.Fatalf("the task %d was done as number %d", got, i)
		}
	}
}

func TestAllTasksOfAllPostersAreDoneOnce(t *testing.T) {
	w := startWorkers(t, 4)
	const posters, each = 8, 3000
	var (
		done [posters * each]atomic.Int32
		all  sync.WaitGroup
	)
	all.Add(len(done))
	for p := range posters {
		go func() {
			for i := range each {
				w.post(taskFunc(func(*Scratch) {
					done[p*each+i].Add(1)
					all.Done()
				}))
			}
		}()
	}
	end := make(chan struct{})
	go func() {
		all.Wait()
		close(end)
	}()
	receive(t, "all tasks", end)
	for i := range done {
		if n := done[i].Load(); n != 1 {
			t.Errorf("the task %d was done %d times", i, n)
		}
	}
	eventually(t, "the workers rest", func() bool { return !w.busy() })
}

func TestTheQueueOfTasksStaysSmallWhenItNeverEmpties(t *testing.T) {
	var w workers
	w.start(0)
	const always = 100
	posted := 0
	for range always {
		w.post(numbered(posted))
		posted++
	}
	var batch [1]Task
	for i := range 100_000 {
		w.post(numbered(posted))
		posted++
		if n := w.take(batch[:]); n != 1 || batch[0] != Task(numbered(i)) {
			t.Fatalf("took %v instead of task %d", batch[:n], i)
		}
		if cap(w.tasks) > 8192 {
			t.Fatalf("after %d tasks the queue has room for %d", i, cap(w.tasks))
		}
	}
	for i := range w.tasks {
		if gone := i < w.first; gone != (w.tasks[i] == nil) {
			t.Fatalf("at %d of %d, %d of them done, is %v", i, len(w.tasks), w.first, w.tasks[i])
		}
	}
}

func TestTheQueueOfTasksLetsGoOfItsRoomAfterABurst(t *testing.T) {
	var w workers
	w.start(0)
	for i := range 5000 {
		w.post(numbered(i))
	}
	var batch [workBatch]Task
	for done := 0; done < 5000; {
		n := w.take(batch[:])
		for i, task := range batch[:n] {
			if task != Task(numbered(done+i)) {
				t.Fatalf("task %v came as number %d", task, done+i)
			}
		}
		done += n
	}
	if w.busy() || cap(w.tasks) > 1024 {
		t.Errorf("the empty queue has room for %d", cap(w.tasks))
	}
}

func TestWorkersAreBusyUntilTheLastTaskIsDone(t *testing.T) {
	w := startWorkers(t, 2)
	eventually(t, "the workers rest", func() bool { return !w.busy() })
	begun, finish := make(chan struct{}), make(chan struct{})
	w.post(taskFunc(func(*Scratch) {
		close(begun)
		<-finish
	}))
	if !w.busy() {
		t.Error("they are not busy with a task in the queue")
	}
	<-begun
	if !w.busy() {
		t.Error("they are not busy with a task that is being done")
	}
	close(finish)
	eventually(t, "the workers rest", func() bool { return !w.busy() })
}

func TestWorkersDoWhatWasPostedBeforeTheyStop(t *testing.T) {
	noneLeft(t)
	var (
		w    workers
		done atomic.Int32
	)
	for range 100 {
		w.post(taskFunc(func(*Scratch) { done.Add(1) }))
	}
	w.start(3)
	w.stop()
	eventually(t, "no worker is left", func() bool { return len(goroutines()) == 0 })
	if n := done.Load(); n != 100 {
		t.Errorf("%d tasks of 100 were done", n)
	}
}

func TestAScratchIsUsedAgainUnlessItIsLarge(t *testing.T) {
	w := startWorkers(t, 1)
	do := func(size int) (had int) {
		t.Helper()
		eventually(t, "the worker rests", func() bool { return !w.busy() })
		got := make(chan int, 1)
		w.post(taskFunc(func(s *Scratch) {
			got <- cap(s.Bytes)
			if size > 0 {
				s.Bytes = make([]byte, size)
			}
		}))
		return receive(t, "the task", got)
	}
	do(maxScratch)
	if had := do(maxScratch + 1); had != maxScratch {
		t.Errorf("a scratch of %d is used again as one of %d", maxScratch, had)
	}
	if had := do(0); had != 0 {
		t.Errorf("a scratch of %d was kept", had)
	}
}
