package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// options are what the cases are told. Each case has the flags that it uses.
type options struct {
	url, publish string
	gc, metrics  string
	pid          int
	connections  int
	protocol     string
	streams      int
	rounds       int
	dialect      string
	field        string
	wakes        int
	publishers   int
	rate         float64
	messages     int
	size         int
	stopped      int
	duration     time.Duration
	timeout      time.Duration
	settle       time.Duration
	json         bool
	log          io.Writer
}

// register adds the flags that all cases have.
func (o *options) register(f *flag.FlagSet) {
	f.StringVar(&o.url, "url", "http://127.0.0.1:8080/push", "where clients hold. {field} in it stands for the field; without it the field is put where the dialect has it")
	f.StringVar(&o.publish, "publish", "", "where to publish, likewise (default: /config of --url, or what the dialect has)")
	f.IntVar(&o.pid, "pid", 0, "the server's process on this machine: its memory and CPU are measured, with those of its children")
	f.StringVar(&o.dialect, "dialect", "comet", "how clients hold and come back: "+dialectNames())
	f.StringVar(&o.protocol, "protocol", protocolH1, "h1, tls (HTTP/1.1 over TLS), h2 (one stream a connection) or h2-many (many streams a connection)")
	f.IntVar(&o.streams, "streams", 100, "streams a connection with h2-many")
	f.StringVar(&o.field, "field", "bench", "the field to publish to; where there are many, NAME/0, NAME/1 ...")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "after how long without any answer those that are waited for count as lost")
	f.BoolVar(&o.json, "json", false, "print JSON instead of a table")
}

// complete looks at the options after they were parsed, and adds what is left out.
func (o *options) complete() error {
	if dialects[o.dialect] == nil {
		return fmt.Errorf("--dialect %s: there are %s", o.dialect, dialectNames())
	}
	https := strings.HasPrefix(o.url, "https://")
	switch o.protocol {
	case protocolH1:
		if https {
			return fmt.Errorf("--protocol h1 is plain: give --protocol tls, h2 or h2-many with %s", o.url)
		}
	case protocolTLS, protocolH2, protocolH2Many:
		if !https {
			return fmt.Errorf("--protocol %s: give a --url with https://", o.protocol)
		}
	default:
		return fmt.Errorf("--protocol %s: there are h1, tls, h2, h2-many", o.protocol)
	}
	if o.publish == "" {
		o.publish = defaultPublish(o.url, o.dialect)
	}
	switch {
	case o.connections < 1:
		return fmt.Errorf("--connections %d: give at least 1", o.connections)
	case o.rounds < 1:
		return fmt.Errorf("--rounds %d: give at least 1", o.rounds)
	case o.publishers < 1:
		return fmt.Errorf("--publishers %d: give at least 1", o.publishers)
	case o.streams < 1:
		return fmt.Errorf("--streams %d: give at least 1", o.streams)
	case o.messages < 1:
		return fmt.Errorf("--messages %d: give at least 1", o.messages)
	case o.size < 0:
		return fmt.Errorf("--size %d: give 0 or more", o.size)
	case o.stopped < 0 || o.stopped > o.connections:
		return fmt.Errorf("--stopped %d: give 0 to %d, the --connections", o.stopped, o.connections)
	case o.wakes < 0:
		return fmt.Errorf("--wakes %d: give 0 or more", o.wakes)
	case o.rate < 0:
		return fmt.Errorf("--rate %g: give 0, as fast as it goes, or more", o.rate)
	case o.timeout <= 0 || o.duration <= 0 || o.settle <= 0:
		return fmt.Errorf("--timeout, --duration and --settle take a time, such as 30s")
	}
	return nil
}

// defaultPublish returns where a server that holds at an address publishes.
func defaultPublish(address, dialect string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	path := map[string]string{"nchan": "/pub", "nchan-sse": "/pub", "floor": ""}
	if p, ok := path[dialect]; ok {
		return scheme + "://" + host + p
	}
	return scheme + "://" + host + "/config"
}

// check refuses what the process has too few file descriptors for.
func (o *options) check(clients, publishers int) error {
	limit, err := raiseDescriptors()
	if err != nil {
		return fmt.Errorf("the limit of file descriptors: %w", err)
	}
	connections := clients
	if o.protocol == protocolH2Many {
		connections = (clients + o.streams - 1) / o.streams
	}
	const others = 64 // files, the runtime's own
	if need := uint64(connections + publishers + others); need > limit {
		return fmt.Errorf("%d connections take %d file descriptors, and the process may have %d: raise the limit (ulimit -n), or give a lower --connections",
			connections, need, limit)
	}
	return nil
}

// newOptions returns what the flags of other cases would have as default.
func newOptions(log io.Writer) *options {
	return &options{
		connections: 10_000, rounds: 1, wakes: 5, publishers: 1, messages: 20_000,
		protocol: protocolH1, streams: 100, dialect: "comet", field: "bench",
		duration: 5 * time.Second, timeout: 30 * time.Second, settle: time.Minute, log: log,
	}
}
