package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// goal is a figure that Comet is to reach.
type goal struct {
	trial, server, figure string

	// to is what it is compared with as a ratio: "loop" for the bare loop; "" when the
	// figure itself is meant.
	to string

	than string // what it may have more than, as a difference; "" when it is not compared so

	bound float64
	least bool // the bound is the least that is to be reached, not the most
}

// goals are what Comet is to reach, with ten thousand held.
var goals = []goal{
	{trial: "memory-h1", server: "comet", figure: "settled", bound: 2},
	{trial: "memory-h1", server: "comet", figure: "first", bound: 4},
	{trial: "memory-h1", server: "comet", figure: "woken", bound: 6},
	{trial: "memory-tls", server: "comet", figure: "settled", bound: 10},
	{trial: "memory-tls", server: "comet-trim", figure: "settled", bound: 6},
	{trial: "memory-h2", server: "comet", figure: "settled", bound: 62},
	{trial: "memory-h2-many", server: "comet", figure: "settled", bound: 17},
	{trial: "fanout", server: "comet", figure: "last", to: "loop", bound: 1.25},
	{trial: "fanout", server: "comet", figure: "delivery", to: "loop", bound: 1.25},
	{trial: "fanout", server: "comet", figure: "last", to: "nchan", bound: 1},
	{trial: "fanout", server: "comet", figure: "delivery", to: "nchan", bound: 1},
	{trial: "unicast", server: "comet", figure: "per_second", to: "nchan", bound: 0.6, least: true},
	{trial: "rate", server: "comet", figure: "median", bound: 0.2},
	{trial: "idle", server: "comet", figure: "percent", bound: 0.04},
	{trial: "resume", server: "comet", figure: "lost", bound: 0},
	{trial: "resume", server: "comet", figure: "repeated", bound: 0},
	{trial: "resume", server: "comet", figure: "disordered", bound: 0},
	{trial: "memory-h1", server: "comet-sse", figure: "settled", bound: 3},
	{trial: "memory-h1", server: "comet-sse", figure: "first", bound: 5},
	{trial: "memory-h1", server: "comet-sse", figure: "woken", bound: 7},
	{trial: "fanout", server: "comet-sse", figure: "last", to: "comet", bound: 1.2},
	{trial: "memory-h1", server: "comet-forward", figure: "settled", than: "comet", bound: 1},
	{trial: "memory-h1", server: "comet-forward", figure: "first", than: "comet", bound: 1},
	{trial: "memory-h1", server: "comet-share", figure: "woken", than: "comet", bound: 1},
	{trial: "slow", server: "comet-sse", figure: "median_ratio", bound: 1.1},
	{trial: "slow", server: "comet-sse", figure: "p99_ratio", bound: 1.1},
	{trial: "slow", server: "comet-sse", figure: "dropped", bound: 100, least: true},
	{trial: "slow", server: "comet-sse", figure: "last", bound: 40},
}

// loop is the bare loop that servers are compared with: the yardstick when it was
// measured, else our own floor.
func (c *comparison) loop(trial string) string {
	if c.Results[trial]["yardstick"] != nil {
		return "yardstick"
	}
	return "floor"
}

// values returns what a goal is about, a value a round.
func (c *comparison) values(g goal) []float64 {
	switch {
	case g.than != "":
		return c.differences(g.trial, g.figure, g.server, g.than)
	case g.to == "":
		return c.Results[g.trial][g.server][g.figure]
	case g.to == "loop":
		return c.ratios(g.trial, g.figure, g.server, c.loop(g.trial))
	}
	return c.ratios(g.trial, g.figure, g.server, g.to)
}

// markdown writes the report.
func (c *comparison) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

What Comet takes and gives beside other servers, with %d requests held. This page is written by %s.

%s
## What it is to reach

