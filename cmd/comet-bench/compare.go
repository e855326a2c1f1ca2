package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// trial is a case of compare: something that is measured of several servers, in turns.
type trial struct {
	name     string
	about    string
	protocol string
	servers  []string
	figures  []figure
	ratios   bool // it is compared in ratios, so it takes all rounds
	fresh    bool // each measurement takes a process of its own
	measure  func(context.Context, *options) (map[string]float64, error)
}

// figure is one that a trial measures.
type figure struct{ name, title, unit string }

var (
	memoryFigures = []figure{
		{"first", "first held", "KiB"}, {"woken", "after five wake-alls", "KiB"}, {"settled", "settled", "KiB"},
	}
	secureServers = []string{"comet", "comet-trim", "comet-off", "nchan"}
	fastServers   = []string{"yardstick", "floor", "comet", "comet-off", "nchan", "lua"}
	streamServers = []string{"comet-sse", "nchan-sse"}
	forwarders    = []string{"comet-forward", "comet-share"}
)

// trials are all of them, in the order of the report.
var trials = []trial{
	{
		name: "memory-h1", about: "memory of a held connection: plain HTTP/1.1", protocol: protocolH1,
		servers: append([]string{"comet", "comet-forward", "comet-share", "comet-off", "nchan", "lua"}, streamServers...), figures: memoryFigures, fresh: true, measure: measureHold,
	},
	{
		name: "memory-tls", about: "memory of a held connection: HTTP/1.1 over TLS", protocol: protocolTLS,
		servers: secureServers, figures: memoryFigures, fresh: true, measure: measureHold,
	},
	{
		name: "memory-h2", about: "memory of a browser: a connection of HTTP/2 with one held stream", protocol: protocolH2,
		servers: []string{"comet", "comet-off", "nchan"}, figures: memoryFigures, fresh: true, measure: measureHold,
	},
	{
		name: "memory-h2-many", about: "memory of a held stream of HTTP/2, a hundred on a connection (which is part of it), with `encode` and `header` in Comet's site", protocol: protocolH2Many,
		servers: []string{"comet", "comet-off", "nchan"}, figures: memoryFigures, fresh: true, measure: measureHold,
	},
	{
		name: "fanout", about: "one publication to all", protocol: protocolH1, servers: slices.Concat(streamServers, forwarders, fastServers), ratios: true, measure: measureFanout,
		figures: []figure{
			{"first", "first", "ms"},
			{"median", "median", "ms"},
			{"p99", "p99", "ms"},
			{"last", "last", "ms"},
			{"delivery", "CPU a delivery", "us"},
			{"back", "CPU a client that comes back", "us"},
		},
	},
	{
		name: "unicast", about: "as many fields as clients, each of which comes back each time", protocol: protocolH1,
		servers: fastServers[:5], ratios: true, measure: measureUnicast(0),
		figures: []figure{
			{"per_second", "delivered", "a second"}, {"median", "median", "ms"}, {"p99", "p99", "ms"}, {"cycle", "CPU a publication", "us"},
		},
	},
	{
		name: "rate", about: "the same at 1,000 publications a second", protocol: protocolH1,
		servers: fastServers, ratios: true, measure: measureUnicast(1000),
		figures: []figure{
			{"per_second", "delivered", "a second"}, {"median", "median", "ms"}, {"p99", "p99", "ms"}, {"cycle", "CPU a publication", "us"},
		},
	},
	{
		name: "idle", about: "CPU while all wait", protocol: protocolH1,
		servers: []string{"comet", "comet-off", "nchan", "lua"}, measure: measureIdle,
		figures: []figure{{"percent", "CPU", "%"}},
	},
	{
		name: "resume", about: "numbered messages at full speed to ten clients that are cut off again and again", protocol: protocolH1,
		servers: []string{"comet", "comet-off", "nchan"}, measure: measureResume,
		figures: []figure{
			{"per_second", "published", "a second"}, {"lost", "lost", ""}, {"repeated", "repeated", ""}, {"disordered", "disordered", ""},
		},
	},
	{
		name: "slow", about: "messages of 4 KiB, four a second, while one client in twenty reads nothing", protocol: protocolH1,
		servers: streamServers[:1], measure: measureSlow,
		figures: []figure{
			{"median", "median of the others", "ms"},
			{"median_ratio", "over that alone", ""},
			{"p99", "p99", "ms"},
			{"p99_ratio", "p99 over that alone", ""},
			{"longest", "longest", "ms"},
			{"longest_alone", "longest alone", "ms"},
			{"dropped", "dropped", "%"},
			{"first", "first dropped after", "s"},
			{"last", "last dropped after", "s"},
			{"memory", "more memory", "MiB"},
		},
	},
}

