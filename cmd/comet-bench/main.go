// Command comet-bench measures a server that holds requests, from outside: what a
// held connection takes of its memory, how fast a publication reaches all who wait,
// and whether anything is lost on the way.
//
//	comet-bench fanout --url http://127.0.0.1:8080/push --pid $(pidof comet) -n 10000
//
// It measures Comet, and for comparison Nchan, the nginx and Lua recipe that Comet
// began as, and a bare epoll loop of its own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// result is what a case has measured.
type result interface {
	table() table
	lines() []string // what went wrong
	failed() bool
}

// command is one of the subcommands.
type command struct {
	name, about string
	flags       func(*flag.FlagSet, *options)
	run         func(context.Context, *options) (result, error)
}

// commands are the cases that measure one server.
var commands = []command{
	{
		"hold", "memory per held connection: idle, first held, after wakes, settled",
		func(f *flag.FlagSet, o *options) {
			connections(f, o, 10_000)
			f.StringVar(&o.gc, "gc", "", "an address that makes the server collect its garbage, such as http://127.0.0.1:2019/debug/pprof/heap?gc=1")
			f.IntVar(&o.wakes, "wakes", 5, "how often all are woken before the memory is looked at again")
			f.DurationVar(&o.settle, "settle", time.Minute, "how long to wait at most for the memory to stand still")
		},
		func(ctx context.Context, o *options) (result, error) { return runHold(ctx, o) },
	},
	{
		"fanout", "one publication to all: latency, and the server's CPU for a delivery",
		func(f *flag.FlagSet, o *options) {
			connections(f, o, 10_000)
			f.IntVar(&o.rounds, "rounds", 9, "how often; the result is the median")
		},
		func(ctx context.Context, o *options) (result, error) { return runFanout(ctx, o, 1) },
	},
	{
		"unicast", "many fields, a client each that comes back each time: publications a second, latency",
		func(f *flag.FlagSet, o *options) {
			connections(f, o, 10_000)
			f.IntVar(&o.rounds, "rounds", 3, "how often; the result is the median")
			f.IntVar(&o.publishers, "publishers", 32, "connections that publish, each waiting for its answer")
			f.Float64Var(&o.rate, "rate", 0, "publications a second; 0: as fast as the server takes them")
			f.DurationVar(&o.duration, "duration", 5*time.Second, "how long a round lasts")
		},
		func(ctx context.Context, o *options) (result, error) { return runUnicast(ctx, o) },
	},
	{
		"resume", "numbered messages at full speed to clients that are cut off again and again: lost, repeated, disordered",
		func(f *flag.FlagSet, o *options) {
			connections(f, o, 10)
			f.IntVar(&o.messages, "messages", 20_000, "how many; the server's history must have room for them")
		},
		func(ctx context.Context, o *options) (result, error) { return runResume(ctx, o) },
	},
	{
		"idle", "the server's CPU while clients wait",
		func(f *flag.FlagSet, o *options) {
			connections(f, o, 10_000)
			f.StringVar(&o.gc, "gc", "", "an address that makes the server collect its garbage before")
			f.DurationVar(&o.duration, "duration", 10*time.Second, "how long to look")
			f.DurationVar(&o.settle, "settle", time.Minute, "how long to wait at most for the server to come to rest before")
		},
		func(ctx context.Context, o *options) (result, error) { return runIdle(ctx, o) },
	},
	{
		"slow", "streams whose clients read nothing, beside those that are read: delay, who is dropped, memory",
		func(f *flag.FlagSet, o *options) {
			connections(f, o, 10_000)
			f.IntVar(&o.stopped, "stopped", 500, "how many of the clients read nothing")
			f.IntVar(&o.size, "size", 4<<10, "bytes of a message, at least")
			f.Float64Var(&o.rate, "rate", 4, "publications a second")
			f.IntVar(&o.rounds, "rounds", 3, "how often; the result is the median")
			f.StringVar(&o.metrics, "metrics", "", "the server's metrics, such as http://127.0.0.1:2019/metrics")
			f.DurationVar(&o.duration, "duration", 10*time.Second, "for how long the others are alone in each round")
			f.DurationVar(&o.settle, "settle", time.Minute, "for how long those that read nothing are there at most")
		},
		func(ctx context.Context, o *options) (result, error) { return runSlow(ctx, o) },
	},
}

// connections adds the flags for how many clients there are.
func connections(f *flag.FlagSet, o *options, n int) {
	f.IntVar(&o.connections, "connections", n, "how many clients hold")
	f.IntVar(&o.connections, "n", n, "short for --connections")
}

// run is the program, and returns its exit code: 0 when all went well, 1 when
// something went wrong while it measured, 2 when it was told something that it cannot
// do.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(stdout)
		return 0
	case "floor":
		f := flag.NewFlagSet("comet-bench floor", flag.ContinueOnError)
		f.SetOutput(stderr)
		addr := f.String("addr", "127.0.0.1:7700", "where to listen, on this machine")
		if code, ok := parse(f, args[1:], stderr); !ok {
			return code
		}
		return exit(runFloor(ctx, *addr), stderr)
	case "compare":
		return runCompare(ctx, args[1:], stdout, stderr)
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.main(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "comet-bench: there is no %q\n\n", args[0])
	usage(stderr)
	return 2
}

// main runs a case as a command.
func (c command) main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOptions(stderr)
	f := flag.NewFlagSet("comet-bench "+c.name, flag.ContinueOnError)
	f.SetOutput(stderr)
	o.register(f)
	c.flags(f, o)
	if code, ok := parse(f, args, stderr); !ok {
		return code
	}
	if err := o.complete(); err != nil {
		exit(err, stderr)
		return 2
	}
	r, err := c.run(ctx, o)
	if err != nil {
		return exit(err, stderr)
	}
	if o.json {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "\t")
		err = encoder.Encode(r)
	} else {
		err = r.table().print(stdout)
	}
	if err != nil {
		return exit(err, stderr)
	}
	for _, line := range r.lines() {
		fmt.Fprintln(stderr, "comet-bench:", line)
	}
	if r.failed() {
		return 1
	}
	return 0
}

// parse parses flags. Without ok the program ends with the code.
func parse(f *flag.FlagSet, args []string, stderr io.Writer) (code int, ok bool) {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0, false
	case err != nil:
		return 2, false
	case f.NArg() > 0:
		fmt.Fprintf(stderr, "comet-bench: what is %q?\n", f.Arg(0))
		return 2, false
	}
	return 0, true
}

// exit says what went wrong, if anything did.
func exit(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "comet-bench:", err)
	return 1
}

func usage(w io.Writer) {
	fmt.Fprint(w, "comet-bench measures a server that holds requests.\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  comet-bench %-8s %s\n", c.name, c.about)
	}
	fmt.Fprintf(w, "  comet-bench %-8s %s\n", "floor", "serve a bare epoll loop: the limit of the machine (Linux)")
	fmt.Fprintf(w, "  comet-bench %-8s %s\n", "compare", "all of it, side by side, with servers that it starts")
	fmt.Fprint(w, "\ncomet-bench COMMAND -h lists the flags of a command.\n")
}