`, c.Connections, "`make bench`", c.under())
	b.WriteString(c.goals().markdown())
	b.WriteString("\nMedians over the rounds; a ratio is taken in each round, between servers that had their turn one after the other. In brackets the least and the greatest. Bounds are for ten thousand held.\n")
	if rows := c.agreement(); rows != "" {
		b.WriteString("\n" + rows)
	}
	if len(c.Skipped) > 0 {
		b.WriteString("\nNot measured:\n\n")
		for _, name := range slices.Sorted(maps.Keys(c.Skipped)) {
			fmt.Fprintf(&b, "- %s: %s\n", name, c.Skipped[name])
		}
	}
	if len(c.Failures) > 0 {
		b.WriteString("\nWhat failed, and is left out of the figures:\n\n")
		for _, failure := range c.Failures {
			fmt.Fprintf(&b, "- %s\n", failure)
		}
	}
	b.WriteString("\n## The servers\n\n")
	for _, k := range kinds {
		if slices.ContainsFunc(trials, func(t trial) bool { return c.Results[t.name][k.name] != nil }) {
			fmt.Fprintf(&b, "- %s: %s\n", k.name, k.about)
		}
	}
	b.WriteString("\n## All figures\n")
	for _, t := range trials {
		if len(c.Results[t.name]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s: %s\n\n%s", t.name, t.about, c.figures(t).markdown())
		if t.ratios {
			if ratios := c.compared(t); len(ratios) > 1 {
				fmt.Fprintf(&b, "\nAs ratios:\n\n%s", ratios.markdown())
			}
		}
		if apart := c.apart(); t.name == "unicast" && len(apart) > 1 {
			fmt.Fprintf(&b, "\nWhat the CPU of a publication goes to, as far as the fan-out tells; the rest is taking the publication, answering it, and what many fields take more than one:\n\n%s", apart.markdown())
		}
	}
	b.WriteString(howMeasured)
	return b.String()
}

// howMeasured ends the report.
const howMeasured = `
## How it is measured

