package caddymodule

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// The collectors are made once and registered with each configuration, so that
// a reload resets nothing. Their only label beside the ones listed here is the
// name of the store: nothing that a stranger can invent.
var (
	holdRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "comet",
		Name:      "hold_requests_total",
		Help:      "Requests to hold routes, by how they ended.",
	}, []string{"store", "outcome"})

	forwardRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "comet",
		Name:      "forward_requests_total",
		Help:      "Requests that went on to an application, by who answered them: the application, or another request to it whose answer was shared.",
	}, []string{"store", "answer"})

	publishRefused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "comet",
		Name:      "publish_refused_total",
		Help:      "Publications that were refused, by reason.",
	}, []string{"store", "reason"})

	wakeSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "comet",
		Name:      "wake_seconds",
		Help:      "Time from a publication until the answer to a held request was handed to its connection.",
		Buckets:   []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	}, []string{"store"})
)

// registerMetrics registers the collectors with the registry of a configuration.
func registerMetrics(registry prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{holdRequests, forwardRequests, publishRefused, wakeSeconds, storeCollector{}} {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// forgetMetrics drops the series of a store that is gone.
func forgetMetrics(name string) {
	of := prometheus.Labels{"store": name}
	holdRequests.DeletePartialMatch(of)
	forwardRequests.DeletePartialMatch(of)
	publishRefused.DeletePartialMatch(of)
	wakeSeconds.DeletePartialMatch(of)
}

// holdMetrics are the series of one store that every request to its hold routes
// adds to.
type holdMetrics struct {
	requests [outcomes]prometheus.Counter // by outcome
	wakes    prometheus.Observer
	asked    prometheus.Counter // forwarded requests that the application answered
	shared   prometheus.Counter // likewise, that were given the answer to another
}

func newHoldMetrics(store string) holdMetrics {
	m := holdMetrics{
		wakes:  wakeSeconds.WithLabelValues(store),
		asked:  forwardRequests.WithLabelValues(store, "application"),
		shared: forwardRequests.WithLabelValues(store, "shared"),
	}
	for o := range m.requests {
		m.requests[o] = holdRequests.WithLabelValues(store, outcome(o).String())
	}
	return m
}

// countHold counts a request to a hold route.
func (p *pool) countHold(o outcome) { p.metrics.requests[o].Inc() }

// countRefused counts a publication that was refused.
func (p *pool) countRefused(reason string) {
	publishRefused.WithLabelValues(p.name, reason).Inc()
}

// observeWake notes how long it took from a publication to its answer.
func (p *pool) observeWake(result store.Result) {
	if n := len(result.Messages); n > 0 {
		p.metrics.wakes.Observe(time.Since(result.Messages[n-1].Time).Seconds())
	}
}

// storeCollector collects what the stores count themselves.
type storeCollector struct{}

// storeMetric is one number of a store.
type storeMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(held int, stats store.Stats) float64
}

func newStoreMetric(name, help string, kind prometheus.ValueType, value func(int, store.Stats) float64) storeMetric {
	return storeMetric{prometheus.NewDesc("comet_"+name, help, []string{"store"}, nil), kind, value}
}

var storeMetrics = []storeMetric{
	newStoreMetric("held_requests", "Requests that are being held.", prometheus.GaugeValue,
		func(held int, _ store.Stats) float64 { return float64(held) }),
	newStoreMetric("published_messages_total", "Messages that were published.", prometheus.CounterValue,
		func(_ int, s store.Stats) float64 { return float64(s.PublishedMessages) }),
	newStoreMetric("published_bytes_total", "Bytes of data that were published.", prometheus.CounterValue,
		func(_ int, s store.Stats) float64 { return float64(s.PublishedBytes) }),
	newStoreMetric("fields", "Fields that have a value.", prometheus.GaugeValue,
		func(_ int, s store.Stats) float64 { return float64(s.Fields) }),
	newStoreMetric("messages", "Messages that are kept, values included.", prometheus.GaugeValue,
		func(_ int, s store.Stats) float64 { return float64(s.Messages) }),
	newStoreMetric("memory_bytes", "Bytes of names, values and messages, as max_memory counts them.", prometheus.GaugeValue,
		func(_ int, s store.Stats) float64 { return float64(s.Memory) }),
	newStoreMetric("evicted_messages_total", "Messages that were forgotten because max_memory was reached.", prometheus.CounterValue,
		func(_ int, s store.Stats) float64 { return float64(s.EvictedMessages) }),
	newStoreMetric("evicted_fields_total", "Fields that were forgotten because max_fields or max_memory was reached.", prometheus.CounterValue,
		func(_ int, s store.Stats) float64 { return float64(s.EvictedFields) }),
}

var (
	askingDesc = prometheus.NewDesc("comet_forward_asking",
		"Requests that an application is answering, of those that went on to it.", []string{"store"}, nil)
	queueDesc = prometheus.NewDesc("comet_forward_waiting",
		"Requests that were woken and wait for their turn, or for the answer to another.", []string{"store"}, nil)
)

// Of all stores together, since connections are parked in one place.
var (
	parkedDesc = prometheus.NewDesc("comet_parked",
		"Connections that are parked: with a held request, or between requests.", nil, nil)
	droppedDesc = prometheus.NewDesc("comet_dropped_clients_total",
		"Clients that were dropped because they did not read their answer.", nil, nil)
)

// Describe implements prometheus.Collector.
func (storeCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- parkedDesc
	descs <- droppedDesc
	descs <- askingDesc
	descs <- queueDesc
	for _, m := range storeMetrics {
		descs <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (storeCollector) Collect(metrics chan<- prometheus.Metric) {
	parked, dropped := parkedNow()
	metrics <- prometheus.MustNewConstMetric(parkedDesc, prometheus.GaugeValue, float64(parked))
	metrics <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(dropped+droppedOnGoroutine.Load()))
	pools.Range(func(_, value any) bool {
		p := value.(*pool)
		held, stats := p.heldNow(), p.store.Stats()
		for _, m := range storeMetrics {
			metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(held, stats), p.name)
		}
		asking, waiting := p.forwarding()
		metrics <- prometheus.MustNewConstMetric(askingDesc, prometheus.GaugeValue, float64(asking), p.name)
		metrics <- prometheus.MustNewConstMetric(queueDesc, prometheus.GaugeValue, float64(waiting), p.name)
		return true
	})
}

var _ prometheus.Collector = storeCollector{}