// measurement has the values of a trial and a server, one a round, by figure.
type measurement map[string][]float64

// comparison is everything that compare measured.
type comparison struct {
	Connections  int                               `json:"connections"`
	Rounds       int                               `json:"rounds"`
	MemoryRounds int                               `json:"memory_rounds"`
	Machine      machine                           `json:"machine"`
	Arguments    string                            `json:"arguments"`
	Results      map[string]map[string]measurement `json:"results"` // by trial and server
	Skipped      map[string]string                 `json:"skipped,omitempty"`
	Failures     []string                          `json:"failures,omitempty"`

	log io.Writer
}

// plan is what compare is told.
type plan struct {
	connections, rounds, memoryRounds int
	cases, servers                    []string
	comet, yardstick, out             string
	json                              bool
	duration                          time.Duration
}

// runCompare is the command compare.
func runCompare(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("comet-bench compare", flag.ContinueOnError)
	f.SetOutput(stderr)
	var p plan
	var cases, servers string
	f.IntVar(&p.connections, "connections", 10_000, "how many clients hold")
	f.IntVar(&p.connections, "n", 10_000, "short for --connections")
	f.IntVar(&p.rounds, "rounds", 9, "how often each server has its turn in what is compared as ratios")
	f.IntVar(&p.memoryRounds, "memory-rounds", 0, "likewise in what is not: memory, idle, resume (default: a third of --rounds)")
	f.StringVar(&cases, "cases", "", "which cases, separated by commas (default: all): "+names(trials, func(t trial) string { return t.name }))
	f.StringVar(&servers, "servers", "", "which servers (default: all): "+names(kinds, func(k kind) string { return k.name }))
	f.StringVar(&p.comet, "comet", "", "the Comet to measure (default: built from this checkout)")
	f.StringVar(&p.yardstick, "yardstick", "", "a folder with the source of a bare loop to measure by (default: the floor is)")
	f.StringVar(&p.out, "out", "", "the Markdown file to write")
	f.DurationVar(&p.duration, "duration", 3*time.Second, "how long a round of unicast, rate and idle lasts")
	f.BoolVar(&p.json, "json", false, "print JSON instead of Markdown")
	if code, ok := parse(f, args, stderr); !ok {
		return code
	}
	if err := p.complete(cases, servers); err != nil {
		exit(err, stderr)
		return 2
	}
	c, err := p.run(ctx, stderr)
	if err != nil {
		return exit(err, stderr)
	}
	c.Arguments = shown(args)
	report := c.markdown()
	if p.out != "" {
		if err := os.WriteFile(p.out, []byte(report), 0o644); err != nil { //nolint:gosec // to be read by all
			return exit(err, stderr)
		}
	}
	if p.json {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "\t")
		err = encoder.Encode(c)
	} else {
		_, err = io.WriteString(stdout, report)
	}
	if err != nil {
		return exit(err, stderr)
	}
	if len(c.Failures) > 0 {
		return 1
	}
	return 0
}

// complete looks at what compare is told.
func (p *plan) complete(cases, servers string) error {
	if p.connections < 1 || p.rounds < 1 || p.memoryRounds < 0 || p.duration <= 0 {
		return errors.New("--connections, --rounds, --memory-rounds and --duration take something above 0")
	}
	if p.memoryRounds == 0 {
		p.memoryRounds = max(1, p.rounds/3)
	}
	if p.comet != "" {
		path, err := filepath.Abs(p.comet) // servers have folders of their own
		if err != nil {
			return err
		}
		p.comet = path
	}
	var err error
	if p.cases, err = chosen("--cases", cases, names(trials, func(t trial) string { return t.name })); err != nil {
		return err
	}
	p.servers, err = chosen("--servers", servers, names(kinds, func(k kind) string { return k.name }))
	return err
}

// names joins the names of things with commas.
func names[T any](things []T, name func(T) string) string {
	all := make([]string, len(things))
	for i, t := range things {
		all[i] = name(t)
	}
	return strings.Join(all, ",")
}

// chosen reads a list of names; an empty one means all.
func chosen(flag, list, all string) ([]string, error) {
	known := strings.Split(all, ",")
	if list == "" {
		return known, nil
	}
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%s: there is no %q, but %s", flag, name, all)
		}
	}
	return wanted, nil
}

