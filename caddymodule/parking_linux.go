package caddymodule

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/http"
	"net/textproto"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/time/rate"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/park"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// lot is where all connections are parked: it outlives configurations, as they
// do. It is made for the first one.
var lot = sync.OnceValues(func() (*park.Lot, error) {
	opts := park.Options{}
	if n, ok := maxDescriptors(); ok {
		opts.MaxConns = int(min(n/8*7, 1<<30))
	}
	return park.New(opts)
})

// parkedNow returns how many connections are parked, and droppedTotal how many
// were dropped because their clients did not read.
func parkedNow() (parked int, dropped int64) {
	if l, err := lot(); err == nil {
		return l.Parked(), l.Dropped()
	}
	return 0, 0
}

// closeIdle closes the connections between requests of which only says so.
func closeIdle(only func(*park.Conn, *park.Home) bool) {
	if l, err := lot(); err == nil {
		l.CloseIdle(only)
	}
}

// closeAllIdle closes all connections between requests.
func closeAllIdle() {
	closeIdle(func(*park.Conn, *park.Home) bool { return true })
}

// parkingBusy reports whether there are answers that are not written yet, or not
// in the access log.
func parkingBusy() bool {
	l, err := lot()
	return err == nil && l.Busy() || lastServed.Load() > 0 || accessLines.left.Load() > 0
}

// newParking returns the holder that parks, and holds on its goroutine what
// cannot be parked.
func newParking(trim bool, logger *zap.Logger) (holder, error) {
	l, err := lot()
	if err != nil {
		return nil, err
	}
	if trim {
		if err := park.CanTrimTLS(); err != nil {
			logger.Warn("parking trim_tls is without effect", zap.Error(err))
			trim = false
		}
	}
	return &parking{lot: l, trim: trim}, nil
}

// parking holds requests of HTTP/1 without a goroutine: their connection is taken
// from the server and parked.
type parking struct {
	lot  *park.Lot
	trim bool // what TLS connections keep from their handshakes
}

func (k *parking) hold(w http.ResponseWriter, r *http.Request, a asked) (goroutineHold, error) {
	c, ok := candidateOf(w, r, a.bodySize)
	if !ok {
		return onGoroutine{}.hold(w, r, a)
	}
	p := &parked{coming: &a.query.Fields}
	p.draw(c, r, a)
	a.held(&p.held, r, p)
	if err := p.pool.enter(&p.held); err != nil { // from here on others may look at it
		return nil, err
	}
	p.mu.Lock()
	watch, result, err := p.pool.store.Watch(a.query, p)
	p.watch, p.coming = watch, nil
	p.mu.Unlock()
	if watch == nil {
		route := p.pool.exit(&p.held)
		if err == nil {
			route.answer(w, r, a, result, outcomeNow)
		}
		return nil, err
	}
	err = k.take(c, r, a, &p.onWire, func(home *park.Home) { p.park(home, a.timeout) })
	if err != nil {
		watch.End()
		p.pool.exit(&p.held)
	}
	return nil, err
}

// candidate is a request whose connection can be parked.
type candidate struct {
	chain  writers
	outer  net.Conn     // what the server has
	socket syscall.Conn // below it
}

// candidateOf returns r with the connection that it came on. It is not ok when that
// cannot be parked.
func candidateOf(w http.ResponseWriter, r *http.Request, bodySize int) (c candidate, ok bool) {
	chain, known := writersOf(w)
	served, _ := r.Context().Value(connKey{}).(net.Conn)
	c = candidate{chain: chain, outer: bare(served)}
	c.socket = socketOf(c.outer)
	// With the connection goes what net/http knows of a body that is not read out.
	ok = r.ProtoMajor == 1 && known && c.socket != nil && isReadOut(r, bodySize) && r.Context().Err() == nil
	return c, ok
}

