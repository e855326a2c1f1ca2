package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// resume is what clients see of numbered messages that are published at full speed
// while they are cut off again and again, and go on from where they were.
type resume struct {
	Connections int     `json:"connections"`
	Messages    int     `json:"messages"`
	PerSecond   float64 `json:"per_second"` // published
	Reconnects  int     `json:"reconnects"`
	Lost        int     `json:"lost"`
	Repeated    int     `json:"repeated"`
	Disordered  int     `json:"disordered"`
	Gaps        int     `json:"gaps"` // told by the server
	outcome
}

func (r *resume) failed() bool {
	return r.Lost+r.Repeated+r.Disordered+r.Gaps > 0 || r.outcome.failed()
}

// follower is what a client has seen.
type follower struct {
	next    int          // the number after the greatest one seen
	missing map[int]bool // those below it that were not
}

// see takes the next number that a client was given.
func (f *follower) see(number int, r *resume) {
	switch {
	case number >= f.next:
		for n := f.next; n < number; n++ {
			f.missing[n] = true
			r.Lost++
		}
		f.next = number + 1
	case f.missing[number]:
		delete(f.missing, number)
		r.Lost--
		r.Disordered++
	default:
		r.Repeated++
	}
}

// runResume publishes o.messages to one field.
func runResume(ctx context.Context, o *options) (*resume, error) {
	if dialects[o.dialect].messages == nil {
		return nil, fmt.Errorf("resume: clients of --dialect %s carry no position or are given no message", o.dialect)
	}
	c, err := newCrowd(ctx, o, o.connections, 1, 1)
	if err != nil {
		return nil, err
	}
	defer c.close()
	r := &resume{Connections: o.connections, Messages: o.messages}
	followers := make([]follower, len(c.clients))
	for i := range followers {
		followers[i] = follower{next: c.fields[0].message + 1, missing: map[int]bool{}}
	}
	last := c.fields[0].message + o.messages
	complete := 0
	c.woken = func(number int, a *answer) {
		numbers, gap, err := c.d.messages(a)
		if err != nil {
			c.trouble[fmt.Sprintf("an answer that cannot be read: %v", err)]++
		}
		if gap {
			r.Gaps++
		}
		f := &followers[number]
		before := f.next
		for _, n := range numbers {
			f.see(n, r)
		}
		if before <= last && f.next > last {
			complete++
		}
		c.ask(number)
	}
	if err := c.holdAll(ctx); err != nil {
		return nil, err
	}
	var ended time.Time
	start := time.Now()
	c.net.mu.Lock()
	c.published = func(_ int, a *answer) {
		if err := c.publishError(a); err != nil {
			c.trouble[err.Error()]++
		}
		if c.fields[0].message < last {
			c.publish(0, 0)
		} else {
			ended = time.Now()
		}
	}
	c.publish(0, 0)
	c.net.mu.Unlock()

	cutting, stop := context.WithCancel(ctx)
	defer stop()
	go c.cutAtRandom(cutting, &r.Reconnects)
	err = c.wait(ctx, func() bool { return complete+c.lost == len(c.clients) && !ended.IsZero() })
	stop()
	c.net.mu.Lock()
	for i := range followers {
		r.Lost += max(0, last+1-followers[i].next)
	}
	if !ended.IsZero() {
		r.PerSecond = float64(o.messages) / ended.Sub(start).Seconds()
	}
	c.net.mu.Unlock()
	if errors.Is(err, errTimeout) {
		c.trouble[err.Error()]++
	} else if err != nil {
		return nil, err
	}
	r.outcome = c.outcome()
	return r, nil
}

// cutAtRandom cuts one client after another off, and has it come back from where it
// was. It is called without the lock.
func (c *crowd) cutAtRandom(ctx context.Context, count *int) {
	for pause(ctx, 10*time.Millisecond) == nil {
		c.net.mu.Lock()
		number := rand.IntN(len(c.clients)) //nolint:gosec // which one does not matter
		if cl := &c.clients[number]; cl.holding && ctx.Err() == nil {
			c.cut(number)
			*count++
			c.ask(number)
		}
		c.net.mu.Unlock()
	}
}

func (r *resume) table() table {
	return table{
		{"messages", "a second", "clients", "reconnects", "lost", "repeated", "disordered", "gaps told"},
		{
			fmt.Sprint(r.Messages), fmt.Sprintf("%.0f", r.PerSecond), fmt.Sprint(r.Connections),
			fmt.Sprint(r.Reconnects), fmt.Sprint(r.Lost), fmt.Sprint(r.Repeated), fmt.Sprint(r.Disordered), fmt.Sprint(r.Gaps),
		},
	}
}
