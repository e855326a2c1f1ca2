package main

import (
	"math"
	"slices"
	"time"
)

// quantile returns the value below which the part q of sorted lies: the smallest one
// that at least that part of all is no greater than. It is 0 when there are none.
func quantile[T any](sorted []T, q float64) T {
	if len(sorted) == 0 {
		var none T
		return none
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// median returns the value in the middle, or the mean of the two that are.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// latencies are the percentiles of what was waited for, in milliseconds.
type latencies struct {
	First  float64 `json:"first_ms"`
	Median float64 `json:"median_ms"`
	P99    float64 `json:"p99_ms"`
	Last   float64 `json:"last_ms"`
}

// newLatencies sorts what was measured and takes its percentiles.
func newLatencies(all []time.Duration) latencies {
	slices.Sort(all)
	return latencies{
		First:  milliseconds(quantile(all, 0)),
		Median: milliseconds(quantile(all, 0.5)),
		P99:    milliseconds(quantile(all, 0.99)),
		Last:   milliseconds(quantile(all, 1)),
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// medianOf returns the median of what each of the rounds says.
func medianOf[R any](rounds []R, of func(R) float64) float64 {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = of(r)
	}
	return median(values)
}

// medianLatencies returns the median of each percentile.
func medianLatencies[R any](rounds []R, of func(R) latencies) latencies {
	return latencies{
		First:  medianOf(rounds, func(r R) float64 { return of(r).First }),
		Median: medianOf(rounds, func(r R) float64 { return of(r).Median }),
		P99:    medianOf(rounds, func(r R) float64 { return of(r).P99 }),
		Last:   medianOf(rounds, func(r R) float64 { return of(r).Last }),
	}
}