// take takes the connection from the server, with what the handlers have made of the
// header of the answer. When they have returned, park is called, with where the
// connection goes for its next request.
func (k *parking) take(c candidate, r *http.Request, a asked, p *onWire, park func(*park.Home)) error {
	home := homes.of(r, c.outer)
	// Handlers around this one may still use the request, and add to its line.
	later := func() {
		if p.line != nil {
			p.line.fields = extraLogFields(r)
		}
		park(home)
	}
	kept, err := p.take(k.lot, c, later)
	if err != nil {
		return err
	}
	if k.trim {
		p.conn.TrimTLS()
	}
	header, field := c.chain.outer.Header(), wire.FieldList(a.query.Fields)
	header.Set("Content-Type", cmp.Or(a.style.Value().ContentType(), laterType))
	header.Set(headerCursor, laterCursor)
	header.Set(headerField, field)
	c.chain.writeHeader()
	p.keepHeader(header, field, a.route.texts)
	if p.line != nil {
		suppressLog(r)
	}
	switch {
	case kept:
		header.Set("Connection", "close") // for the server alone
	case r.Context().Err() != nil: // the client has just left
		later()
	default:
		context.AfterFunc(r.Context(), later)
	}
	return nil
}

// isReadOut reports whether a body of so many bytes is all that came with r: a
// handler may have put another in its place.
func isReadOut(r *http.Request, size int) bool {
	if len(r.TransferEncoding) > 0 {
		return false
	}
	length := r.Header.Get("Content-Length")
	return length == "" && size == 0 || length == strconv.Itoa(size)
}

// bare returns c without what Caddy puts around a connection to find out which
// protocol it speaks: that is known by now.
func bare(c net.Conn) net.Conn {
	for c != nil {
		v := reflect.Indirect(reflect.ValueOf(c))
		switch v.Type().String() {
		case "caddyhttp.http2Conn", "caddyhttp.http2StateConn", "caddyhttp.tlsStateConn":
		default:
			return c
		}
		c, _ = reflect.TypeAssert[net.Conn](v.Field(v.NumField() - 1))
	}
	return c
}

// socketOf returns the socket of a connection that can be parked, nil of others.
// What is written to the connection must reach the socket as it is, but for TLS
// around everything else.
func socketOf(c net.Conn) syscall.Conn {
	if park.Of(c) != nil {
		c = c.(interface{ NetConn() net.Conn }).NetConn()
	}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if p, ok := c.(*proxyproto.Conn); ok {
		c = p.Raw()
	}
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case *net.UnixConn:
		return c
	}
	return nil
}

// onWire is what there is of a request whose connection is parked, and of its answer
// before that is known.
type onWire struct {
	sketch
	conn   *park.Conn
	header *string // what is known of the answer's header, as it is sent
	fillIn uint8   // what is not known yet, and is to be in the header
	minor  uint8   // of HTTP/1
	last   bool    // the connection is closed after the answer
	line   *accessRecord
}

func (p *onWire) draw(c candidate, r *http.Request, a asked) {
	p.sketch = drawSketch(r, c.outer, a.route, a.head)
	p.minor = uint8(min(r.ProtoMinor, 1))
	p.last = r.Close
	if a.route.access.wants(r) {
		p.line = &accessRecord{bodySize: a.bodySize}
	}
}

// parked is a held request whose connection is parked.
type parked struct {
	held
	onWire

	mu     sync.Mutex // guards what follows
	stage  stage
	coming *[]string // the fields, until there is a watch
	watch  *store.Watch
	result *store.Result // what the store woke it with
	ended  bool
	why    outcome // when it is ended
}

// laterCursor and laterType stand in the header for the cursor, and for the
// Content-Type of raw answers, which are known only when there is an answer.
// Handlers may copy them to other places of the header.
var (
	laterCursor = "comet." + rand.Text()
	laterType   = "comet/" + rand.Text()
)

// What is to be filled in when the header is sent.
const (
	fillCursor = 1 << iota
	fillType
	fillField
	fillDate
	fillCopies // of the cursor or the type
)

