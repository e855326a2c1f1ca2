package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// slow is what clients that read nothing of their streams do to the others, and to the
// server.
type slow struct {
	Connections int         `json:"connections"`
	Stopped     int         `json:"stopped"` // of them, who read nothing
	Size        int         `json:"message_bytes"`
	Rate        float64     `json:"rate"`
	Rounds      []slowRound `json:"rounds"`
	Median      slowRound   `json:"median"`
	outcome
}

// slowRound is a time in which those that read are alone, and then one in which the
// others are there too.
type slowRound struct {
	// Alone and Beside are of those that read, each the median over the publications.
	Alone  latencies `json:"alone"`
	Beside latencies `json:"beside"`

	// When the last client had the publication that took longest, in milliseconds.
	LongestAlone  float64 `json:"longest_alone_ms"`
	LongestBeside float64 `json:"longest_beside_ms"`

	// How many were dropped, as the server counts them, and when: in seconds from the
	// first publication on.
	Dropped   int     `json:"dropped"`
	FirstDrop float64 `json:"first_dropped_seconds"`
	LastDrop  float64 `json:"last_dropped_seconds"`

	// Memory is by how many bytes the most resident memory beside is above that alone.
	Memory int64 `json:"memory"`
}

// runSlow measures o.rounds times.
func runSlow(ctx context.Context, o *options) (*slow, error) {
	switch {
	case o.pid == 0 || o.metrics == "":
		return nil, errors.New("slow measures memory, and asks the server whom it dropped: give --pid and --metrics")
	case dialects[o.dialect].cut == nil:
		return nil, fmt.Errorf("slow: clients of --dialect %s hold no streams", o.dialect)
	case o.rate == 0 || o.stopped == 0 || o.stopped == o.connections:
		return nil, errors.New("slow: give a --rate, and --stopped that are some of the --connections")
	}
	c, err := newCrowd(ctx, o, o.connections, 1, 1)
	if err != nil {
		return nil, err
	}
	defer c.close()
	s := &slow{Connections: o.connections, Stopped: o.stopped, Size: o.size, Rate: o.rate}
	for number := o.connections - o.stopped; number < o.connections; number++ {
		c.clients[number].stops = true
	}
	for round := range o.rounds {
		r, err := c.slowRound(ctx)
		if errors.Is(err, errTimeout) {
			break
		}
		if err != nil {
			return nil, err
		}
		s.Rounds = append(s.Rounds, *r)
		fmt.Fprintf(c.log, "slow: round %d of %d: %d dropped after %.1f s\n", round+1, o.rounds, r.Dropped, r.LastDrop)
	}
	s.Median = slowRound{
		Alone:  medianLatencies(s.Rounds, func(r slowRound) latencies { return r.Alone }),
		Beside: medianLatencies(s.Rounds, func(r slowRound) latencies { return r.Beside }),

		LongestAlone:  medianOf(s.Rounds, func(r slowRound) float64 { return r.LongestAlone }),
		LongestBeside: medianOf(s.Rounds, func(r slowRound) float64 { return r.LongestBeside }),

		Dropped:   int(medianOf(s.Rounds, func(r slowRound) float64 { return float64(r.Dropped) })),
		FirstDrop: medianOf(s.Rounds, func(r slowRound) float64 { return r.FirstDrop }),
		LastDrop:  medianOf(s.Rounds, func(r slowRound) float64 { return r.LastDrop }),
		Memory:    int64(medianOf(s.Rounds, func(r slowRound) float64 { return float64(r.Memory) })),
	}
	s.outcome = c.outcome()
	return s, nil
}

// slowRound measures once. It is called without the lock.
func (c *crowd) slowRound(ctx context.Context) (*slowRound, error) {
	readers := len(c.clients) - c.o.stopped
	fmt.Fprintf(c.log, "slow: %d clients come to be held\n", readers)
	if err := c.hold(ctx, readers); err != nil {
		return nil, err
	}
	if _, err := c.flow(ctx, readers, time.Second, 0); err != nil { // to warm up
		return nil, err
	}
	alone, err := c.flow(ctx, readers, c.o.duration, 0)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c.log, "slow: %d come that read nothing\n", c.o.stopped)
	c.net.mu.Lock()
	for number := readers; number < len(c.clients); number++ {
		c.clients[number].position = c.clients[0].position // or all there was would come first
	}
	c.net.mu.Unlock()
	if err := c.holdAll(ctx); err != nil {
		return nil, err
	}
	beside, err := c.flow(ctx, readers, c.o.settle, c.o.stopped)
	if err != nil {
		return nil, err
	}
	c.net.mu.Lock()
	for number := readers; number < len(c.clients); number++ {
		if c.clients[number].holding {
			c.cut(number)
		}
	}
	c.net.mu.Unlock()
	return &slowRound{
		Alone: alone.latencies, Beside: beside.latencies, LongestAlone: alone.longest, LongestBeside: beside.longest,
		Dropped: beside.dropped, FirstDrop: beside.firstDrop.Seconds(), LastDrop: beside.lastDrop.Seconds(),
		Memory: beside.rss - alone.rss,
	}, c.settle(ctx)
}

