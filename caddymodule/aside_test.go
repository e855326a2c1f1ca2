package caddymodule

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestErrandsAreRunAndWaitedFor(t *testing.T) {
	var (
		wg      sync.WaitGroup
		run     atomic.Int32
		release = make(chan struct{})
	)
	many := 4 * maxErrandRunners
	for range many {
		wg.Go(func() {
			mine := false
			aside(func() {
				run.Add(1)
				<-release // all of them at once: none waits for another
				mine = true
			})
			if !mine {
				t.Error("it was not waited for")
			}
		})
	}
	for run.Load() < many {
		runtime.Gosched()
	}
	close(release)
	wg.Wait()
	if n := errandRunners.Load(); n > maxErrandRunners {
		t.Errorf("%d goroutines wait for errands, more than %d", n, maxErrandRunners)
	}
}

func TestAPanicOfAnErrandIsThatOfItsCaller(t *testing.T) {
	for range 3 { // also on a goroutine that ran another
		func() {
			defer func() {
				if failure := recover(); failure != "why" {
					t.Errorf("recovered %v", failure)
				}
			}()
			aside(func() { panic("why") })
		}()
		ran := false
		aside(func() { ran = true })
		if !ran {
			t.Error("the next was not run")
		}
	}
}
