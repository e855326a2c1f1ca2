package store

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

func BenchmarkPublishWithoutWatcher(b *testing.B) {
	s := New(DefaultLimits())
	batch := []Publication{{Field: "id", Data: "123"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.Publish(batch); err != nil {
			b.Fatal(err)
		}
	}
}

// counter counts down, and comes back as a watcher until it is told to stop.
type counter struct{ *sync.WaitGroup }

func (c counter) Wake(Result) { c.Done() }

func BenchmarkPublishTo10000WatchersOfOneField(b *testing.B) {
	const watchers = 10_000
	s := New(DefaultLimits())
	var woken sync.WaitGroup
	q := Query{Fields: []string{"id"}, Since: SinceNow()}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		woken.Add(watchers)
		for range watchers {
			if _, _, err := s.Watch(q, counter{&woken}); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if _, _, err := s.Publish([]Publication{{Field: "id", Data: "123"}}); err != nil {
			b.Fatal(err)
		}
		woken.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/watcher")
}

func BenchmarkPublishTo10000FieldsWithOneWatcherEach(b *testing.B) {
	const fields = 10_000
	s := New(DefaultLimits())
	var woken sync.WaitGroup
	names := make([]string, fields)
	watch := func(i int) {
		if _, _, err := s.Watch(Query{Fields: names[i : i+1], Since: SinceNow()}, counter{&woken}); err != nil {
			b.Fatal(err)
		}
	}
	for i := range names {
		names[i] = "user/" + strconv.Itoa(i)
		watch(i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() { // a publication, and the watcher that comes back
		woken.Add(1)
		if _, _, err := s.Publish([]Publication{{Field: names[i], Data: "123"}}); err != nil {
			b.Fatal(err)
		}
		woken.Wait()
		watch(i)
		i = (i + 1) % fields
	}
}

// heapAfter returns how many bytes of heap are in use more after f, for each of
// n things.
func heapAfter(b *testing.B, n int, f func() any) {
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		keep := f()
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(keep)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/each")
}

func BenchmarkBytesAField(b *testing.B) {
	const n = 100_000
	heapAfter(b, n, func() any {
		s := New(DefaultLimits())
		for i := range n {
			publish(b, s, "user/"+strconv.Itoa(i), "1")
		}
		b.ReportMetric(float64(s.memory)/n, "counted/each")
		return s
	})
}

func BenchmarkBytesAMessage(b *testing.B) {
	const n = 100_000
	limits := DefaultLimits()
	limits.History = n
	heapAfter(b, n, func() any {
		s := New(limits)
		for i := range n {
			publish(b, s, "id", strconv.Itoa(i))
		}
		b.ReportMetric(float64(s.memory)/n, "counted/each")
		return s
	})
}

func BenchmarkBytesAWatcher(b *testing.B) {
	for _, fields := range []int{1, 4} {
		b.Run(fmt.Sprint(fields, " fields"), func(b *testing.B) {
			const n = 100_000
			var names []string
			for i := range fields {
				names = append(names, strconv.Itoa(i))
			}
			var woken sync.WaitGroup
			heapAfter(b, n, func() any {
				s := New(DefaultLimits())
				for range n {
					if _, _, err := s.Watch(Query{Fields: names, Since: SinceNow()}, counter{&woken}); err != nil {
						b.Fatal(err)
					}
				}
				return s
			})
		})
	}
}
