package caddymodule

import (
	"crypto/rand"
	"errors"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// stream is a held request that is answered in parts: each time the store has
// something, until its time is over or its client leaves. Between two parts the
// store keeps what comes, so that a client that reads slowly costs no more than
// the part that is being sent to it.
//
// Whoever writes the parts is its carrier. It takes them with next, one at a time,
// and says with sent that one was written.
type stream struct {
	held // of which the waiter is its carrier

	session string   // names it to who changes what it watches
	socket  *socket  // nil: it is no WebSocket
	granted []string // all that it may watch, where the application has said so

	mu         sync.Mutex // guards what follows
	stage      stage
	beginning  *beginning   // until that was sent
	query      store.Query  // what is watched, from where the client is
	at         store.Cursor // that the client has
	attendance *store.Attendance
	watch      *store.Watch  // nil while there is something to send
	result     *store.Result // what the store woke it with
	late       []store.Query // of fields that are new to it: what is to be told up to at
	changed    bool          // what is watched, while the store was about to wake it
	beat       bool          // a heartbeat is due
	ended      bool
	why        outcome // when it is ended
	until      moment  // when it ends
	payload    int     // bytes that were sent
}

// beginning is what a stream begins with.
type beginning struct {
	head  []byte
	first store.Result
}

// carrier writes a stream to its client.
type carrier interface {
	waiter

	// poke has next called soon. It must not block.
	poke()
}

// part is a part of a stream, as it is to be written.
type part struct {
	bytes [][]byte   // shared with others, not to be changed
	piece wire.Piece // that is in it: others share it while it is written
	size  int
	woken store.Result // what the store had it sent for
	reply bool         // it is one
	last  bool
	why   outcome // of the last: how the stream ended
}

// stage is how far a held request is.
type stage uint8

const (
	starting stage = iota // its handlers have not returned yet
	waiting               // for something to send
	sending               // a part is being written
	answered
)

// begin fills in s, a stream of the request r, and counts and lists it.
func (s *stream) begin(a *asked, r *http.Request, c carrier) error {
	a.held(&s.held, r, c)
	s.session, s.granted = rand.Text(), a.granted
	if s.style.Value().Format == wire.WS {
		s.socket = &socket{accept: a.accept}
	}
	s.beginning = &beginning{s.style.Value().Head(s.session, a.route.Retry.pick(), time.Duration(a.route.Heartbeat), a.first), a.first}
	s.query = a.query
	s.query.Fields = make([]string, len(a.query.Fields))
	for i, name := range a.query.Fields {
		s.query.Fields[i] = strings.Clone(name) // else it keeps the whole request
	}
	if !s.query.Since.IsByValue() {
		// What comes from here on is told, also when that is before it is watched.
		s.query.Since = store.SinceCursor(a.first.Cursor)
	}
	s.at = a.first.Cursor
	s.until = a.since + moment(a.timeout)
	s.query.Attended = true
	var err error
	if s.attendance, err = s.pool.store.Attend(s.query.Fields); err != nil {
		return err
	}
	if err = s.pool.enterStream(s); err != nil {
		s.attendance.End()
	}
	return err
}

// next returns the part that is to be written now. It is not ok when there is none;
// then the carrier is poked when there is one. After it, sent or over is called.
func (s *stream) next() (p part, ok bool) {
	retry := s.holding().Retry.pick()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage != waiting || s.socket != nil && s.socket.reads {
		return p, false
	}
	switch {
	case s.beginning != nil:
		p.add(s.beginning.head)
		s.tell(&p, s.beginning.first)
		s.beginning = nil
	case s.hasReply():
		p.add(s.socket.reply)
		p.reply, p.last, p.why = true, s.socket.closes, s.why
		s.socket.reply = nil
	case s.tellLate(&p):
	case s.result != nil:
		p.woken = *s.result
		s.tell(&p, p.woken)
		s.result = nil
	case s.ended:
		if s.watch != nil {
			result, ended := s.watch.End()
			if !ended {
				return p, false // the store is about to wake it
			}
			s.watch = nil
			if result.Ready() {
				s.tell(&p, result)
			}
		}
		p.add(s.style.Value().End(retry))
		p.last, p.why = true, s.why
	case s.beat:
		p.add(s.style.Value().Heartbeat())
		s.beat = false
	default:
		return p, false
	}
	s.payload += p.size
	s.stage = sending
	return p, true
}

// tell adds what a client is told of a result.
func (s *stream) tell(p *part, result store.Result) {
	piece := s.style.Value().Piece(result)
	p.tell(piece)
	s.at = piece.Cursor
	if result.Ready() || !s.query.Since.IsByValue() {
		s.query.Since = store.SinceCursor(s.at)
	}
}

func (p *part) tell(piece wire.Piece) {
	for _, b := range piece.Parts {
		p.add(b)
	}
	p.piece = piece
}

func (p *part) add(b []byte) {
	p.bytes = append(p.bytes, b)
	p.size += len(b)
}

// open has the stream begin: its carrier can write now.
func (s *stream) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stage = waiting
	s.pokeCarrier()
}