// shown returns arguments as they are shown in the report: without the paths of the
// machine.
func shown(args []string) string {
	args = slices.Clone(args)
	for i, arg := range args {
		flag, _, joined := strings.Cut(arg, "=")
		for _, path := range []string{"comet", "yardstick", "out"} {
			switch {
			case strings.TrimLeft(flag, "-") != path:
			case joined:
				args[i] = flag + "=..."
			case i+1 < len(args):
				args[i+1] = "..."
			}
		}
	}
	return strings.Join(args, " ")
}

// run measures everything.
func (p *plan) run(ctx context.Context, log io.Writer) (*comparison, error) {
	dir, err := os.MkdirTemp("", "comet-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b, err := p.binaries(ctx, dir)
	if err != nil {
		return nil, err
	}
	c := &comparison{
		Connections: p.connections, Rounds: p.rounds, MemoryRounds: p.memoryRounds,
		Machine: newMachine(ctx, b), Results: map[string]map[string]measurement{}, Skipped: map[string]string{}, log: log,
	}
	for _, t := range trials {
		if !slices.Contains(p.cases, t.name) {
			continue
		}
		if err := p.trial(ctx, c, b, t, dir); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// binaries builds and finds what servers are started from.
func (p *plan) binaries(ctx context.Context, dir string) (*binaries, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &binaries{self: self, comet: p.comet, modules: "/usr/share/nginx/modules"}
	wants := func(prefix string) bool {
		return slices.ContainsFunc(p.servers, func(name string) bool { return strings.HasPrefix(name, prefix) })
	}
	if b.comet == "" && wants("comet") {
		b.comet = filepath.Join(dir, "comet")
		if err := build(ctx, b.comet, "./cmd/comet"); err != nil {
			return nil, fmt.Errorf("%w (compare runs in a checkout; or give --comet)", err)
		}
	}
	if p.yardstick != "" && wants("yardstick") {
		files, err := filepath.Glob(filepath.Join(p.yardstick, "*.go"))
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("--yardstick %s: no Go file is in this folder", p.yardstick)
		}
		b.yardstick = filepath.Join(dir, "yardstick")
		if err := build(ctx, b.yardstick, files...); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} { // mostly root alone has it in the PATH
		if path, err := exec.LookPath(name); err == nil {
			b.nginx = path
			break
		}
	}
	return b, nil
}

// build builds a Go program.
func build(ctx context.Context, out string, packages ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", out}, packages...)...) //nolint:gosec // of this checkout
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(packages, " "), err, text)
	}
	return nil
}

// trial measures one case: each server in turn, round by round, so that whatever else
// happens on the machine happens to all of them.
func (p *plan) trial(ctx context.Context, c *comparison, b *binaries, t trial, dir string) error {
	rounds := p.memoryRounds
	if t.ratios {
		rounds = p.rounds
	}
	running := map[string]*server{}
	defer func() {
		for _, s := range running {
			s.stop()
		}
	}()
	c.Results[t.name] = map[string]measurement{}
	for round := range rounds {
		for _, k := range kinds {
			if !slices.Contains(p.servers, k.name) || !slices.Contains(t.servers, k.name) || c.Skipped[k.name] != "" {
				continue
			}
			s := running[k.name]
			if s == nil {
				var err error
				if s, err = start(ctx, k, b, dir); err != nil {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					c.Skipped[k.name] = err.Error()
					fmt.Fprintf(c.log, "%s: %v\n", k.name, err)
					continue
				}
				running[k.name] = s
			}
			values, err := t.measure(ctx, p.options(s, t.protocol))
			if t.fresh || err != nil {
				s.stop()
				delete(running, k.name)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				failure := fmt.Sprintf("%s, %s, round %d: %v", t.name, k.name, round+1, err)
				c.Failures = append(c.Failures, failure)
				fmt.Fprintln(c.log, failure)
				continue
			}
			m := c.Results[t.name][k.name]
			if m == nil {
				m = measurement{}
				c.Results[t.name][k.name] = m
			}
			fmt.Fprintf(c.log, "%s %d/%d %s:", t.name, round+1, rounds, k.name)
			for _, f := range t.figures {
				m[f.name] = append(m[f.name], values[f.name])
				fmt.Fprintf(c.log, "  %s %s", f.title, number(values[f.name], f.unit))
			}
			fmt.Fprintln(c.log)
			runtime.GC() // not while the next one is measured
		}
	}
	return nil
}

// start starts a server in a folder of its own.
func start(ctx context.Context, k kind, b *binaries, dir string) (*server, error) {
	own, err := os.MkdirTemp(dir, k.name+"-")
	if err != nil {
		return nil, err
	}
	s, err := k.start(ctx, b, own)
	if err != nil && !errors.Is(err, errSkip) {
		return nil, fmt.Errorf("does not start: %w", err)
	}
	return s, err
}