- The load comes from the same machine, over the loopback interface, and takes part of its CPU: for plain HTTP/1.1 from one epoll loop. A server that uses several cores shares them with it.
- What is counted are answers, received completely. A client that got none, or an error, fails the round.
- Memory is the resident memory of the server's processes above what the idle server had, divided by the clients. The kernel's part, for its sockets, is not in it. A fresh server first answers a few requests; then its idle memory is taken, after a forced collection where it has one. "First held" is when all are held, "after five wake-alls" when all were answered and came back five times, with no collection asked for; "settled" is after a forced collection, when the memory stands still.
- A stream is held by one request. It counts as held when the server says so, and each part of it as an answer. Nobody comes back to it, so what that takes is next to nothing.
- A latency is from just before the publication is sent until the answer has been received.
- CPU is the time that all threads of the server's processes were on a CPU (` + "`/proc/PID/task/*/schedstat`" + `). In a fan-out nobody comes back before all have their answer and the server is at rest, so what a delivery takes and what coming back takes are told apart. "CPU a publication" in the others is all of it: taking and answering the publication, delivering it, and the client that comes back.
- In unicast 32 connections publish, each to the field whose client has waited longest, as soon as their last publication was answered.
- In slow a round has two parts: first those clients that read are alone, then the others come, read the head of their stream, and nothing more, until they are dropped or a minute is over. They come with the newest cursor, a small receive buffer and the segment size of an Ethernet. The percentiles are taken of each publication, and are the median over all of a part; "longest" is when the last client had the publication that took longest. "Dropped after" is from the first publication on, so the time is in it in which the system still takes what is written to them. "More memory" is the most of the server's memory in the second part over the most in the first.
- nginx has one worker, as the bare loops have one thread; Comet takes the cores that it gets.
`

// under says on what, when and how it was measured.
func (c *comparison) under() string {
	m := c.Machine
	rows := table{{"", ""}}
	for _, row := range [][]string{
		{"machine", fmt.Sprintf("%s, %d cores, %s memory", m.CPU, m.Cores, m.Memory)},
		{"kernel", m.Kernel},
		{"Go", m.Go},
		{"Comet", m.Comet},
		{"nginx", m.Nginx},
		{"date", m.Date},
		{"rounds", fmt.Sprintf("%d, and %d for memory, idle, resume and slow", c.Rounds, c.MemoryRounds)},
		{"command", "`go run ./cmd/comet-bench compare " + strings.TrimSpace(c.Arguments) + "`"},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return rows.markdown()
}

// goals is the table of what is to be reached.
func (c *comparison) goals() table {
	t := table{{"", "to reach", "measured", ""}}
	for _, g := range goals {
		at := slices.IndexFunc(trials, func(t trial) bool { return t.name == g.trial })
		f := trials[at].figures[slices.IndexFunc(trials[at].figures, func(f figure) bool { return f.name == g.figure })]
		what, unit := fmt.Sprintf("%s, %s: %s", g.trial, g.server, f.title), f.unit
		if g.to != "" {
			what, unit = what+", over that of "+strings.Replace(g.to, "loop", "the bare loop", 1), ""
		}
		if g.than != "" {
			what += ", more than that of " + g.than
		}
		bound := "at most " + number(g.bound, unit)
		if g.least {
			bound = "at least " + number(g.bound, unit)
		}
		values := c.values(g)
		if len(values) == 0 {
			t = append(t, []string{what, bound, "not measured", ""})
			continue
		}
		verdict := "reached"
		if m := median(values); m > g.bound && !g.least || m < g.bound && g.least {
			verdict = "**missed**"
		}
		t = append(t, []string{what, bound, spread(values, unit), verdict})
	}
	return t
}

// agreement says how far the two bare loops agree, when both were measured.
func (c *comparison) agreement() string {
	var parts []string
	for _, f := range []figure{{"last", "the last client of a fan-out", ""}, {"delivery", "the CPU of a delivery", ""}} {
		if ratios := c.ratios("fanout", f.name, "floor", "yardstick"); len(ratios) > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", f.title, spread(ratios, "")))
		}
	}
	if ratios := c.ratios("unicast", "per_second", "floor", "yardstick"); len(ratios) > 0 {
		parts = append(parts, fmt.Sprintf("unicast publications a second %s", spread(ratios, "")))
	}
	if len(parts) == 0 {
		return ""
	}
	return "The bare loop of `comet-bench floor` over the yardstick: " + strings.Join(parts, ", ") + ".\n"
}

// row is a row of a table: a name, and a cell for each figure.
func (t trial) row(name string, cell func(figure) string) []string {
	row := append(make([]string, 0, 1+len(t.figures)), name)
	for _, f := range t.figures {
		row = append(row, cell(f))
	}
	return row
}

// figures is the table of what a trial measured.
func (c *comparison) figures(t trial) table {
	servers := c.measured(t.name)
	rows := append(make(table, 0, 1+len(servers)), t.row("", func(f figure) string { return f.title }))
	for _, name := range servers {
		rows = append(rows, t.row(name, func(f figure) string {
			return spread(c.Results[t.name][name][f.name], f.unit)
		}))
	}
	return rows
}

// apart is the table that tells what the CPU of a publication in unicast goes to, from
// what a delivery and a client that comes back take in the fan-out.
func (c *comparison) apart() table {
	t := table{{"", "CPU a publication", "a delivery", "coming back", "the rest"}}
	for _, name := range c.measured("unicast") {
		fanout := c.Results["fanout"][name]
		if fanout == nil {
			continue
		}
		all, delivery, back := median(c.Results["unicast"][name]["cycle"]), median(fanout["delivery"]), median(fanout["back"])
		t = append(t, []string{
			name, number(all, "us"), number(delivery, "us"), number(back, "us"), number(all-delivery-back, "us"),
		})
	}
	return t
}

// compared is the table of the ratios of a trial.
func (c *comparison) compared(t trial) table {
	rows := table{t.row("", func(f figure) string { return f.title })}
	for _, to := range []string{c.loop(t.name), "nchan", "comet"} {
		for _, of := range c.measured(t.name) {
			if of == to || of == "yardstick" || !slices.Contains(c.measured(t.name), to) {
				continue
			}
			if to == "comet" && !strings.HasPrefix(of, "comet-") {
				continue // that is above, the other way round
			}
			rows = append(rows, t.row(of+" / "+to, func(f figure) string {
				return spread(c.ratios(t.name, f.name, of, to), "")
			}))
		}
	}
	return rows
}

// spread returns the median, and in brackets the least and the greatest value.
func spread(values []float64, unit string) string {
	switch len(values) {
	case 0:
		return "-"
	case 1:
		return number(values[0], unit)
	}
	return fmt.Sprintf("%s (%s to %s)", number(median(values), unit),
		number(slices.Min(values), ""), number(slices.Max(values), ""))
}

// number writes a value with three digits, and its unit.
func number(v float64, unit string) string {
	text := fmt.Sprintf("%.2f", v)
	switch {
	case v >= 100 || v == float64(int(v)):
		text = fmt.Sprintf("%.0f", v)
	case v >= 10:
		text = fmt.Sprintf("%.1f", v)
	}
	return strings.TrimSpace(text + " " + unit)
}
