package caddymodule

import (
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// StoreConfig is what bounds a store. What is not given has its default.
type StoreConfig struct {
	// History is how many messages a field keeps. The value itself, which is the
	// latest message, is kept always. Default: 1000.
	History *int `json:"history,omitempty"`

	// HistoryAge is for how long messages are kept. The value itself stays.
	// Default: 1h.
	HistoryAge caddy.Duration `json:"history_age,omitempty"`

	// FieldIdle is after how long a field that was neither published nor watched
	// is forgotten. Default: 30d.
	FieldIdle caddy.Duration `json:"field_idle,omitempty"`

	// MaxFields is how many fields may have a value. Beyond it the one that was
	// neither published nor watched for longest is forgotten; when all are
	// watched, a publication is refused with 507. Default: 1000000.
	MaxFields int `json:"max_fields,omitempty"`

	// MaxMemory bounds the bytes of names, values and messages. Beyond it the
	// oldest messages are forgotten, then fields as with MaxFields. Default: 256
	// MiB, or a quarter of what the process may use if that is less.
	MaxMemory int64 `json:"max_memory,omitempty"`

	// MaxHeld is how many requests may be held. Beyond it a request gets 503 with
	// Retry-After. Default: 1000000, or three quarters of the file descriptors
	// that the process may have if that is less.
	MaxHeld int `json:"max_held,omitempty"`

	// MaxHeldPerClient is how many requests of one client address may be held;
	// IPv6 addresses of one /64 are one. Beyond it a request gets 429. Loopback
	// peers are not counted. Default: 20000.
	MaxHeldPerClient int `json:"max_held_per_client,omitempty"`

	// Drain is over what time held requests are answered at an exit. It is at
	// most four fifths of Caddy's grace_period. Default: 4s.
	Drain *caddy.Duration `json:"drain,omitempty"`
}

// limits is a StoreConfig with its defaults filled in.
type limits struct {
	store.Limits
	maxHeld          int
	maxHeldPerClient int
	drain            time.Duration
}

// limits returns the limits in force. c may be nil.
func (c *StoreConfig) limits() limits {
	l := limits{
		Limits:           store.DefaultLimits(),
		maxHeld:          1_000_000,
		maxHeldPerClient: 20_000,
		drain:            4 * time.Second,
	}
	l.MaxMemory = min(l.MaxMemory, usableMemory()/4)
	if n, ok := maxDescriptors(); ok {
		l.maxHeld = int(min(uint64(l.maxHeld), n/4*3))
	}
	if c == nil {
		return l
	}
	if c.History != nil {
		l.History = *c.History
	}
	setIf(&l.HistoryAge, time.Duration(c.HistoryAge))
	setIf(&l.FieldIdle, time.Duration(c.FieldIdle))
	setIf(&l.MaxFields, c.MaxFields)
	setIf(&l.MaxMemory, c.MaxMemory)
	setIf(&l.maxHeld, c.MaxHeld)
	setIf(&l.maxHeldPerClient, c.MaxHeldPerClient)
	if c.Drain != nil {
		l.drain = time.Duration(*c.Drain)
	}
	return l
}

func setIf[T int | int64 | time.Duration](to *T, value T) {
	if value != 0 {
		*to = value
	}
}

func (c *StoreConfig) validate() error {
	for name, value := range map[string]int64{
		"history_age":         int64(c.HistoryAge),
		"field_idle":          int64(c.FieldIdle),
		"max_fields":          int64(c.MaxFields),
		"max_memory":          c.MaxMemory,
		"max_held":            int64(c.MaxHeld),
		"max_held_per_client": int64(c.MaxHeldPerClient),
	} {
		if value < 0 {
			return fmt.Errorf("%s is negative", name)
		}
	}
	if c.History != nil && *c.History < 0 {
		return fmt.Errorf("history is negative")
	}
	if c.Drain != nil && *c.Drain < 0 {
		return fmt.Errorf("drain is negative")
	}
	return nil
}

// fields returns the limits as a log line tells them.
func (l limits) fields() []zap.Field {
	return []zap.Field{
		zap.Int("history", l.History),
		zap.Duration("history_age", l.HistoryAge),
		zap.Duration("field_idle", l.FieldIdle),
		zap.Int("max_fields", l.MaxFields),
		zap.Int64("max_memory", l.MaxMemory),
		zap.Int("max_held", l.maxHeld),
		zap.Int("max_held_per_client", l.maxHeldPerClient),
		zap.Duration("drain", l.drain),
	}
}

// usableMemory returns how many bytes the process may use: its soft limit, which
// Caddy sets to that of its container, or what the machine has.
func usableMemory() int64 {
	usable := debug.SetMemoryLimit(-1)
	if installed, ok := installedMemory(); ok {
		usable = min(usable, installed)
	}
	if usable == math.MaxInt64 {
		return 1 << 30
	}
	return usable
}