// options returns the options for measuring a server.
func (p *plan) options(s *server, protocol string) *options {
	o := s.options(protocol, io.Discard)
	o.connections, o.duration = p.connections, p.duration
	return o
}

// worked returns what went wrong as an error.
func (o outcome) worked() error {
	if o.failed() {
		return errors.New(strings.Join(o.lines(), "; "))
	}
	return nil
}

func measureHold(ctx context.Context, o *options) (map[string]float64, error) {
	h, err := runHold(ctx, o)
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"first": h.FirstEach / (1 << 10), "woken": h.WokenEach / (1 << 10), "settled": h.SettledEach / (1 << 10),
	}, h.worked()
}

func measureFanout(ctx context.Context, o *options) (map[string]float64, error) {
	o.rounds = 3
	f, err := runFanout(ctx, o, 1)
	if err != nil {
		return nil, err
	}
	m := f.Median
	return map[string]float64{
		"first": m.First, "median": m.Median, "p99": m.P99, "last": m.Last, "delivery": m.Delivery, "back": m.Back,
	}, f.worked()
}

func measureUnicast(rate float64) func(context.Context, *options) (map[string]float64, error) {
	return func(ctx context.Context, o *options) (map[string]float64, error) {
		o.rounds, o.publishers, o.rate = 1, 32, rate
		u, err := runUnicast(ctx, o)
		if err != nil {
			return nil, err
		}
		m := u.Median
		return map[string]float64{
			"per_second": m.PerSecond, "median": m.Median, "p99": m.P99, "cycle": m.Cycle,
		}, u.worked()
	}
}

func measureIdle(ctx context.Context, o *options) (map[string]float64, error) {
	i, err := runIdle(ctx, o)
	if err != nil {
		return nil, err
	}
	return map[string]float64{"percent": i.Percent}, i.worked()
}

func measureResume(ctx context.Context, o *options) (map[string]float64, error) {
	o.messages = min(20_000, 2*o.connections)
	o.connections = min(10, o.connections)
	r, err := runResume(ctx, o)
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"per_second": r.PerSecond, "lost": float64(r.Lost), "repeated": float64(r.Repeated), "disordered": float64(r.Disordered),
	}, r.worked()
}

func measureSlow(ctx context.Context, o *options) (map[string]float64, error) {
	o.rounds, o.size, o.rate, o.stopped = 1, 4<<10, 4, max(1, o.connections/20)
	o.duration = 3 * o.duration
	s, err := runSlow(ctx, o)
	if err != nil {
		return nil, err
	}
	m := s.Median
	return map[string]float64{
		"median": m.Beside.Median, "median_ratio": m.Beside.Median / m.Alone.Median,
		"p99": m.Beside.P99, "p99_ratio": m.Beside.P99 / m.Alone.P99,
		"longest": m.LongestBeside, "longest_alone": m.LongestAlone,
		"dropped": 100 * float64(m.Dropped) / float64(o.stopped), "first": m.FirstDrop, "last": m.LastDrop,
		"memory": float64(m.Memory) / (1 << 20),
	}, s.worked()
}

// ratios returns the ratio of a figure of two servers in each round, nil when one of
// them was not measured in all.
func (c *comparison) ratios(trial, figure, of, to string) (ratios []float64) {
	for a, b := range c.pairs(trial, figure, of, to) {
		if b != 0 {
			ratios = append(ratios, a/b)
		}
	}
	return ratios
}

// differences likewise returns how much more the first one has.
func (c *comparison) differences(trial, figure, of, than string) (differences []float64) {
	for a, b := range c.pairs(trial, figure, of, than) {
		differences = append(differences, a-b)
	}
	return differences
}

// pairs ranges over a figure of two servers, round by round, when both were measured in
// all.
func (c *comparison) pairs(trial, figure, one, other string) iter.Seq2[float64, float64] {
	a, b := c.Results[trial][one][figure], c.Results[trial][other][figure]
	return func(yield func(float64, float64) bool) {
		for i := range a {
			if len(a) != len(b) || !yield(a[i], b[i]) {
				return
			}
		}
	}
}

// measured returns the names of the servers that a trial has results of, in the order
// of the report.
func (c *comparison) measured(trial string) []string {
	has := slices.Collect(maps.Keys(c.Results[trial]))
	return slices.DeleteFunc(strings.Split(names(kinds, func(k kind) string { return k.name }), ","), func(name string) bool {
		return !slices.Contains(has, name)
	})
}
