//go:build linux

package park

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// source is a listener that accepts what a test gives it.
type source struct {
	next   chan accepted
	closed chan struct{}
	once   sync.Once
}

func newSource() *source {
	return &source{next: make(chan accepted), closed: make(chan struct{})}
}

func (s *source) Accept() (net.Conn, error) {
	select {
	case a := <-s.next:
		return a.conn, a.err
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

var errSource = errors.New("closing did not go well")

func (s *source) Close() error {
	s.once.Do(func() { close(s.closed) })
	return errSource
}

func (s *source) Addr() net.Addr { return &net.TCPAddr{Port: 4711} }

// token is a connection that is known by its number only.
type token struct {
	net.Conn
	number int
}

// orphanage counts what it is given.
type orphanage struct {
	mu    sync.Mutex
	given map[net.Conn]int
	ended atomic.Int32
}

func (o *orphanage) take(c net.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.given == nil {
		o.given = make(map[net.Conn]int)
	}
	o.given[c]++
}

func (o *orphanage) counted() (conns, times int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range o.given {
		times += n
	}
	return len(o.given), times
}

func (o *orphanage) end() { o.ended.Add(1) }

func wantAccept(t *testing.T, h *Home, want net.Conn) {
	t.Helper()
	got := make(chan accepted, 1)
	go func() {
		c, err := h.Accept()
		got <- accepted{c, err}
	}()
	if a := receive(t, "something accepted", got); a.err != nil || a.conn != want {
		t.Fatalf("accepted %v and the error %v, want %v", a.conn, a.err, want)
	}
}

func TestAHomeAcceptsFromBothItsSourcesInOrder(t *testing.T) {
	noneLeft(t)
	src, orphans := newSource(), &orphanage{}
	h := NewHome(src, nil, 0, orphans.take, orphans.end)
	if h.Addr().(*net.TCPAddr).Port != 4711 {
		t.Errorf("its address is %v", h.Addr())
	}
	for round := range 100 {
		var returning []net.Conn
		for i := range round % 7 {
			c := &token{number: i}
			returning = append(returning, c)
			if !h.Put(c) {
				t.Fatal("it takes none")
			}
		}
		for _, c := range returning {
			wantAccept(t, h, c)
		}
		fresh := &token{number: -1}
		go func() { src.next <- accepted{conn: fresh} }()
		wantAccept(t, h, fresh)
	}
	if err := h.Close(); !errors.Is(err, errSource) {
		t.Errorf("closed with the error %v, not that of the listener inside", err)
	}
	if conns, _ := orphans.counted(); conns != 0 {
		t.Errorf("%d are orphans", conns)
	}
}

func TestWhoWaitsForAConnectionIsWokenByEachSource(t *testing.T) {
	noneLeft(t)
	src, orphans := newSource(), &orphanage{}
	h := NewHome(src, nil, 0, orphans.take, orphans.end)
	const n = 1000
	got := make(chan net.Conn)
	go func() {
		defer close(got)
		for {
			c, err := h.Accept()
			if err != nil {
				return
			}
			got <- c
		}
	}()
	for i := range n {
		c := &token{number: i}
		if i%2 == 0 {
			h.Put(c)
		} else {
			go func() { src.next <- accepted{conn: c} }()
		}
		if receive(t, "a connection", got) != net.Conn(c) {
			t.Fatal("accepted another")
		}
	}
	_ = h.Close()
	if _, ok := <-got; ok {
		t.Error("accepted one more")
	}
}

func TestAHomeOfItsOwnHasTheAddressItWasGiven(t *testing.T) {
	noneLeft(t)
	address := &net.TCPAddr{Port: 815}
	h := NewHome(nil, address, 0, nil, func() {})
	if h.Addr() != net.Addr(address) {
		t.Errorf("its address is %v", h.Addr())
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

func TestAnErrorOfTheListenerInsideIsPassedOnAndIsNotTheEnd(t *testing.T) {
	noneLeft(t)
	src, orphans := newSource(), &orphanage{}
	h := NewHome(src, nil, 0, orphans.take, orphans.end)
	defer h.Close()
	failure := errors.New("too many open files")
	for range 3 {
		go func() { src.next <- accepted{err: failure} }()
		if c, err := h.Accept(); c != nil || !errors.Is(err, failure) {
			t.Fatalf("accepted %v and the error %v", c, err)
		}
		fresh := &token{}
		go func() { src.next <- accepted{conn: fresh} }()
		wantAccept(t, h, fresh)
	}
}

func TestAClosedHomeMakesEachThatIsQueuedAnOrphanOnce(t *testing.T) {
	noneLeft(t)
	for _, inner := range []net.Listener{nil, newSource()} {
		orphans := &orphanage{}
		h := NewHome(inner, nil, 0, orphans.take, orphans.end)
		const n = 50
		for i := range n {
			h.Put(&token{number: i})
		}
		if h.Closed() {
			t.Error("it says that it is closed")
		}
		first, err := h.Accept()
		if err != nil || first.(*token).number != 0 {
			t.Errorf("accepted %v and the error %v", first, err)
		}
		_ = h.Close()
		_ = h.Close()
		if !h.Closed() {
			t.Error("it does not say that it is closed")
		}
		if h.Put(&token{}) {
			t.Error("it takes one although it is closed")
		}
		late := &token{}
		h.put(late)
		if c, err := h.Accept(); c != nil || !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepted %v and the error %v", c, err)
		}
		eventually(t, "all are orphans", func() bool { conns, _ := orphans.counted(); return conns == n })
		if _, times := orphans.counted(); times != n {
			t.Errorf("%d orphans were given away %d times", n, times)
		}
		if ended := orphans.ended.Load(); ended != 1 {
			t.Errorf("it ended %d times", ended)
		}
	}
}

func TestWhoWaitsForAConnectionIsToldOfTheEnd(t *testing.T) {
	noneLeft(t)
	h := NewHome(newSource(), nil, 0, nil, func() {})
	failed := make(chan error)
	for range 3 {
		go func() {
			_, err := h.Accept()
			failed <- err
		}()
	}
	_ = h.Close()
	for range 3 {
		if err := receive(t, "an error", failed); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestAConnectionThatNobodyAcceptedBeforeTheEndIsAnOrphan(t *testing.T) {
	noneLeft(t)
	src, orphans := newSource(), &orphanage{}
	h := NewHome(src, nil, 0, orphans.take, orphans.end)
	src.next <- accepted{conn: &token{}}
	_ = h.Close()
	eventually(t, "it is an orphan", func() bool { conns, times := orphans.counted(); return conns == 1 && times == 1 })
}

// lateSource is a listener that accepts a connection when it is closed.
type lateSource struct{ *source }

func (s lateSource) Accept() (net.Conn, error) {
	<-s.closed
	select {
	case a := <-s.next:
		return a.conn, a.err
	default:
		return nil, net.ErrClosed
	}
}

func TestAConnectionAcceptedWhileTheHomeClosesIsAnOrphan(t *testing.T) {
	noneLeft(t)
	src, orphans := newSource(), &orphanage{}
	src.next = make(chan accepted, 1)
	src.next <- accepted{conn: &token{}}
	h := NewHome(lateSource{src}, nil, 0, orphans.take, orphans.end)
	_ = h.Close()
	eventually(t, "it is an orphan", func() bool { conns, times := orphans.counted(); return conns == 1 && times == 1 })
}

func TestNoneIsLostOrDoubledWhenAHomeClosesWhileManyCome(t *testing.T) {
	noneLeft(t)
	for range 200 {
		src, orphans := newSource(), &orphanage{}
		h := NewHome(src, nil, 0, orphans.take, orphans.end)
		var (
			all               sync.WaitGroup
			given, got, added atomic.Int64
		)
		start := make(chan struct{})
		all.Go(func() {
			<-start
			for range 5 {
				select {
				case src.next <- accepted{conn: &token{}}:
					given.Add(1)
				case <-src.closed:
					return
				}
			}
		})
		all.Go(func() {
			<-start
			for range 5 {
				h.put(&token{})
				added.Add(1)
			}
		})
		all.Go(func() {
			for {
				c, err := h.Accept()
				if err != nil {
					return
				}
				if c == nil {
					t.Error("accepted nothing")
				}
				got.Add(1)
			}
		})
		all.Go(func() {
			<-start
			_ = h.Close()
		})
		close(start)
		all.Wait()
		want := given.Load() + added.Load() - got.Load()
		eventually(t, "the rest are orphans", func() bool { conns, _ := orphans.counted(); return int64(conns) == want })
		if _, times := orphans.counted(); int64(times) != want {
			t.Errorf("%d orphans were given away %d times", want, times)
		}
	}
}