// sent is called when a part was written that was not the last.
func (s *stream) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watch == nil && s.result == nil && !s.ended {
		s.watchOn()
	}
	s.stage = waiting
	if s.result != nil || len(s.late) > 0 || s.ended || s.beat || s.hasReply() {
		s.pokeCarrier()
	}
}

// mayStall reports whether the client may go on not to read the part that is being
// written: not when it has more before it than the route allows.
func (s *stream) mayStall() bool {
	route := s.holding()
	s.mu.Lock()
	query := s.query
	s.mu.Unlock()
	behind := s.pool.store.Read(query)
	size := int64(0)
	for _, m := range behind.Messages {
		size += int64(len(m.Data))
	}
	return len(behind.Messages) <= route.BufferMessages && size <= route.BufferBytes
}

// watchOn watches from where the client is. It may have a result at once.
func (s *stream) watchOn() {
	watch, result, err := s.pool.store.Watch(s.query, s)
	switch {
	case err != nil: // there are too many fields that nobody has published
		s.ended, s.why = true, outcomeRefused
	case watch != nil:
		s.watch = watch
	default:
		s.result = &result
	}
}

// over is called when the last part was written, or a part could not be. It returns
// the route that is to note it.
func (s *stream) over() *Hold {
	s.mu.Lock()
	s.stage = answered
	if s.watch != nil {
		s.watch.End()
	}
	s.watch, s.result = nil, nil
	s.attendance.End()
	s.mu.Unlock()
	route := s.pool.exitStream(s)
	s.stopLooking()
	return route
}

// Wake implements store.Watcher.
func (s *stream) Wake(result store.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch, s.result = nil, &result
	if s.changed { // it is not all that there is of what is watched now
		s.changed, s.result = false, nil
		if !s.ended && s.stage == waiting {
			s.watchOn()
		}
	}
	s.pokeIfWaiting()
}

func (s *stream) end(why outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.why = true, why
	s.pokeIfWaiting()
}

// expire is called when the time limit of its carrier is over.
func (s *stream) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
	case now() >= s.until:
		s.ended, s.why = true, outcomeTimeout
	case s.socket != nil && s.socket.isSilent():
		s.ended, s.why = true, outcomeLeft
	default:
		s.beat = true
	}
	s.pokeIfWaiting()
}

func (s *stream) pokeCarrier() { s.waiter.(carrier).poke() }

func (s *stream) hasReply() bool { return s.socket != nil && s.socket.reply != nil }

func (s *stream) pokeIfWaiting() {
	if s.stage == waiting {
		s.pokeCarrier()
	}
}

// limit returns after what time the carrier is to call expire.
func (s *stream) limit() time.Duration {
	return max(0, min(time.Duration(s.holding().Heartbeat), time.Duration(s.until-now())))
}

func (s *stream) fields() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.query.Fields
}

// goroutineStream is a stream that the goroutine of its request writes.
type goroutineStream struct {
	stream
	onRequest
	timer *time.Timer
	ready chan struct{} // there may be something to write

	writer http.ResponseWriter
	slow   atomic.Bool // the client is to be dropped

	// Of a WebSocket.
	conn     net.Conn      // over HTTP/1: in place of writer
	replied  chan struct{} // a reply was sent; closed at the end
	listened chan struct{} // over HTTP/2 and HTTP/3: closed when nobody hears it any more
}

