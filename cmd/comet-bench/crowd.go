package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// crowd is what a case is made of: clients that hold, fields that they watch, and
// connections that publish. Its state is guarded by net.mu; methods that say nothing
// else are called with it held.
type crowd struct {
	o          *options
	d          *dialect
	net        *network
	clients    []client
	lines      lines // one for each client
	fields     []topic
	publishers lines
	server     *process // nil when there is no pid
	log        io.Writer

	// woken is told that a client was woken, and published that a publication of a
	// publisher was answered. Both may ask again at once.
	woken     func(client int, a *answer)
	published func(publisher int, a *answer)

	held    int            // clients that wait now
	lost    int            // clients that got an error, or no answer, and do not come back
	trouble map[string]int // what went wrong, and how often

	answers int         // how many have come
	reached func() bool // what wait waits for
	signal  chan struct{}
}

// client is one that holds.
type client struct {
	field    int
	path     string
	position string
	holding  bool
	lost     bool
	streams  bool // it holds a stream, which goes on
	stops    bool // it reads nothing of its stream
}

// topic is a field that is published to.
type topic struct {
	name     string
	path     string // to publish to it
	message  int    // the last one published
	position string // after the first one
}

// newCrowd connects to the server and gives each field a first message, so that all
// clients have a position to go on from. It is called without the lock.
func newCrowd(ctx context.Context, o *options, clients, fields, publishers int) (*crowd, error) {
	d := dialects[o.dialect]
	holdAt, err := newTarget(ctx, o.url)
	if err != nil {
		return nil, err
	}
	publishAt, err := newTarget(ctx, o.publish)
	if err != nil {
		return nil, err
	}
	if err := o.check(clients, publishers); err != nil {
		return nil, err
	}
	c := &crowd{o: o, d: d, net: new(network), log: o.log, trouble: map[string]int{}}
	if o.pid != 0 {
		if c.server, err = newProcess(o.pid); err != nil {
			return nil, err
		}
	}
	for i := range fields {
		name := o.field
		if fields > 1 {
			name = fmt.Sprintf("%s/%d", o.field, i)
		}
		c.fields = append(c.fields, topic{
			name: name, path: expand(publishAt.template, d.publishPath, name), message: firstMessage,
		})
	}
	for i := range clients {
		field := i % fields
		c.clients = append(c.clients, client{
			field: field, path: expand(holdAt.template, d.holdPath, c.fields[field].name),
		})
	}
	c.woken = func(number int, _ *answer) { c.ask(number) } // somebody else publishes
	told := func(publisher int, a *answer) { c.published(publisher, a); c.look() }
	c.lines, err = c.open(holdAt, o.protocol, clients, c.answered)
	if err == nil {
		c.publishers, err = c.open(publishAt, protocolH1, publishers, told)
	}
	if err == nil {
		err = c.prime(ctx, publishers)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// open makes lines to a target.
func (c *crowd) open(t *target, protocol string, n int, got got) (lines, error) {
	if protocol == protocolH1 && !t.tls {
		return c.net.plain(t, n, got)
	}
	streams := 1
	if protocol == protocolH2Many {
		streams = c.o.streams
	}
	return newTripLines(&c.net.mu, t, protocol, n, streams, got), nil
}

// close drops all connections. It is called without the lock.
func (c *crowd) close() {
	c.net.mu.Lock()
	if c.lines != nil {
		c.lines.close()
	}
	if c.publishers != nil {
		c.publishers.close()
	}
	c.net.mu.Unlock()
	c.net.close()
}

// prime publishes a first message to every field. It is called without the lock.
func (c *crowd) prime(ctx context.Context, publishers int) error {
	var failure error
	next, left := 0, len(c.fields)
	under := make([]int, publishers)
	more := func(publisher int) {
		if next < len(c.fields) && failure == nil {
			under[publisher] = next
			next++
			c.publish(publisher, under[publisher])
		}
	}
	c.published = func(publisher int, a *answer) {
		f := &c.fields[under[publisher]]
		err := c.publishError(a)
		if err == nil {
			f.position, err = c.d.published(a, f.message)
		}
		if err != nil && failure == nil {
			failure = err
		}
		left--
		more(publisher)
	}
	c.net.mu.Lock()
	for p := range publishers {
		more(p)
	}
	c.net.mu.Unlock()
	if err := c.wait(ctx, func() bool { return left == 0 || failure != nil }); err != nil {
		return fmt.Errorf("publishing a first message to each field: %w", err)
	}
	if failure != nil {
		return failure
	}
	for i := range c.clients {
		c.clients[i].position = c.fields[c.clients[i].field].position
	}
	return nil
}

// publish publishes the next message of a field.
func (c *crowd) publish(publisher, field int) {
	f := &c.fields[field]
	f.message++
	r := c.d.publish(f.path, f.name, f.message)
	r.body += strings.Repeat(" ", max(0, c.o.size-len(r.body)))
	c.publishers.ask(publisher, r)
}

// ask has a client hold. One that has a stream waits for what comes next on it.
func (c *crowd) ask(number int) {
	cl := &c.clients[number]
	cl.holding = true
	c.held++
	if cl.streams {
		return
	}
	r := c.d.hold(cl.path, cl.position)
	r.cut, r.stops = c.d.cut, cl.stops
	c.lines.ask(number, r)
}

// cut cuts off a client that holds.
func (c *crowd) cut(number int) {
	c.lines.cut(number)
	cl := &c.clients[number]
	cl.holding, cl.streams = false, false
	c.held--
}

// answered looks at an answer to a client, or a part of its stream. A client that was
// not woken comes back at once, as clients do after a timeout.
func (c *crowd) answered(number int, a *answer) {
	cl := &c.clients[number]
	cl.streams = a.part
	if a.part && !c.d.woken(a) {
		return // what a stream has besides messages
	}
	if cl.holding {
		cl.holding = false
		c.held--
	} else if a.part {
		c.trouble["a message that was not published"]++
		return
	}
	if err := holdError(a); err != nil {
		cl.lost = true
		c.lost++
		c.trouble[err.Error()]++
		c.look()
		return
	}
	if c.d.woken(a) {
		cl.position = c.d.position(a, c.fields[cl.field].message)
		c.woken(number, a)
	} else {
		c.ask(number)
	}
	c.look()
}

// holdAll has every client that does not wait hold, and returns when the server has
// all of them. It is called without the lock.
func (c *crowd) holdAll(ctx context.Context) error { return c.hold(ctx, len(c.clients)) }

// hold is holdAll for the first n clients.
func (c *crowd) hold(ctx context.Context, n int) error {
	// Those that connect do it in waves, or the queue of the listening socket overflows
	// and they try again after a second.
	const wave = 128
	for i := 0; i < n; i += wave {
		c.net.mu.Lock()
		for number := i; number < min(i+wave, n); number++ {
			if cl := &c.clients[number]; !cl.holding && !cl.lost {
				c.ask(number)
			}
		}
		c.net.mu.Unlock()
		if err := pause(ctx, 4*time.Millisecond); err != nil {
			return err
		}
	}
	if err := c.counted(ctx, n); err != nil {
		return err
	}
	return c.settle(ctx)
}

// counted waits until the server says that all of the first clients are
// held, where it can be asked. It is called without the lock.
func (c *crowd) counted(ctx context.Context, all int) error {
	if c.d.subscribers == nil || len(c.fields) > 1 {
		return nil
	}
	said, most := time.Now(), 0
	for end := time.Now().Add(c.o.timeout); ; {
		n, err := c.count(ctx)
		if err != nil {
			return err
		}
		c.net.mu.Lock()
		held, lost := c.held, c.lost
		c.net.mu.Unlock()
		if n >= held && held+lost == all {
			return nil
		}
		if n > most {
			most, end = n, time.Now().Add(c.o.timeout)
		}
		if time.Now().After(end) {
			return fmt.Errorf("the server holds %d requests of %d after %s", n, held, c.o.timeout)
		}
		if time.Since(said) > time.Second {
			said = time.Now()
			fmt.Fprintf(c.log, "  %d of %d held\n", n, all)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// count asks how many requests the server holds on the first field. It is called
// without the lock.
func (c *crowd) count(ctx context.Context) (int, error) {
	n, done := 0, false
	var failure error
	c.net.mu.Lock()
	c.published = func(_ int, a *answer) {
		done = true
		if failure = c.publishError(a); failure == nil {
			n, failure = c.d.count(a, c.fields[0].name)
		}
	}
	c.publishers.ask(0, c.d.subscribers(c.fields[0].path))
	c.net.mu.Unlock()
	if err := c.wait(ctx, func() bool { return done }); err != nil {
		return 0, fmt.Errorf("asking how many are held: %w", err)
	}
	return n, failure
}

// look sees, after an answer, whether what wait waits for is reached.
func (c *crowd) look() {
	c.answers++
	if c.reached != nil && c.reached() {
		c.reached = nil
		close(c.signal)
	}
}

// errTimeout is returned when nothing has come for --timeout.
var errTimeout = errors.New("no answer has come")

// wait waits until reached is true, which is asked after each answer. When no answer at
// all comes for --timeout it gives up. It is called without the lock.
func (c *crowd) wait(ctx context.Context, reached func() bool) error {
	signal := make(chan struct{})
	c.net.mu.Lock()
	c.reached, c.signal = reached, signal
	c.look()
	c.net.mu.Unlock()
	for answers := -1; ; {
		timeout := time.NewTimer(c.o.timeout)
		select {
		case <-signal:
			timeout.Stop()
			return nil
		case <-ctx.Done():
			timeout.Stop()
			return ctx.Err()
		case <-timeout.C:
		}
		c.net.mu.Lock()
		if c.reached != nil && answers == c.answers {
			c.reached = nil
			c.net.mu.Unlock()
			return fmt.Errorf("%w for %s", errTimeout, c.o.timeout)
		}
		answers = c.answers
		c.net.mu.Unlock()
	}
}

// settle waits until the server has nothing more to do, as its CPU tells. It is called
// without the lock.
func (c *crowd) settle(ctx context.Context) error {
	if c.server == nil {
		return pause(ctx, 500*time.Millisecond)
	}
	const step, quiet = 50 * time.Millisecond, time.Millisecond
	last, err := c.server.cpu()
	if err != nil {
		return err
	}
	for range 60 {
		if err := pause(ctx, step); err != nil {
			return err
		}
		now, err := c.server.cpu()
		if err != nil {
			return err
		}
		if now-last < quiet {
			return nil
		}
		last = now
	}
	return nil // it is never idle, which its figures then say
}

// cpu returns how long the server has been on a CPU, 0 when there is no pid.
func (c *crowd) cpu() (time.Duration, error) {
	if c.server == nil {
		return 0, nil
	}
	return c.server.cpu()
}

// outcome returns what went wrong. It is called without the lock.
func (c *crowd) outcome() outcome {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return outcome{Failed: c.lost, Trouble: maps.Clone(c.trouble)}
}

// publishError says what is wrong with the answer to a publication.
func (c *crowd) publishError(a *answer) error {
	switch {
	case a.err != nil:
		return fmt.Errorf("publishing: %w", a.err)
	case a.status >= 200 && a.status < 300:
		return nil
	case a.status == http.StatusForbidden || a.status == http.StatusUnauthorized:
		return fmt.Errorf("publishing at %s is not permitted: %s", c.o.publish, statusLine(a))
	}
	return fmt.Errorf("publishing at %s: %s", c.o.publish, statusLine(a))
}

// holdError says what is wrong with the answer to a hold.
func holdError(a *answer) error {
	switch {
	case a.err != nil:
		return a.err
	case a.status == http.StatusOK || a.status == http.StatusRequestTimeout:
		return nil
	case a.status == http.StatusTooManyRequests:
		return fmt.Errorf("the server holds no more of one client: %s", statusLine(a))
	case a.status == http.StatusServiceUnavailable:
		return fmt.Errorf("the server holds no more: %s", statusLine(a))
	}
	return errors.New(statusLine(a))
}

// statusLine returns the status and the first line of the body.
func statusLine(a *answer) string {
	line, _, _ := strings.Cut(string(a.body), "\n")
	if len(line) > 200 {
		line = line[:200]
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", a.status, http.StatusText(a.status), line))
}

// outcome is part of every result.
type outcome struct {
	// Failed is how many clients got an error, or no answer.
	Failed int `json:"failed"`

	// Trouble is what went wrong, and how often.
	Trouble map[string]int `json:"trouble,omitempty"`
}

func (o outcome) failed() bool { return o.Failed > 0 || len(o.Trouble) > 0 }

// lines tells what went wrong.
func (o outcome) lines() []string {
	lines := make([]string, 0, len(o.Trouble))
	for _, what := range slices.Sorted(maps.Keys(o.Trouble)) {
		lines = append(lines, fmt.Sprintf("%d x %s", o.Trouble[what], what))
	}
	return lines
}

// pause sleeps, unless the context ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
