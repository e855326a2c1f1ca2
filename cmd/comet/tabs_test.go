package main_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// publishNumbers publishes 1, 2, ... to a field, until it is stopped. That returns the
// last number.
func publishNumbers(t *testing.T, s *comettest.Server, field string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	last := 0
	publishing.Go(func() {
		for ctx.Err() == nil {
			// What is on its way when it is stopped is published.
			a := s.Try(context.WithoutCancel(ctx), request{URL: "/config?field=" + field, Type: "text/plain", Body: fmt.Sprint(last + 1)})
			if a.Err != nil || a.Status != 200 {
				t.Errorf("publishing %d: %s", last+1, a)
				return
			}
			last++
			pause(ctx, 20*time.Millisecond)
		}
	})
	stop = func() int {
		cancel()
		publishing.Wait()
		return last
	}
	t.Cleanup(func() { stop() })
	return stop
}

// goOn waits until the page has so many messages more.
func (p *page) goOn(t *testing.T, more int) {
	t.Helper()
	var has int
	p.eval(t, "got.length", &has)
	p.waitFor(t, fmt.Sprintf("got.length >= %d", has+more))
}

// freeze stops all that runs in a page until it is thawed, as the browser does to
// pages in the background. What comes for it meanwhile waits.
func (p *page) freeze(t *testing.T) {
	t.Helper()
	p.call(t, "cdp", "Debugger.enable")
	p.call(t, "cdp", "Debugger.pause")
}

func (p *page) thaw(t *testing.T) {
	t.Helper()
	p.call(t, "cdp", "Debugger.disable")
}

// Over HTTP/1.1 a browser has six connections for each host.
func TestNineTabsShareAConnectionAndSurviveEachOther(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	s := startPages(t, "")
	field := freshField(t, s)
	address := s.URL(cometPage(map[string]any{}, field))
	tabs := []*page{b.open(t, "tab 0", desktop, address)}
	for i := 1; i < 9; i++ {
		tabs = append(tabs, tabs[0].tab(t, fmt.Sprint("tab ", i), address))
	}
	stop := publishNumbers(t, s, field)
	for _, tab := range tabs {
		tab.waitFor(t, "comet.state === 'open'")
		tab.goOn(t, 3)
	}
	comettest.WaitSubscribers(t, s, field, 1)

	start := time.Now()
	tenth := tabs[0].tab(t, "a tenth page", s.URL("/comet.html?options={}"))
	tenth.call(t, "evaluate", "fetch('/xhr.html', { cache: 'no-store' }).then((response) => response.text())")
	elapsed(t, "loading a tenth page, and a file", start, 0, 10*time.Second)

	// The tab that was opened first has the connection, and the next takes over.
	for _, end := range []struct {
		how string
		end func(*page)
	}{
		{"closed", func(p *page) { p.call(t, "close") }},
		{"gone by a crash", func(p *page) { p.start(t, "cdp", "Page.crash") }}, // which is never answered
		{"navigated away", func(p *page) { p.call(t, "goto", "about:blank") }},
	} {
		before := make([]int, len(tabs))
		for i, tab := range tabs {
			tab.eval(t, "at.length", &before[i])
		}
		end.end(tabs[0])
		tabs, before = tabs[1:], before[1:]
		longest := 0.
		for i, tab := range tabs {
			tab.goOn(t, 20)
			var gap float64
			tab.eval(t, fmt.Sprintf("Math.max(...at.map((time, i) => i >= %d ? time - at[i - 1] : 0))", before[i]), &gap)
			longest = max(longest, gap)
		}
		t.Logf("with the tab %s the others are told nothing for %.0f ms", end.how, longest)
		if longest > 3000 {
			t.Errorf("with the tab %s the others are told nothing for %.0f ms; want less than a second, on a machine with nothing else to do", end.how, longest)
		}
		comettest.WaitSubscribers(t, s, field, 1)
	}
	last := stop()
	for _, tab := range tabs {
		tab.wantNumbers(t, last)
	}
}

func TestPagesThatWereFrozenCatchUp(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	s := startPages(t, "")
	c := startCutter(t, s)

	t.Run("the tab that has the connection, and another is seen", func(t *testing.T) {
		field := freshField(t, s)
		address := c.url(cometPage(map[string]any{"second": 100, "patience": 100}, field)) // ten times as fast
		first := b.open(t, "first", desktop, address)
		first.waitFor(t, "comet.state === 'open'")
		other := first.tab(t, "other", address)
		other.waitFor(t, "comet.state === 'open'")
		stop := publishNumbers(t, s, field)
		other.goOn(t, 5)
		first.freeze(t)
		c.cut()
		start := time.Now()
		other.goOn(t, 20)
		t.Logf("the other takes over after %s, at a tenth of the time", time.Since(start).Round(time.Millisecond))
		first.thaw(t)
		first.goOn(t, 5)
		comettest.WaitSubscribers(t, s, field, 1)

		// The one that leads no more is told by the other.
		first.freeze(t)
		other.goOn(t, 20)
		first.thaw(t)
		last := stop()
		first.wantNumbers(t, last)
		other.wantNumbers(t, last)
		first.call(t, "close")
		other.call(t, "close")
	})

	for name, cut := range map[string]func(){
		"a page alone": func() {},
		"a page alone whose connection is cut meanwhile": c.cut,
	} {
		t.Run(name, func(t *testing.T) {
			field := freshField(t, s)
			p := b.open(t, name, desktop, c.url(cometPage(map[string]any{"second": 20, "patience": 500}, field)))
			p.waitFor(t, "comet.state === 'open'")
			stop := publishNumbers(t, s, field)
			p.goOn(t, 5)
			p.freeze(t)
			cut()
			pause(t.Context(), 2500*time.Millisecond) // which is what takes 90 s there, and is taken for a sleep
			p.thaw(t)
			p.goOn(t, 5)
			p.wantNumbers(t, stop())
			p.call(t, "close")
		})
	}

	t.Run("a page in the cache of the back button", func(t *testing.T) {
		field := freshField(t, s)
		p := b.open(t, "cached", desktop, c.url(cometPage(map[string]any{}, field)))
		stop := publishNumbers(t, s, field)
		p.goOn(t, 5)
		p.is(t, "kept = true")
		p.call(t, "goto", s.URL("/comet.html?options={}"))
		comettest.WaitSubscribers(t, s, field, 0)
		p.start(t, "evaluate", "history.back()") // which may not be answered
		comettest.WaitSubscribers(t, s, field, 1)
		p.goOn(t, 5)
		p.wantNumbers(t, stop())
		if !p.is(t, "window.kept") {
			t.Skip("the page was not kept, but loaded anew")
		}
	})
}