// take takes the connection from the server. When it is kept, the server is to
// close it after the request, and later is called then.
func (p *onWire) take(lot *park.Lot, c candidate, later func()) (kept bool, err error) {
	if p.conn = park.Of(c.outer); p.conn != nil && p.conn.Keep(later) {
		return true, nil
	}
	taken, buffered, err := c.chain.bottom.Hijack()
	if err != nil {
		return false, err
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // what is buffered is there
	early = bytes.Clone(early)
	if p.conn == nil {
		if p.conn, err = lot.Wrap(c.outer, c.socket, early); err != nil {
			_ = taken.Close()
		}
		return false, err
	}
	p.conn.Unread(early)
	return false, nil
}

// keepHeader keeps what is known of the header of the answer, shared with others
// that have the same.
func (p *onWire) keepHeader(header http.Header, field string, shared *textCache) {
	if slices.ContainsFunc(header["Connection"], func(v string) bool {
		return httpguts.HeaderValuesContainsToken([]string{v}, "close")
	}) {
		p.last = true
	}
	p.fillIn = fillDate
	b := make([]byte, 0, 256)
	for _, name := range sortedKeys(header) { // in one order, or none is like another
		values := header[name]
		switch name {
		case "Connection", "Transfer-Encoding", "Content-Length", "Trailer", "Upgrade":
			continue
		case "Date":
			p.fillIn &^= fillDate
		case headerCursor:
			if slices.Equal(values, []string{laterCursor}) {
				p.fillIn |= fillCursor
				continue
			}
		case "Content-Type":
			if slices.Equal(values, []string{laterType}) {
				p.fillIn |= fillType
				continue
			}
		case headerField:
			if slices.Equal(values, []string{field}) {
				p.fillIn |= fillField
				continue
			}
		}
		if !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, v := range values {
			b = appendHeader(b, name, v)
		}
	}
	if bytes.Contains(b, []byte(laterCursor)) || bytes.Contains(b, []byte(laterType)) {
		p.fillIn |= fillCopies
	}
	p.header = shared.intern(b)
}

// appendHeader appends a line of a header, with its value as net/http would write
// it.
func appendHeader(b []byte, name, value string) []byte {
	b = append(append(b, name...), ':', ' ')
	from := len(b)
	b = append(b, textproto.TrimString(value)...)
	for i := from; i < len(b); i++ {
		if b[i] == '\n' || b[i] == '\r' {
			b[i] = ' '
		}
	}
	return append(b, '\r', '\n')
}

// park parks the connection.
func (p *parked) park(home *park.Home, timeout time.Duration) {
	err := p.conn.Park(p, home, timeout)
	p.mu.Lock()
	if err != nil {
		p.stage = answered
		p.watch.End()
		p.mu.Unlock()
		p.refuse(&p.held, p.pool.exit(&p.held), err)
		return
	}
	p.stage = waiting
	if p.ended || p.result != nil {
		p.conn.Post(p)
	}
	p.mu.Unlock()
}

// unparkable says now and then that connections cannot be parked.
var unparkable = rate.Sometimes{First: 1, Interval: time.Minute}

// refuse ends a request whose connection cannot be parked.
func (p *onWire) refuse(h *held, route *Hold, err error) {
	h.stopLooking()
	h.pool.countHold(outcomeRefused)
	unparkable.Do(func() {
		route.logger.Error("connections cannot be parked, and are closed (docs/operations.md)", zap.Error(err))
	})
	head := answerHead{status: http.StatusServiceUnavailable, cursor: h.pool.store.Cursor().String(), hasLength: true}
	b := p.appendHead(nil, head, h.waiter.fields(), true)
	b = append(appendHeader(b, "Retry-After", "1"), "\r\n"...)
	_ = p.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = p.conn.Write(b)
	_ = p.conn.Close()
}

// Wake implements store.Watcher.
func (p *parked) Wake(result store.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result = &result
	if p.stage == waiting {
		p.conn.Post(p)
	}
}

func (p *parked) end(why outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended, p.why = true, why
	if p.stage == waiting {
		p.conn.Post(p)
	}
}

func (p *parked) fields() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch == nil {
		return *p.coming
	}
	return p.watch.Fields()
}

// Expire implements park.Guest.
func (p *parked) Expire() { p.end(outcomeTimeout) }

// Leave implements park.Guest.
func (p *parked) Leave() { p.end(outcomeLeft) }

