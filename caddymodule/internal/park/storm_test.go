//go:build linux

package park

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What is spoken in a storm: a request is its number and the size of the answer,
// of which the highest bit tells that it is the last. The answer is the number,
// the size and as many bytes.
const (
	stormHeader = 8
	stormLast   = 1 << 31
)

// storm is a server that parks, with very many clients.
type storm struct {
	*rig
	bytes    []byte // what answers are made of
	parked   atomic.Int64
	answered atomic.Int64
	twice    atomic.Int64 // told more often of an answer than once
}

// stormGuest answers for whichever reason comes first, as one who uses this
// package does.
type stormGuest struct {
	s       *storm
	conn    *Conn
	request []byte
	done    atomic.Int64

	mu     sync.Mutex
	parked bool
	over   bool // there is something to answer
	taken  bool
}

func (g *stormGuest) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	if g.parked {
		g.conn.Post(g)
	}
}

func (g *stormGuest) Expire() { g.end() }
func (g *stormGuest) Leave()  { g.end() }
func (g *stormGuest) Sent()   {}

func (g *stormGuest) Stalled() bool { return true }

func (g *stormGuest) Answered(error) {
	g.s.answered.Add(1)
	if g.done.Add(1) > 1 {
		g.s.twice.Add(1)
	}
}

func (g *stormGuest) Do(scratch *Scratch) {
	g.mu.Lock()
	mine := !g.taken
	g.taken = true
	g.mu.Unlock()
	if !mine {
		return
	}
	size := binary.BigEndian.Uint32(g.request[4:])
	body := g.s.bytes[:size&^stormLast]
	head := append(scratch.Bytes[:0], g.request...)
	scratch.Bytes = head
	half := len(body) / 2
	g.conn.Answer(head, [][]byte{body[:half], body[half:]}, size&stormLast != 0)
}

// serve serves one request of a connection, as a server does that parks for it.
func (s *storm) serve(c net.Conn) {
	for {
		reader := bufio.NewReaderSize(c, 64)
		request := make([]byte, stormHeader)
		if _, err := io.ReadFull(reader, request); err != nil {
			_ = c.Close()
			return
		}
		buffered, _ := reader.Peek(reader.Buffered())
		conn := Of(c)
		conn.Unread(bytes.Clone(buffered))
		size := binary.BigEndian.Uint32(request[4:])
		if rand.IntN(10) == 0 && size&stormLast == 0 { // one that need not wait
			if _, err := c.Write(append(request, s.bytes[:size]...)); err != nil {
				_ = c.Close()
				return
			}
			continue
		}
		g := &stormGuest{s: s, conn: conn, request: request}
		limit := time.Hour
		if rand.IntN(3) == 0 {
			limit = time.Duration(rand.IntN(20)) * time.Millisecond
		} else {
			time.AfterFunc(time.Duration(rand.IntN(20))*time.Millisecond, g.end)
		}
		s.parked.Add(1)
		if err := conn.Park(g, s.home, limit); err != nil {
			s.t.Error(err)
			_ = conn.Close()
			return
		}
		g.mu.Lock()
		g.parked = true
		if g.over {
			conn.Post(g)
		}
		g.mu.Unlock()
		return
	}
}

// ask does what a client does at random, and checks what it is answered.
func (s *storm) ask(l *link, dice *rand.Rand) error {
	_ = l.client.SetDeadline(time.Now().Add(6 * patience))
	var asked, got uint32
	sizes := make(map[uint32]uint32)
	send := func(size uint32) error {
		request := binary.BigEndian.AppendUint32(nil, asked)
		request = binary.BigEndian.AppendUint32(request, size)
		sizes[asked] = size &^ stormLast
		asked++
		if at := dice.IntN(20); at < stormHeader { // in two pieces
			if _, err := l.client.Write(request[:at]); err != nil {
				return err
			}
			time.Sleep(time.Duration(dice.IntN(3)) * time.Millisecond)
			request = request[at:]
		}
		_, err := l.client.Write(request)
		return err
	}
	receive := func() error {
		var head [stormHeader]byte
		if _, err := io.ReadFull(l.client, head[:]); err != nil {
			return fmt.Errorf("waiting for answer %d: %w", got, err)
		}
		number, size := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])&^stormLast
		if number != got || size != sizes[got] {
			return fmt.Errorf("answer %d of %d bytes came instead of %d of %d", number, size, got, sizes[got])
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(l.client, body); err != nil {
			return fmt.Errorf("in the answer %d of %d bytes: %w", got, size, err)
		}
		if !bytes.Equal(body, s.bytes[:size]) {
			return fmt.Errorf("the answer %d is another", got)
		}
		got++
		return nil
	}
	size := func() uint32 {
		if dice.IntN(10) == 0 {
			return uint32(dice.IntN(len(s.bytes)))
		}
		return uint32(dice.IntN(300))
	}
	const rounds = 12
	for range rounds {
		switch n := dice.IntN(60); {
		case n == 0:
			_ = l.wire.SetLinger(0)
			return l.wire.Close()
		case n == 1: // in the middle of something, it may be
			if err := send(size()); err != nil {
				return err
			}
			time.Sleep(time.Duration(dice.IntN(10)) * time.Millisecond)
			if dice.IntN(2) == 0 {
				_ = l.wire.SetLinger(0)
			}
			return l.client.Close()
		case n < 30:
			for range 1 + dice.IntN(3) { // before it has been answered
				if err := send(size()); err != nil {
					return err
				}
			}
		default:
			if err := send(size()); err != nil {
				return err
			}
		}
		for got < asked {
			if err := receive(); err != nil {
				return err
			}
		}
		if dice.IntN(4) == 0 {
			time.Sleep(time.Duration(dice.IntN(5)) * time.Millisecond)
		}
	}
	last := uint32(stormLast)
	if dice.IntN(2) == 0 {
		last = 0
	}
	if err := send(size() | last); err != nil {
		return err
	}
	if last == 0 { // then it tells itself that this was the last
		if err := l.wire.CloseWrite(); err != nil {
			return err
		}
	}
	if err := receive(); err != nil {
		return err
	}
	if _, err := l.client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("after the last answer: %w", err)
	}
	return nil
}

func TestNothingIsLostInAStorm(t *testing.T) {
	dice := dice(t)
	s := &storm{rig: newRig(t, Options{}, 0), bytes: pattern(100 << 10)}
	go func() {
		for {
			c, err := s.home.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	var links []*link
	for i := range 240 {
		l := s.connectWith([]kind{plain, plain, tls12, tls13}[i%4], tight*(i%3), nil)
		links = append(links, l)
	}
	var clients sync.WaitGroup
	for i, l := range links {
		its := rand.New(rand.NewPCG(dice.Uint64(), 0))
		go s.serve(l.conn)
		clients.Go(func() {
			if err := s.ask(l, its); err != nil {
				t.Errorf("the client %d, %v: %v", i, []kind{plain, plain, tls12, tls13}[i%4], err)
			}
			_ = l.wire.Close()
		})
	}
	clients.Wait()
	eventually(t, "all are answered and closed", func() bool {
		return s.lot.Parked() == 0 && s.answered.Load() == s.parked.Load() && len(s.lot.all()) == 0
	})
	if s.twice.Load() > 0 || s.lot.Dropped() > 0 {
		t.Errorf("%d were told of an answer twice, %d were dropped", s.twice.Load(), s.lot.Dropped())
	}
	gate := &s.lot.gate
	eventually(t, "the gate is empty", func() bool {
		gate.mu.Lock()
		defer gate.mu.Unlock()
		return gate.inside == 0 && len(gate.waiting) == 0
	})
}