// flow is what was seen while messages were published at --rate.
type flow struct {
	latencies
	longest             float64
	rss                 int64 // the most
	dropped             int
	firstDrop, lastDrop time.Duration
}

// flow publishes to readers for a time, or until the server has dropped as many as are
// given, unless that is 0. It is called without the lock.
func (c *crowd) flow(ctx context.Context, readers int, d time.Duration, until int) (*flow, error) {
	var (
		all   [][]time.Duration // by message, from first on
		since []time.Time       // likewise
		left  int               // to be delivered
		free  = true
		first = c.fields[0].message + 1
	)
	c.net.mu.Lock()
	c.published = func(_ int, a *answer) {
		free = true
		if err := c.publishError(a); err != nil {
			c.trouble[err.Error()]++
		}
	}
	c.woken = func(number int, a *answer) {
		c.ask(number)
		numbers, gap, err := c.d.messages(a)
		if gap || err != nil || slices.ContainsFunc(numbers, func(n int) bool { return n < first || n-first >= len(since) }) {
			c.trouble[fmt.Sprintf("what is none of the messages: %.80q", a.body)]++
			return
		}
		for _, n := range numbers {
			all[n-first] = append(all[n-first], time.Since(since[n-first]))
			left--
		}
	}
	c.net.mu.Unlock()

	watching, stop := context.WithCancel(ctx)
	defer stop()
	publishing, enough := context.WithCancel(ctx)
	defer enough()
	f, ended := new(flow), make(chan error, 1)
	go func() { ended <- c.observe(watching, f, until, enough) }()
	interval := time.Duration(float64(time.Second) / c.o.rate)
	start := time.Now()
	for due := start; due.Before(start.Add(d)) && pause(publishing, time.Until(due)) == nil; due = due.Add(interval) {
		c.net.mu.Lock()
		if free {
			free = false
			left += readers
			all = append(all, make([]time.Duration, 0, readers))
			since = append(since, time.Now())
			c.publish(0, 0)
		}
		c.net.mu.Unlock()
	}
	if err := c.wait(ctx, func() bool { return free && (left <= 0 || c.lost > 0) }); err != nil {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		if errors.Is(err, errTimeout) {
			c.trouble[fmt.Sprintf("no answer within %s of a publication", c.o.timeout)] += left
		}
		return nil, err
	}
	stop()
	if err := <-ended; err != nil {
		return nil, err
	}
	each := make([]latencies, len(all))
	for i := range all {
		each[i] = newLatencies(all[i])
		f.longest = max(f.longest, each[i].Last)
	}
	f.latencies = medianLatencies(each, func(l latencies) latencies { return l })
	return f, nil
}

// observe looks at the server until the context ends, and calls enough when as many were
// dropped as are given. It is called without the lock.
func (c *crowd) observe(ctx context.Context, f *flow, until int, enough func()) error {
	start := time.Now()
	for before := -1; ; {
		rss, err := c.server.rss()
		if err != nil {
			return err
		}
		f.rss = max(f.rss, rss)
		total, err := dropped(ctx, c.o.metrics)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if before < 0 {
			before = total
		}
		if n := total - before; n > f.dropped {
			if f.lastDrop = time.Since(start); f.dropped == 0 {
				f.firstDrop = f.lastDrop
			}
			if f.dropped < until && n >= until {
				enough()
			}
			f.dropped = n
		}
		if pause(ctx, 250*time.Millisecond) != nil {
			return nil
		}
	}
}

// dropped asks the metrics at an address how many clients were dropped so far.
func dropped(ctx context.Context, address string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, fmt.Errorf("--metrics: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("--metrics: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("--metrics: %w", err)
	}
	_, rest, ok := bytes.Cut(text, []byte("\ncomet_dropped_clients_total "))
	number, _, _ := strings.Cut(string(rest[:min(len(rest), 40)]), "\n")
	value, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("--metrics: %s has no comet_dropped_clients_total", address)
	}
	return int(value), nil
}

func (s *slow) table() table {
	t := table{{"round", "median alone", "beside", "p99 alone", "beside", "longest alone", "beside", "dropped", "first after", "last after", "memory"}}
	row := func(name string, r slowRound) {
		t = append(t, []string{
			name, ms(r.Alone.Median), ms(r.Beside.Median), ms(r.Alone.P99), ms(r.Beside.P99),
			ms(r.LongestAlone), ms(r.LongestBeside), fmt.Sprint(r.Dropped),
			fmt.Sprintf("%.1f s", r.FirstDrop), fmt.Sprintf("%.1f s", r.LastDrop), mib(r.Memory),
		})
	}
	for i, r := range s.Rounds {
		row(fmt.Sprint(i+1), r)
	}
	row("median", s.Median)
	return t
}
