//go:build linux

package park

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"math/big"
	randv2 "math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var seedFlag = flag.Uint64("seed", 0, "what the random tests begin with; 0: something else each time")

// dice returns a source of random numbers that a failed test tells how to get again.
func dice(t testing.TB) *randv2.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = randv2.Uint64()
	}
	t.Logf("-seed %d", seed)
	return randv2.New(randv2.NewPCG(seed, 0))
}

// patience is for how long a test waits for what is to come at once.
const patience = 10 * time.Second

func eventually(t testing.TB, what string, true func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !true(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain: %s", what)
		panic("not reached")
	}
}

// noneLeft checks when the test ends that it left no goroutine and no descriptor.
func noneLeft(t testing.TB) {
	t.Helper()
	before := descriptors(t)
	t.Cleanup(func() {
		end := time.Now().Add(patience)
		for {
			left, now := goroutines(), descriptors(t)
			if len(left) == 0 && now <= before {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%d descriptors are open, %d were before; goroutines left:\n%s", now, before, strings.Join(left, "\n\n"))
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// goroutines returns the stacks of those that this package began, but for tests.
func goroutines() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var left []string
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "/internal/park.") && !strings.Contains(stack, "testing.tRunner(") {
			left = append(left, stack)
		}
	}
	return left
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestMain(m *testing.M) {
	flag.Parse()
	// The runtime opens descriptors of its own for the first socket.
	if ln, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = ln.Close()
	}
	os.Exit(m.Run())
}

// rig is a lot with a home, and a listener to get connections from.
type rig struct {
	t    testing.TB
	lot  *Lot
	home *Home
	ln   net.Listener

	below func(net.Conn) net.Conn // put between TLS and the socket, if it is set
}

// newRig returns a rig that is taken down when the test ends, and then checks that
// nothing is left in it.
func newRig(t testing.TB, opts Options, idle time.Duration) *rig {
	t.Helper()
	noneLeft(t)
	lot, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, lot: lot, ln: ln, home: newHome(idle)}
	t.Cleanup(func() {
		_ = r.home.Close()
		r.lot.CloseIdle(func(*Conn, *Home) bool { return true })
		calm := func() bool {
			return r.lot.Parked() == 0 && !r.lot.Busy() && r.lot.unsent.Load() == 0 && len(r.lot.all()) == 0
		}
		for end := time.Now().Add(patience); !calm() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if !calm() {
			t.Errorf("in the end %d are parked, %d known, %d are writing, %d bytes are unsent; working: %v",
				r.lot.Parked(), len(r.lot.all()), r.lot.writing.Load(), r.lot.unsent.Load(), r.lot.work.busy())
		}
		r.lot.Close()
		_ = ln.Close()
	})
	return r
}

// newHome returns one that closes its orphans.
func newHome(idle time.Duration) *Home {
	return NewHome(nil, &net.TCPAddr{}, idle, func(c net.Conn) { _ = c.Close() }, func() {})
}

// kind is what is spoken on a connection.
type kind uint16

const (
	plain kind = 0
	tls12      = kind(tls.VersionTLS12)
	tls13      = kind(tls.VersionTLS13)
)

func (k kind) String() string {
	switch k {
	case tls12:
		return "TLS 1.2"
	case tls13:
		return "TLS 1.3"
	default:
		return "plain"
	}
}

// onEach runs a test for each kind of connections.
func onEach(t *testing.T, test func(*testing.T, kind)) {
	for _, k := range []kind{plain, tls12, tls13} {
		t.Run(k.String(), func(t *testing.T) { test(t, k) })
	}
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// link is a connection, both its ends.
type link struct {
	t      testing.TB
	client net.Conn     // with TLS, if it is of that kind
	wire   *net.TCPConn // the client's socket
	conn   *Conn        // the server's end
	socket *net.TCPConn // of conn
}

// tight is how large buffers of sockets are that are to be full soon.
const tight = 16 << 10

// connect makes a connection that can be parked.
func (r *rig) connect(k kind) *link { return r.connectWith(k, 0, nil) }

// connectTight makes one on which little is under way.
func (r *rig) connectTight(k kind) *link { return r.connectWith(k, tight, nil) }

func (r *rig) connectWith(k kind, buffer int, buffered []byte) *link {
	r.t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if buffer > 0 {
			_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) })
		}
		return err
	}}
	client, err := dialer.Dial("tcp", r.ln.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := r.ln.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	l := &link{t: r.t, client: client, wire: client.(*net.TCPConn), socket: server.(*net.TCPConn)}
	if buffer > 0 {
		if err := l.socket.SetWriteBuffer(buffer); err != nil {
			r.t.Fatal(err)
		}
	}
	if k != plain {
		version := uint16(k)
		if r.below != nil {
			server = r.below(server)
		}
		secure := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate()}, MinVersion: version, MaxVersion: version})
		l.client = tls.Client(client, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		shaken := make(chan error, 1)
		go func() { shaken <- l.client.(*tls.Conn).Handshake() }()
		if err := errors.Join(secure.Handshake(), <-shaken); err != nil {
			r.t.Fatal(err)
		}
		server = secure
	}
	if l.conn, err = r.lot.Wrap(server, l.socket, buffered); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = l.wire.Close()
		_ = l.conn.Close() // if it is not parked
	})
	return l
}

