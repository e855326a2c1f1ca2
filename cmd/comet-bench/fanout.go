package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// fanout is what one publication to all clients takes.
type fanout struct {
	Connections int           `json:"connections"`
	Rounds      []fanoutRound `json:"rounds"`
	Median      fanoutRound   `json:"median"`
	outcome
}

// fanoutRound is one publication.
type fanoutRound struct {
	// latencies are from just before the publication was sent until an answer was
	// there completely.
	latencies

	// Delivery is the server's CPU for the publication, by answer; Back that for a
	// client which comes back, measured apart: nobody did before all had their answer.
	Delivery float64 `json:"cpu_us_per_delivery,omitempty"`
	Back     float64 `json:"cpu_us_per_return,omitempty"`
}

// runFanout publishes one message to all, warmups times unmeasured and then o.rounds
// times.
func runFanout(ctx context.Context, o *options, warmups int) (*fanout, error) {
	c, err := newCrowd(ctx, o, o.connections, 1, 1)
	if err != nil {
		return nil, err
	}
	defer c.close()
	fmt.Fprintf(c.log, "fanout: %d clients come to be held\n", o.connections)
	if err := c.holdAll(ctx); err != nil {
		return nil, err
	}
	f := &fanout{Connections: o.connections}
	for round := range warmups + o.rounds {
		r, err := c.fan(ctx)
		if errors.Is(err, errTimeout) {
			break
		}
		if err != nil {
			return nil, err
		}
		if round < warmups {
			continue
		}
		f.Rounds = append(f.Rounds, *r)
		fmt.Fprintf(c.log, "fanout: round %d of %d: the last client after %.1f ms\n", round-warmups+1, o.rounds, r.Last)
	}
	f.Median = medianFanout(f.Rounds)
	f.outcome = c.outcome()
	return f, nil
}

// fan publishes one message to all clients, waits until they have it, and has them
// come back. It is called without the lock.
func (c *crowd) fan(ctx context.Context) (*fanoutRound, error) {
	before, err := c.cpu()
	if err != nil {
		return nil, err
	}
	all := make([]time.Duration, 0, len(c.clients))
	published := false
	c.net.mu.Lock()
	c.published = func(_ int, a *answer) {
		published = true
		if err := c.publishError(a); err != nil {
			c.trouble[err.Error()]++
		}
	}
	start := time.Now()
	c.woken = func(int, *answer) { all = append(all, time.Since(start)) }
	c.publish(0, 0)
	c.net.mu.Unlock()
	if err := c.wait(ctx, func() bool { return c.held == 0 && published }); err != nil {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		if errors.Is(err, errTimeout) {
			c.lost += c.held
			c.trouble[fmt.Sprintf("no answer within %s of a publication", c.o.timeout)] += c.held
		}
		return nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	delivered, err := c.cpu()
	if err != nil {
		return nil, err
	}
	if err := c.holdAll(ctx); err != nil {
		return nil, err
	}
	back, err := c.cpu()
	if err != nil {
		return nil, err
	}
	return &fanoutRound{
		latencies: newLatencies(all),
		Delivery:  microseconds(delivered-before) / float64(max(1, len(all))),
		Back:      microseconds(back-delivered) / float64(max(1, len(all))),
	}, nil
}

// medianFanout returns the median of each figure.
func medianFanout(rounds []fanoutRound) fanoutRound {
	return fanoutRound{
		latencies: medianLatencies(rounds, func(r fanoutRound) latencies { return r.latencies }),
		Delivery:  medianOf(rounds, func(r fanoutRound) float64 { return r.Delivery }),
		Back:      medianOf(rounds, func(r fanoutRound) float64 { return r.Back }),
	}
}

func (f *fanout) table() table {
	t := table{{"round", "first", "median", "p99", "last", "CPU a delivery", "CPU a return"}}
	row := func(name string, r fanoutRound) {
		t = append(t, []string{
			name, ms(r.First), ms(r.Median), ms(r.P99), ms(r.Last), us(r.Delivery), us(r.Back),
		})
	}
	for i, r := range f.Rounds {
		row(fmt.Sprint(i+1), r)
	}
	row("median", f.Median)
	return t
}
