package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table is rows of cells; the first row has their names.
type table [][]string

// print writes the table in columns.
func (t table) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range t {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	return tw.Flush()
}

// markdown returns the table as Markdown has it.
func (t table) markdown() string {
	var b strings.Builder
	for i, row := range t {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
		}
	}
	return b.String()
}

func ms(v float64) string { return fmt.Sprintf("%.2f ms", v) }

// us is "-" for what was not measured.
func us(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f us", v)
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func kib(bytes float64) string { return fmt.Sprintf("%.2f KiB", bytes/(1<<10)) }
