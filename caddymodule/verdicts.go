package caddymodule

import (
	"container/list"
	"time"
)

// verdicts are those that hold for a while, in the order in which they came: that in
// which they end.
type verdicts struct {
	of    map[asker]*list.Element
	order list.List
	size  int // of the fields in them, in bytes
}

// The bounds of verdicts. Beyond them the oldest go.
const (
	maxVerdicts     = 10_000
	maxVerdictsSize = 4 << 20
)

// keptVerdict is what is in verdicts.
type keptVerdict struct {
	who     asker
	verdict *verdict
	until   time.Time
}

// get returns the verdict that there is, and nil when there is none.
func (k *verdicts) get(who asker) *verdict {
	if e := k.of[who]; e != nil {
		if kept := e.Value.(*keptVerdict); time.Now().Before(kept.until) {
			return kept.verdict
		}
	}
	return nil
}

// add adds a yes, until it does not hold any more.
func (k *verdicts) add(who asker, v *verdict, until time.Time) {
	now := time.Now()
	if e := k.of[who]; e != nil {
		k.remove(e)
	}
	if now.Before(until) {
		if k.of == nil {
			k.of = make(map[asker]*list.Element)
		}
		yes := &verdict{status: v.status, limited: v.limited, fields: v.fields} // the cookies were for one client
		k.of[who] = k.order.PushBack(&keptVerdict{who, yes, until})
		k.size += yes.size()
	}
	for e := k.order.Front(); e != nil; e = k.order.Front() {
		if len(k.of) <= maxVerdicts && k.size <= maxVerdictsSize && now.Before(e.Value.(*keptVerdict).until) {
			return
		}
		k.remove(e)
	}
}

func (k *verdicts) remove(e *list.Element) {
	kept := k.order.Remove(e).(*keptVerdict)
	delete(k.of, kept.who)
	k.size -= kept.verdict.size()
}

// size returns how many bytes the fields have, and what there is for each.
func (v *verdict) size() (n int) {
	for _, name := range v.fields {
		n += len(name) + 32
	}
	return n
}