func (onGoroutine) stream(w http.ResponseWriter, r *http.Request, a asked) (goroutineHold, error) {
	g := &goroutineStream{onRequest: onRequest{r}, ready: make(chan struct{}, 1), writer: w}
	if err := g.begin(&a, r, g); err != nil {
		return nil, err
	}
	a.tell(w.Header(), g.style.Value().ContentType(), a.first.Cursor, a.first.Missed != nil)
	if g.socket != nil {
		if err := g.upgrade(); err != nil {
			g.over().note(r, outcomeRefused, outcomeField(outcomeRefused))
			return nil, err
		}
	}
	g.timer = time.AfterFunc(math.MaxInt64, g.tick)
	g.timer.Reset(g.limit())
	g.open()
	return g, nil
}

// patience is how often it is looked at whether a client may go on that has not read
// all of a part.
const patience = time.Second

// tick is called when the time limit is over: for writing, or for waiting.
func (g *goroutineStream) tick() {
	g.mu.Lock()
	stage := g.stage
	g.mu.Unlock()
	switch {
	case stage != sending:
		g.expire()
	case g.mayStall():
		g.timer.Reset(patience)
	default:
		g.mu.Lock()
		if g.stage == sending { // else the writer may be gone with its request
			g.slow.Store(true)
			_ = g.setWriteDeadline(time.Unix(1, 0))
		}
		g.mu.Unlock()
	}
}

func (g *goroutineStream) poke() {
	select {
	case g.ready <- struct{}{}:
	default: // it is told already
	}
}

func (g *goroutineStream) wait() {
	select {
	case <-g.ready:
	case <-g.request.Context().Done():
		g.end(outcomeLeft)
	}
}

// proceed writes what there is to write.
func (g *goroutineStream) proceed(http.ResponseWriter) (more bool) {
	for {
		p, ok := g.next()
		if !ok {
			return true
		}
		why, err := p.why, g.write(p.bytes)
		if err == nil && len(p.woken.Messages) > 0 {
			g.pool.observeWake(p.woken)
		}
		switch {
		case err == nil && !p.last:
			g.timer.Reset(g.limit())
			g.sent()
			if p.reply {
				g.replied <- struct{}{}
			}
			continue
		case err != nil && (g.slow.Load() || errors.Is(err, os.ErrDeadlineExceeded)):
			why = outcomeDropped
		case err != nil:
			why = outcomeLeft
		}
		if why == outcomeDropped {
			droppedOnGoroutine.Add(1)
		}
		g.timer.Stop()
		g.over().note(g.request, why, outcomeFields(why, g.since.elapsed(), g.fields())...)
		if g.socket != nil {
			g.hangUp(why)
		}
		if why == outcomeDropped && g.conn == nil {
			panic(http.ErrAbortHandler) // else the client takes it for a clean end
		}
		return false
	}
}

// droppedOnGoroutine counts the clients that were dropped because they did not read,
// without those whose connections were parked.
var droppedOnGoroutine atomic.Int64

// writeStall is for how long a part may be written of which the client reads nothing.
const writeStall = 30 * time.Second

// write writes a part, and returns when the client has room for it.
func (g *goroutineStream) write(parts [][]byte) error {
	_ = g.setWriteDeadline(time.Now().Add(writeStall)) // not supported: then the server's own timeouts are what there is
	g.timer.Reset(patience)
	if g.conn != nil {
		buffers := net.Buffers(parts)
		_, err := buffers.WriteTo(g.conn)
		return err
	}
	for _, b := range parts {
		if _, err := g.writer.Write(b); err != nil {
			return err
		}
	}
	if err := http.NewResponseController(g.writer).Flush(); err != nil {
		return err
	}
	_ = g.setWriteDeadline(time.Time{}) // HTTP/2 would end the stream by it though nothing is written
	return nil
}

func (g *goroutineStream) setWriteDeadline(t time.Time) error {
	if g.conn != nil {
		return g.conn.SetWriteDeadline(t)
	}
	return http.NewResponseController(g.writer).SetWriteDeadline(t)
}

var (
	_ carrier       = (*goroutineStream)(nil)
	_ goroutineHold = (*goroutineStream)(nil)
	_ store.Watcher = (*goroutineStream)(nil)
	_ waiter        = (*goroutineStream)(nil)
)
