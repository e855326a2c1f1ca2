package caddymodule

import (
	"bytes"
	"net"
	"net/http"
	"reflect"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/park"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

func (k *parking) forward(w http.ResponseWriter, r *http.Request, a asked) (*goroutineForwarded, error) {
	c, ok := candidateOf(w, r, a.bodySize)
	if ok && a.bodySize == 0 {
		a.head = c.head(r)
	}
	if a.head == nil { // else it could not be given back as it came
		return onGoroutine{}.forward(w, r, a)
	}
	p := &parkedForwarded{}
	p.draw(c, r, a)
	if err := p.begin(&a, r, p, p.post); err != nil {
		return nil, err
	}
	setAnswered(w)                              // by nobody yet
	w.Header().Set("Cache-Control", "no-store") // of an answer without the application
	err := k.take(c, r, a, &p.onWire, func(home *park.Home) { p.park(home, &a) })
	if err != nil {
		p.giveUp()
	}
	return nil, err
}

// parkedForwarded is a forwarded request whose connection is parked. When its turn has
// come the connection is given back to a server, with the request as it came: so all
// handlers see it again.
type parkedForwarded struct {
	forwarded
	onWire
}

func (p *parkedForwarded) post() { p.conn.Post(p) }

// park parks the connection.
func (p *parkedForwarded) park(home *park.Home, a *asked) {
	if err := p.conn.Park(p, home, a.limit()); err != nil {
		p.fillIn &^= fillCursor // its client goes on from the one it has
		p.refuse(&p.held, p.giveUp(), err)
		return
	}
	p.open()
}

// giveUp has the request neither watch nor wait for its turn any more.
func (p *parkedForwarded) giveUp() (route *Hold) {
	p.mu.Lock()
	p.stage = answered
	if p.watch != nil {
		p.watch.End()
	}
	if p.passage != nil {
		go p.passage.Lose()
	}
	p.mu.Unlock()
	return p.pool.exit(&p.held)
}

// Do implements park.Task.
func (p *parkedForwarded) Do(scratch *park.Scratch) {
	s, waits, ok := p.next()
	if !ok {
		if waits > 0 {
			p.conn.SetLimit(waits)
		}
		return
	}
	route := p.pool.exit(&p.held)
	p.stopLooking()
	if s.passage != nil {
		if home := p.goesTo(); home != nil {
			p.conn.Resume(p.head(), home, s.passage)
			return
		}
		s.passage.Lose() // its server is there no more
		s = unanswered(outcomeExit)
	}
	p.pool.countHold(s.why)
	last := p.isLast(s.why) || s.status == 0
	head := answerHead{status: s.status, cursor: s.at.String()}
	b := scratch.Bytes[:0]
	if s.status != 0 {
		if s.status == http.StatusServiceUnavailable {
			head.hasLength = true
			p.fillIn &^= fillCursor
		}
		b = p.appendHead(b, head, p.watched, last)
		if s.status == http.StatusServiceUnavailable {
			b = appendHeader(b, "Retry-After", failedRetry)
		}
		b = append(b, "\r\n"...)
		scratch.Bytes = b
	}
	if p.line != nil {
		p.line.sent = &sentAnswer{head, route, s.why, 0}
	}
	p.conn.Answer(b, nil, last)
}

// goesTo returns where the connection goes on: to its server, or to that of the
// configuration that holds it now. It is nil when there is none.
func (p *parkedForwarded) goesTo() *park.Home {
	home := p.conn.Home()
	if home != nil && !home.Closed() {
		return home
	}
	if next := homes.successor(p.conn); next != nil {
		return next
	}
	if server := p.pool.serverLike(p.to); server != nil {
		return homes.once(server, p.conn)
	}
	return nil
}

// Expire implements park.Guest.
func (p *parkedForwarded) Expire() { p.end(outcomeTimeout) }

// Leave implements park.Guest.
func (p *parkedForwarded) Leave() { p.end(outcomeLeft) }

// Sent implements park.Guest. There are no parts.
func (p *parkedForwarded) Sent() {}

// Stalled implements park.Guest.
func (p *parkedForwarded) Stalled() bool { return true }

// Answered implements park.Guest.
func (p *parkedForwarded) Answered(err error) {
	if p.line != nil {
		accessLines.post(accessLine{&p.onWire, p.watched, p.since.elapsed(), err})
	}
}

// parkedConn returns the connection of a request, if it is one that was parked.
func parkedConn(r *http.Request) *park.Conn {
	served, _ := r.Context().Value(connKey{}).(net.Conn)
	return park.Of(bare(served))
}

// passageOf takes the passage of a request that was held, and may go on now. It is nil
// when there is none.
func passageOf(r *http.Request) *passage {
	c := parkedConn(r)
	if c == nil {
		return nil
	}
	p, _ := c.TakeTicket().(*passage)
	return p
}

// returnAfter has the connection of a request wait for the next one parked, if it was
// parked before.
func returnAfter(r *http.Request) {
	if c := parkedConn(r); c != nil {
		c.Return()
	}
}

// connState is told what becomes of the connections of servers.
func connState(c net.Conn, state http.ConnState) {
	if state == http.StateIdle {
		if parked := park.Of(bare(c)); parked != nil {
			parked.Await()
		}
	}
}

// head returns the head of a request as it came. It is nil when it is not there any
// more: handlers may have changed what there is of it otherwise.
func (c candidate) head(r *http.Request) []byte {
	if home := park.Of(c.outer); home != nil {
		if head := home.Head(); head != nil {
			return head
		}
	}
	// What net/http has read is in its buffer until it reads again.
	response := reflect.Indirect(reflect.ValueOf(c.chain.bottom))
	if response.Kind() != reflect.Struct || response.Type().String() != "http.response" {
		return nil
	}
	buffer := response
	for _, name := range []string{"conn", "bufr"} {
		if buffer = buffer.FieldByName(name); buffer.Kind() != reflect.Pointer || buffer.IsNil() {
			return nil
		}
		buffer = buffer.Elem()
	}
	all, read, filled := buffer.FieldByName("buf"), buffer.FieldByName("r"), buffer.FieldByName("w")
	if !all.IsValid() || all.Type() != reflect.TypeFor[[]byte]() || !read.IsValid() || !read.CanInt() || !filled.IsValid() || !filled.CanInt() {
		return nil
	}
	b := all.Bytes()
	// A line of the head that did not fit has filled the buffer: then what came before
	// the rest of it is missing, and in what is not filled again is a piece of it.
	if unused := b[filled.Int():]; bytes.IndexByte(unused, 0) < 0 && bytes.IndexByte(unused, '\n') < 0 {
		return nil
	}
	if b = b[:read.Int()]; park.EndOfHead(b) != len(b) || !isHeadOf(b, r) {
		return nil
	}
	return bytes.Clone(b)
}

var (
	_ store.Watcher = (*parkedForwarded)(nil)
	_ waiter        = (*parkedForwarded)(nil)
	_ passenger     = (*parkedForwarded)(nil)
	_ park.Guest    = (*parkedForwarded)(nil)
	_ park.Task     = (*parkedForwarded)(nil)
)
