package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// idle is what the server does while clients wait.
type idle struct {
	Connections int     `json:"connections"`
	Seconds     float64 `json:"seconds"`
	Percent     float64 `json:"cpu_percent"` // of one CPU
	outcome
}

// runIdle measures the server's CPU over --duration.
func runIdle(ctx context.Context, o *options) (*idle, error) {
	if o.pid == 0 {
		return nil, errors.New("idle measures the CPU of the server: give its --pid")
	}
	c, err := newCrowd(ctx, o, o.connections, 1, 1)
	if err != nil {
		return nil, err
	}
	defer c.close()
	fmt.Fprintf(c.log, "idle: %d clients come to be held\n", o.connections)
	if err := c.holdAll(ctx); err != nil {
		return nil, err
	}
	if _, err := c.settledRSS(ctx); err != nil { // what the runtime gives back takes CPU
		return nil, err
	}
	fmt.Fprintf(c.log, "idle: for %s\n", o.duration)
	before, err := c.server.cpu()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := pause(ctx, o.duration); err != nil {
		return nil, err
	}
	after, err := c.server.cpu()
	if err != nil {
		return nil, err
	}
	elapsed := time.Since(start)
	return &idle{
		Connections: o.connections, Seconds: elapsed.Seconds(),
		Percent: 100 * (after - before).Seconds() / elapsed.Seconds(),
		outcome: c.outcome(),
	}, nil
}

func (i *idle) table() table {
	return table{
		{"held", "over", "CPU"},
		{fmt.Sprint(i.Connections), fmt.Sprintf("%.1f s", i.Seconds), fmt.Sprintf("%.2f %%", i.Percent)},
	}
}