// over takes what the request is to be answered with. It is not ok when that is
// not known yet, or was taken before.
func (p *parked) over() (result store.Result, why outcome, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stage != waiting:
		return result, why, false
	case p.result != nil:
		result, why = *p.result, outcomeWake
	case p.ended:
		if result, ok = p.watch.End(); !ok {
			return result, why, false // the store is about to wake it
		}
		why = endedAs(p.why, result)
	default:
		return result, why, false
	}
	p.stage = answered
	p.result = nil
	return result, why, true
}

// promptAnswer is up to which size an answer is copied, to be written in one
// piece.
const promptAnswer = 16 << 10

// Do answers the request. It implements park.Task.
func (p *parked) Do(scratch *park.Scratch) {
	result, why, ok := p.over()
	if !ok {
		return
	}
	route := p.pool.exit(&p.held)
	p.stopLooking()
	answer, why := route.reply(p.style.Value(), result, why)
	p.pool.countHold(why)
	last := p.isLast(why)
	cursor := answer.Cursor.String()
	size := answer.Len()

	head := answerHead{
		status: answer.Status, cursor: cursor, contentType: answer.Type, missed: answer.Missed,
		hasLength: answer.HasBody(), length: size,
	}
	b := p.appendHead(scratch.Bytes[:0], head, p.fields(), last)
	b = append(b, "\r\n"...)
	parts := answer.Parts
	if size <= promptAnswer {
		for _, part := range parts {
			b = append(b, part...)
		}
		parts = nil
	}
	scratch.Bytes = b
	if p.line != nil {
		p.line.sent = &sentAnswer{head, route, why, size}
	}
	p.conn.Answer(b, parts, last)
	if why == outcomeWake {
		p.pool.observeWake(result)
	}
}

// answerHead is what is known of the header of an answer once there is one.
type answerHead struct {
	status      int
	cursor      string
	contentType string
	missed      bool
	hasLength   bool // else it has no body, or none whose length is known
	length      int
}

// appendHead appends what an answer begins with, but for the empty line.
func (p *onWire) appendHead(b []byte, h answerHead, fields []string, last bool) []byte {
	b = append(b, "HTTP/1."...)
	b = append(b, '0'+p.minor)
	b = strconv.AppendInt(append(b, ' '), int64(h.status), 10)
	b = append(append(append(b, ' '), http.StatusText(h.status)...), "\r\n"...)
	b = append(b, p.headerWith(h)...)
	if p.fillIn&fillType != 0 && h.contentType != "" {
		b = appendHeader(b, "Content-Type", h.contentType)
	}
	if p.fillIn&fillCursor != 0 {
		b = appendHeader(b, headerCursor, h.cursor)
	}
	if p.fillIn&fillField != 0 {
		b = appendHeader(b, headerField, wire.FieldList(fields))
	}
	if h.missed {
		b = appendHeader(b, headerMissed, "true")
	}
	switch {
	case last && p.minor > 0:
		b = appendHeader(b, "Connection", "close")
	case !last && p.minor == 0:
		b = appendHeader(b, "Connection", "keep-alive")
	}
	if h.hasLength {
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, int64(h.length), 10), "\r\n"...)
	}
	if p.fillIn&fillDate != 0 {
		b = time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat)
		b = append(b, "\r\n"...)
	}
	return b
}

// isLast reports whether the connection is to be closed after an answer, for why.
func (p *onWire) isLast(why outcome) bool {
	if p.conn.LotIsFull() {
		fullLot.Do(func() {
			n, _ := parkedNow()
			caddy.Log().Named("comet").Warn("nearly all file descriptors are used by parked connections: they are closed after their answers",
				zap.Int("parked", n))
		})
		return true
	}
	return p.last || why == outcomeExit || p.isHomeless()
}

// headerWith returns the header that was kept, with the cursor and the type where
// they were copied to.
func (p *onWire) headerWith(h answerHead) string {
	if p.fillIn&fillCopies == 0 {
		return *p.header
	}
	return filledIn(*p.header, h.cursor, h.contentType)
}

// filledIn returns s with a cursor and a type in the place of what stands for
// them.
func filledIn(s, cursor, contentType string) string {
	s = strings.ReplaceAll(s, laterCursor, cursor)
	return strings.ReplaceAll(s, laterType, contentType)
}

