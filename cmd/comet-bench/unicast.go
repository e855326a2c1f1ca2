package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// unicast is what publishing to many fields takes, each of which has one client that
// comes back each time.
type unicast struct {
	Connections int            `json:"connections"`
	Publishers  int            `json:"publishers"`
	Rate        float64        `json:"rate,omitempty"`
	Rounds      []unicastRound `json:"rounds"`
	Median      unicastRound   `json:"median"`
	Lost        int            `json:"lost"`
	outcome
}

// unicastRound is one measurement of --duration.
type unicastRound struct {
	// PerSecond is how many publications a second were delivered.
	PerSecond float64 `json:"per_second"`
	latencies

	// Cycle is the server's CPU for all that belongs to one publication: taking and
	// answering it, delivering it, and the client that comes back.
	Cycle float64 `json:"cpu_us_per_cycle,omitempty"`
}

// errLost is returned when a message did not come.
var errLost = errors.New("a message was not delivered")

// stream publishes to fields whose clients wait.
type stream struct {
	c       *crowd
	ready   []int       // fields whose client waits, the longest waiting first
	free    []int       // publishers with nothing under way
	since   []time.Time // by field: when its message was published
	due     bool        // fields are published to as soon as may be
	all     []time.Duration
	under   int // messages published and not yet delivered
	running int // publishers that wait for their answer
}

// runUnicast measures o.rounds times, after one warm-up.
func runUnicast(ctx context.Context, o *options) (*unicast, error) {
	// So few that a client has waited for a while when it is published to: a server
	// without positions, such as the floor, could see the publication first.
	publishers := min(o.publishers, max(1, o.connections/4))
	c, err := newCrowd(ctx, o, o.connections, o.connections, publishers)
	if err != nil {
		return nil, err
	}
	defer c.close()
	fmt.Fprintf(c.log, "unicast: %d clients come to be held\n", o.connections)
	if err := c.holdAll(ctx); err != nil {
		return nil, err
	}
	u := &unicast{Connections: o.connections, Publishers: publishers, Rate: o.rate}
	s := &stream{c: c, since: make([]time.Time, len(c.fields))}
	for field := range c.fields {
		s.ready = append(s.ready, field)
	}
	for p := range publishers {
		s.free = append(s.free, p)
	}
	c.woken, c.published = s.woken, s.published
	for round := -1; round < o.rounds; round++ {
		d := o.duration
		if round < 0 { // to warm up
			d /= 4
		}
		r, err := s.measure(ctx, d)
		if errors.Is(err, errLost) {
			break
		}
		if err != nil {
			return nil, err
		}
		if round < 0 {
			continue
		}
		u.Rounds = append(u.Rounds, *r)
		fmt.Fprintf(c.log, "unicast: round %d of %d: %.0f a second\n", round+1, o.rounds, r.PerSecond)
	}
	u.Lost = s.under
	u.Median = unicastRound{
		PerSecond: medianOf(u.Rounds, func(r unicastRound) float64 { return r.PerSecond }),
		latencies: medianLatencies(u.Rounds, func(r unicastRound) latencies { return r.latencies }),
		Cycle:     medianOf(u.Rounds, func(r unicastRound) float64 { return r.Cycle }),
	}
	u.outcome = c.outcome()
	return u, nil
}

// measure publishes for a time, waits until all is delivered, and tells how it went.
// It is called without the lock.
func (s *stream) measure(ctx context.Context, d time.Duration) (*unicastRound, error) {
	c := s.c
	before, err := c.cpu()
	if err != nil {
		return nil, err
	}
	c.net.mu.Lock()
	s.all = s.all[:0]
	s.due = c.o.rate == 0
	s.dispatch()
	c.net.mu.Unlock()
	start := time.Now()
	if c.o.rate == 0 {
		err = pause(ctx, d)
	} else {
		err = s.pace(ctx, start, d)
	}
	c.net.mu.Lock()
	s.due = false
	delivered, elapsed := len(s.all), time.Since(start)
	c.net.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := c.wait(ctx, func() bool { return s.under == 0 && s.running == 0 }); errors.Is(err, errTimeout) {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		c.trouble[fmt.Sprintf("no answer within %s of a publication", c.o.timeout)] += s.under
		return nil, errLost
	} else if err != nil {
		return nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	after, err := c.cpu()
	if err != nil {
		return nil, err
	}
	return &unicastRound{
		PerSecond: float64(delivered) / elapsed.Seconds(),
		latencies: newLatencies(s.all),
		Cycle:     microseconds(after-before) / float64(max(1, len(s.all))),
	}, nil
}

// pace publishes at --rate. It is called without the lock.
func (s *stream) pace(ctx context.Context, start time.Time, d time.Duration) error {
	interval := time.Duration(float64(time.Second) / s.c.o.rate)
	for due := start; due.Before(start.Add(d)); due = due.Add(interval) {
		if wait := time.Until(due); wait > 0 {
			sleep(wait)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.c.net.mu.Lock()
		if len(s.free) > 0 && len(s.ready) > 0 {
			s.next()
		}
		s.c.net.mu.Unlock()
	}
	return nil
}

// dispatch has all free publishers publish.
func (s *stream) dispatch() {
	for s.due && len(s.free) > 0 && len(s.ready) > 0 {
		s.next()
	}
}

// next publishes to the field whose client has waited longest.
func (s *stream) next() {
	publisher, field := s.free[len(s.free)-1], s.ready[0]
	s.free, s.ready = s.free[:len(s.free)-1], s.ready[1:]
	s.under++
	s.running++
	s.since[field] = time.Now()
	s.c.publish(publisher, field)
}

func (s *stream) published(publisher int, a *answer) {
	s.running--
	if err := s.c.publishError(a); err != nil {
		s.c.trouble[err.Error()]++
		return // it publishes no more
	}
	s.free = append(s.free, publisher)
	s.dispatch()
}

func (s *stream) woken(number int, a *answer) {
	field := s.c.clients[number].field
	s.all = append(s.all, time.Since(s.since[field]))
	s.under--
	if s.c.d.messages != nil {
		var text [20]byte
		if !bytes.Contains(a.body, strconv.AppendInt(text[:0], int64(s.c.fields[field].message), 10)) {
			s.c.trouble["another message than the one that was published"]++
		}
	}
	s.c.ask(number)
	s.ready = append(s.ready, field)
	s.dispatch()
}

func (u *unicast) table() table {
	t := table{{"round", "a second", "first", "median", "p99", "last", "CPU a cycle"}}
	row := func(name string, r unicastRound) {
		t = append(t, []string{
			name, fmt.Sprintf("%.0f", r.PerSecond), ms(r.First), ms(r.Median), ms(r.P99), ms(r.Last), us(r.Cycle),
		})
	}
	for i, r := range u.Rounds {
		row(fmt.Sprint(i+1), r)
	}
	row("median", u.Median)
	return t
}
