package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// hold is what a held connection takes of the server's memory.
type hold struct {
	Connections int `json:"connections"`

	// The server's resident memory, in bytes: before anybody is held, when all first
	// are, after the wakes with no collection asked for, and when it has settled.
	Idle    int64 `json:"rss_idle"`
	First   int64 `json:"rss_first_held"`
	Woken   int64 `json:"rss_after_wakes"`
	Settled int64 `json:"rss_settled"`

	// The same for each connection, above what the idle server has.
	FirstEach   float64 `json:"first_held_bytes_each"`
	WokenEach   float64 `json:"after_wakes_bytes_each"`
	SettledEach float64 `json:"settled_bytes_each"`

	// Wakes is how many publications woke all.
	Wakes int `json:"wakes"`
	outcome
}

// runHold measures the memory of held connections.
func runHold(ctx context.Context, o *options) (*hold, error) {
	if o.pid == 0 {
		return nil, errors.New("hold measures the memory of the server: give its --pid")
	}
	if err := warmUp(ctx, o); err != nil {
		return nil, err
	}
	c, err := newCrowd(ctx, o, o.connections, 1, 1)
	if err != nil {
		return nil, err
	}
	defer c.close()
	h := &hold{Connections: o.connections, Wakes: o.wakes}
	if h.Idle, err = c.settledRSS(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.log, "hold: idle %s; %d clients come to be held\n", mib(h.Idle), o.connections)
	if err := c.holdAll(ctx); err != nil {
		return nil, err
	}
	if h.First, err = c.server.rss(); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.log, "hold: first held %s\n", mib(h.First))
	for range o.wakes {
		if _, err := c.fan(ctx); errors.Is(err, errTimeout) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	if h.Woken, err = c.server.rss(); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.log, "hold: after %d wakes %s; it settles\n", o.wakes, mib(h.Woken))
	if h.Settled, err = c.settledRSS(ctx); err != nil {
		return nil, err
	}
	h.outcome = c.outcome()
	each := func(rss int64) float64 { return float64(rss-h.Idle) / float64(o.connections) }
	h.FirstEach, h.WokenEach, h.SettledEach = each(h.First), each(h.Woken), each(h.Settled)
	return h, nil
}

// warmUp has the server answer a few requests of the kind that is to come, so that an
// idle server is one that has what it needs to answer.
func warmUp(ctx context.Context, o *options) error {
	few := *o
	few.connections, few.rounds = min(8, o.connections), 1
	few.log = io.Discard
	f, err := runFanout(ctx, &few, 4)
	if err != nil {
		return err
	}
	for what := range f.Trouble {
		return errors.New(what)
	}
	return nil
}

// settledRSS forces a collection where --gc says how, waits until the server's memory
// stands still, and returns it. It is called without the lock.
func (c *crowd) settledRSS(ctx context.Context) (int64, error) {
	for range 2 { // what a first collection finalises, a second one frees
		if err := collect(ctx, c.o.gc); err != nil {
			return 0, err
		}
	}
	const step, quiet = 250 * time.Millisecond, 3 * time.Second
	last, err := c.server.rss()
	if err != nil {
		return 0, err
	}
	still := time.Duration(0)
	for waited := time.Duration(0); still < quiet && waited < c.o.settle; waited += step {
		if err := pause(ctx, step); err != nil {
			return 0, err
		}
		now, err := c.server.rss()
		if err != nil {
			return 0, err
		}
		still += step
		if change := now - last; max(change, -change) > last/500 {
			still, last = 0, now
		}
	}
	return c.server.rss()
}

// collect asks for an address that makes the server collect its garbage.
func collect(ctx context.Context, address string) error {
	if address == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("--gc: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("--gc: %w", err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return fmt.Errorf("--gc: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("--gc: %s answers %s", address, res.Status)
	}
	return nil
}

func (h *hold) table() table {
	row := func(when string, rss int64, each float64) []string {
		return []string{when, mib(rss), kib(each)}
	}
	return table{
		{fmt.Sprintf("%d held", h.Connections), "RSS", "each"},
		{"idle", mib(h.Idle), ""},
		row("first held", h.First, h.FirstEach),
		row(fmt.Sprintf("after %d wakes", h.Wakes), h.Woken, h.WokenEach),
		row("settled", h.Settled, h.SettledEach),
	}
}
