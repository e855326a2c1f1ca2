package caddymodule

import (
	"strings"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"
)

// smallestBody is what a max_body has at least that was not meant as a number of
// some larger unit: there is no room in less for a name and a value.
const smallestBody = 16

// warnOfMistakes logs what in this configuration can be meant, and most likely is
// not.
func (a *App) warnOfMistakes() {
	published := make(map[string]bool)
	for _, p := range a.publish {
		published[p.pool.name] = true
		if p.MaxBody < smallestBody {
			a.logger.Warn("max_body has hardly room for a publication: is a unit missing, as in 1MiB?",
				zap.String("store", p.pool.name), zap.String("max_body", humanize.IBytes(uint64(p.MaxBody))))
		}
	}
	for _, t := range a.touches {
		published[t.publisher.pool.name] = true
		a.warnOfCommas(t.publisher.pool, t.Fields)
	}
	for _, f := range a.responses {
		published[f.publisher.pool.name] = true
	}
	silent := make(map[string]bool)
	for _, h := range a.holders {
		silent[h.pool.name] = !published[h.pool.name]
		a.warnOfCommas(h.pool, h.Fields)
	}
	for _, name := range sortedKeys(silent) {
		if !silent[name] {
			continue
		}
		add := "publish /config"
		if name != DefaultStore {
			add += ", with store " + name
		}
		a.logger.Warn("requests are held against a store that no route of this configuration publishes to",
			zap.String("store", name), zap.String("add", add+", to a comet block that the backend reaches"))
	}
}

func (a *App) warnOfCommas(p *pool, fields []string) {
	for _, field := range fields {
		if strings.Contains(field, ",") {
			a.logger.Warn("a field has a comma in its name: fields are separated by spaces, as in field id news",
				zap.String("store", p.name), zap.String("field", field))
		}
	}
}
