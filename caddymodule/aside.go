package caddymodule

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// aside runs f on another goroutine, and waits for it. What f panics with, aside
// panics with.
//
// The goroutines of requests begin with a small stack, which is copied each time it
// has to grow. Those that run errands have grown already.
func aside(f func()) {
	e := idleErrands.Get().(*errand)
	e.do = f
	select {
	case errands <- e:
	default: // nobody waits for one
		go runErrands(e)
	}
	<-e.done
	failure := e.failure
	e.do, e.failure = nil, nil
	idleErrands.Put(e)
	if failure != nil {
		panic(failure)
	}
}

// errand is a function to be run on another goroutine.
type errand struct {
	do      func()
	failure any           // what it panicked with
	done    chan struct{} // is sent to when it is done
}

var (
	errands     = make(chan *errand)
	idleErrands = sync.Pool{New: func() any { return &errand{done: make(chan struct{}, 1)} }}

	errandRunners atomic.Int32 // goroutines that wait for errands
)

// maxErrandRunners is how many goroutines wait for errands, at most: a few more than
// can run.
var maxErrandRunners = int32(2 * runtime.GOMAXPROCS(0))

func runErrands(e *errand) {
	for {
		e.run()
		if errandRunners.Add(1) > maxErrandRunners {
			errandRunners.Add(-1)
			return
		}
		e = <-errands
		errandRunners.Add(-1)
	}
}

func (e *errand) run() {
	defer func() {
		e.failure = recover()
		e.done <- struct{}{}
	}()
	e.do()
}
