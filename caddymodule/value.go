package caddymodule

import (
	"encoding/json"
	"fmt"
	"math"
	weakrand "math/rand/v2"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
)

// DurationRange is a duration that is picked anew each time, at random between
// two. It is written as "90s-110s", or as "90s" when it is always the same.
type DurationRange struct {
	Min, Max time.Duration
}

// ParseDurationRange reads "90s-110s" or "90s", with the units of
// caddy.ParseDuration.
func ParseDurationRange(s string) (DurationRange, error) {
	var r DurationRange
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	var errs [2]error
	r.Min, errs[0] = parseDuration(low)
	r.Max, errs[1] = parseDuration(high)
	if errs != [2]error{} {
		return r, fmt.Errorf("%q is neither a duration, such as 90s, nor a range of two, such as 90s-110s", s)
	}
	if r.Max < r.Min {
		return r, fmt.Errorf("the range %s ends before it begins", s)
	}
	return r, nil
}

// parseDuration reads a duration that is not negative.
func parseDuration(s string) (time.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration, such as 90s or 1h30m", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("the duration %s is negative", s)
	}
	return d, nil
}

func (r DurationRange) String() string {
	if r.Min == r.Max {
		return r.Min.String()
	}
	return r.Min.String() + "-" + r.Max.String()
}

// IsZero reports whether the range is not set.
func (r DurationRange) IsZero() bool { return r == DurationRange{} }

// MarshalJSON writes the range as ParseDurationRange reads it.
func (r DurationRange) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }

// UnmarshalJSON reads what ParseDurationRange does.
func (r *DurationRange) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var err error
	*r, err = ParseDurationRange(s)
	return err
}

// pick returns a duration of the range.
func (r DurationRange) pick() time.Duration {
	if r.Max <= r.Min {
		return r.Min
	}
	return r.Min + weakrand.N(r.Max-r.Min+1) //nolint:gosec // spreads clients, hides nothing
}

// parseCount reads a number of things, such as 20k or 1M.
func parseCount(s string) (int, error) {
	n, unit, err := humanize.ParseSI(s)
	if err != nil || unit != "" || n < 0 || n != math.Trunc(n) || n > 1<<40 {
		return 0, fmt.Errorf("%q is not a number of things, such as 500, 20k or 1M", s)
	}
	return int(n), nil
}

// parseSize reads a number of bytes, such as 64KiB or 1MB.
func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<50 {
		return 0, fmt.Errorf("%q is not a size, such as 64KiB or 1MB", s)
	}
	if n == 0 {
		return 0, errZero
	}
	return int64(n), nil
}