// guest is one that a test answers for.
type guest struct {
	left, expired atomic.Int64
	answers       atomic.Int64 // how often it was told of one
	answered      chan error
	sent          chan struct{}
	stalls        atomic.Int64
	impatient     atomic.Bool
}

func newGuest() *guest { return &guest{answered: make(chan error, 8), sent: make(chan struct{}, 8)} }

func (g *guest) Expire() { g.expired.Add(1) }
func (g *guest) Leave()  { g.left.Add(1) }
func (g *guest) Sent()   { g.sent <- struct{}{} }
func (g *guest) Stalled() bool {
	g.stalls.Add(1)
	return !g.impatient.Load()
}

func (g *guest) Answered(err error) {
	g.answers.Add(1)
	g.answered <- err
}

// park parks the connection of l with a guest of its own, for very long.
func (r *rig) park(l *link) *guest {
	r.t.Helper()
	g := newGuest()
	if err := l.conn.Park(g, r.home, time.Hour); err != nil {
		r.t.Fatal(err)
	}
	return g
}

// answer answers and waits until that is over.
func (l *link) answer(g *guest, answer string, last bool) {
	l.t.Helper()
	l.conn.Answer([]byte(answer), nil, last)
	if err := receive(l.t, "Answered", g.answered); err != nil {
		l.t.Fatalf("answered with the error %v", err)
	}
}

func (l *link) send(data string) {
	l.t.Helper()
	if _, err := l.client.Write([]byte(data)); err != nil {
		l.t.Fatal(err)
	}
}

func wantRead(t testing.TB, c net.Conn, want string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != want {
		t.Fatalf("read %.100q and the error %v, want %.100q", got[:n], err, want)
	}
	_ = c.SetReadDeadline(time.Time{})
}

// wantAll checks that the client reads what it is to, and then the end.
func (l *link) wantAll(want []byte) {
	l.t.Helper()
	_ = l.client.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(l.client)
	if err != nil {
		l.t.Errorf("after %d bytes of %d: %v", len(got), len(want), err)
	} else if !bytes.Equal(got, want) {
		l.t.Errorf("read %d bytes that are not the %d that were sent", len(got), len(want))
	}
}

// back returns the connection that the home accepts.
func (r *rig) back() net.Conn {
	r.t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := r.home.Accept()
		accepted <- result{c, err}
	}()
	got := receive(r.t, "a connection that comes home", accepted)
	if got.err != nil {
		r.t.Fatal(got.err)
	}
	return got.c
}

// wantBack checks that the connection of l comes home, and what it brings.
func (r *rig) wantBack(l *link, request string) {
	r.t.Helper()
	c := r.back()
	if Of(c) != l.conn {
		r.t.Fatalf("%v came home instead of %v", c.RemoteAddr(), l.conn.RemoteAddr())
	}
	wantRead(r.t, c, request)
}

// locked returns what look returns when nobody else has the connection.
func (c *Conn) locked(look func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return look()
}

// pattern returns bytes no part of which is like another.
func pattern(n int) []byte {
	b := make([]byte, n)
	source := randv2.NewChaCha8([32]byte{7})
	_, _ = source.Read(b)
	return b
}