// fullLot says now and then that so many connections are parked.
var fullLot = rate.Sometimes{First: 1, Interval: time.Minute}

// isHomeless reports whether there is no server for a further request.
func (p *onWire) isHomeless() bool {
	home := p.conn.Home()
	return home == nil || home.Closed() && homes.successor(p.conn) == nil
}

// Sent implements park.Guest. The answer is written in one part.
func (p *parked) Sent() {}

// Stalled implements park.Guest.
func (p *parked) Stalled() bool { return true }

// Answered implements park.Guest.
func (p *parked) Answered(err error) {
	if p.line != nil {
		accessLines.post(accessLine{&p.onWire, p.fields(), p.since.elapsed(), err})
	}
}

// accessRecord is what is kept for the access log.
type accessRecord struct {
	bodySize int // of the request
	fields   []zap.Field
	sent     *sentAnswer // when it is answered
}

// sentAnswer is what the access log tells of an answer.
type sentAnswer struct {
	answerHead
	route *Hold
	why   outcome
	size  int // of the body
}

// accessLine is a line of the access log that is to be written.
type accessLine struct {
	of       *onWire
	watched  []string
	duration time.Duration
	err      error
}

// accessLines writes lines of access logs one after the other, so that a log that
// is slow, or stands still, does not keep answers from being written.
var accessLines = lineWriter{lines: make(chan accessLine, 1<<16)}

type lineWriter struct {
	once  sync.Once
	lines chan accessLine
	left  atomic.Int64
	lost  rate.Sometimes
}

// post has a line written soon. When very many are waiting already it is lost.
func (w *lineWriter) post(line accessLine) {
	w.once.Do(func() {
		w.lost.First, w.lost.Interval = 1, time.Minute
		go func() {
			for line := range w.lines {
				line.write()
				w.left.Add(-1)
			}
		}()
	})
	w.left.Add(1)
	select {
	case w.lines <- line:
	default:
		w.left.Add(-1)
		w.lost.Do(func() { // on a goroutine of its own: it may be this log that stands still
			go caddy.Log().Named("comet").Error("the access log is too slow: lines of held requests are lost")
		})
	}
}

func (l accessLine) write() {
	p, sent := l.of, l.of.line.sent
	defer func() {
		if failure := recover(); failure != nil { // in a filter or writer of the log
			sent.route.logger.Error("writing a line of the access log", zap.Any("panic", failure))
		}
	}()
	r, err := p.look(sent.route.access.server)
	if err != nil {
		sent.route.logger.Error("writing a line of the access log", zap.Error(err))
		return
	}
	if !sent.route.access.wants(r) { // not any more
		return
	}
	header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(p.headerWith(sent.answerHead) + "\r\n"))).ReadMIMEHeader()
	if err != nil {
		sent.route.logger.Error("writing a line of the access log", zap.Error(err))
		return
	}
	if p.fillIn&fillCursor != 0 {
		header.Set(headerCursor, sent.cursor)
	}
	if p.fillIn&fillType != 0 && sent.contentType != "" {
		header.Set("Content-Type", sent.contentType)
	}
	if p.fillIn&fillField != 0 {
		header.Set(headerField, wire.FieldList(l.watched))
	}
	if sent.missed {
		header.Set(headerMissed, "true")
	}
	if sent.hasLength {
		header.Set("Content-Length", strconv.Itoa(sent.size))
	}
	a := answeredRequest{
		request:  r,
		header:   http.Header(header),
		status:   sent.status,
		size:     sent.size,
		duration: l.duration,
		writeErr: l.err,
	}
	a.bodySize = p.line.bodySize
	for _, field := range p.line.fields {
		field.String = filledIn(field.String, sent.cursor, sent.contentType)
		a.fields = append(a.fields, field)
	}
	a.fields = append(a.fields, outcomeFields(sent.why, l.duration, l.watched)...)
	sent.route.access.write(a)
}

var (
	_ holder        = (*parking)(nil)
	_ waiter        = (*parked)(nil)
	_ store.Watcher = (*parked)(nil)
	_ park.Guest    = (*parked)(nil)
	_ park.Task     = (*parked)(nil)
)
