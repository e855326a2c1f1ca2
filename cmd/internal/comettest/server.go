// Package comettest starts the real binary for tests and talks to it from outside.
//
// A test writes a Caddyfile and gets a running server:
//
//	s := comettest.Start(t, comettest.Global("")+`
//	http://127.0.0.1:{$HTTP} {
//		comet
//	}`)
//	held := comettest.Hold(t, s, "id=0")
//	comettest.Publish(t, s, "id=1")
//	answer := <-held
//
// The server is a process of its own, with folders and ports of its own, and is
// gone when the test is. Nothing here sleeps and hopes: what a test waits for is
// asked for until it is so, or until a deadline has passed.
package comettest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// Deadline is how long anything that ought to happen soon may take: long enough
// for a busy machine, so that it passing means that it does not happen at all.
const Deadline = 30 * time.Second

// portNames are the environment variables with a free port each.
var portNames = []string{"HTTP", "HTTP2ND", "HTTPS", "DOOR", "ADMIN"}

// Server is a running comet.
type Server struct {
	// Dir is the server's working directory; DIR in its environment.
	Dir string

	// Pid is the process. It changes with Restart.
	Pid int

	// PublishURL is where Publish, Subscribers and Hold reach the publish route.
	// Default: /config on the port HTTP.
	PublishURL string

	// PublishHeader is sent with what goes to PublishURL: a token, say.
	PublishHeader http.Header

	// HoldURL is where Push and Hold reach the hold route. Default: /push on the
	// port HTTP.
	HoldURL string

	ports   map[string]int
	env     []string
	files   map[string]string
	parking *string // instead of Parking
	log     *logBuffer
	client  *http.Client
	holds   sync.Mutex // one Hold at a time, or their counts mix
	trusted sync.Once
	roots   *x509.CertPool // of TLSConfig

	mu      sync.Mutex
	process *process
	checked int // the length of the log that was looked through for trouble
}

// process is one run of the binary.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its log is complete
}

// Option changes how Start starts a server.
type Option func(*Server)

// Env sets an environment variable of the server.
func Env(name, value string) Option {
	return func(s *Server) { s.env = append(s.env, name+"="+value) }
}

// File puts a file into the server's folder before it starts.
func File(name, text string) Option {
	return func(s *Server) { s.files[name] = text }
}

// Global returns the global options block that every test server needs, with
// extra lines in it.
func Global(extra string) string {
	return `{
	admin 127.0.0.1:{$ADMIN}
	persist_config off
	auto_https disable_redirects
	skip_install_trust
	http_port {$HTTP}
	https_port {$HTTPS}
	` + strings.TrimSpace(extra) + `
}
`
}

// Start starts the binary with caddyfile and returns when it serves. The test
// fails when it does not. At the end of the test the server is told to exit, and
// the test fails when it panicked or when the race detector had something to say.
//
// In the environment, for use as {$HTTP} in the Caddyfile: the free ports HTTP,
// HTTP2ND, HTTPS, DOOR and ADMIN, and the server's folder DIR. The environment
// variable COMET_PARKING, see Parking, is put into the Caddyfile.
func Start(t testing.TB, caddyfile string, opts ...Option) *Server {
	t.Helper()
	Binary(t)
	s := &Server{Dir: t.TempDir(), files: map[string]string{}, log: newLogBuffer()}
	for _, opt := range opts {
		opt(s)
	}
	for name, text := range s.files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if s.parking != nil && !KnowsParking(t) {
		s.parking = new(string)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "Caddyfile"), []byte(s.parked(caddyfile)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.client = &http.Client{Transport: s.transport()}
	t.Cleanup(func() { s.end(t) })

	// Between picking a port and listening on it somebody else may take it.
	for attempt := 1; ; attempt++ {
		s.ports = pickPorts(t)
		s.PublishURL, s.HoldURL = s.URL("/config"), s.URL("/push")
		err := s.start(t)
		if err == nil {
			return s
		}
		if attempt == 3 || !strings.Contains(s.Logs(), "address already in use") {
			t.Fatalf("the server did not start: %v\n%s", err, s.Logs())
		}
	}
}

// start runs the binary and waits until its configuration is served.
func (s *Server) start(t testing.TB) error {
	t.Helper()
	cmd := exec.Command(Binary(t), "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	cmd.Dir = s.Dir
	cmd.Env = environment(s.Dir, s.ports, s.env)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	bind(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the exit code is read from ProcessState
		close(p.done)
	}()
	s.mu.Lock()
	s.process, s.Pid = p, cmd.Process.Pid
	s.mu.Unlock()

	// The admin endpoint holds this answer back until the whole configuration is
	// loaded.
	ready := time.Now().Add(2 * Deadline)
	for time.Now().Before(ready) {
		select {
		case <-p.done:
			return fmt.Errorf("it exited with code %d", cmd.ProcessState.ExitCode())
		default:
		}
		res, err := admin.Get(s.adminURL("/config/"))
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		pause()
	}
	return errors.New("its admin endpoint does not answer")
}

// end is Start's cleanup.
func (s *Server) end(t testing.TB) {
	s.client.CloseIdleConnections()
	if p := s.running(); p != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		if !p.wait(Deadline) {
			t.Errorf("the server did not exit within %s of SIGTERM", Deadline)
			_ = p.cmd.Process.Kill()
			p.wait(Deadline)
		}
	}
	s.check(t)
	if t.Failed() {
		t.Logf("the server's log:\n%s", s.Logs())
	}
}

// check fails the test for what must never stand in the log, and each only once.
func (s *Server) check(t testing.TB) {
	logs := s.Logs()
	s.mu.Lock()
	fresh := logs[s.checked:]
	s.checked = len(logs)
	s.mu.Unlock()
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "panic serving", "fatal error: "} {
		if at := strings.Index(fresh, bad); at >= 0 {
			t.Errorf("the server's log has %q:\n%s", bad, fresh[at:min(len(fresh), at+4000)])
		}
	}
}

// running returns the process, or nil when none runs.
func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	select {
	case <-s.process.done:
		return nil
	default:
		return s.process
	}
}

func (p *process) wait(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(d):
		return false
	}
}

// Signal sends the server a signal.
func (s *Server) Signal(sig os.Signal) error {
	p := s.running()
	if p == nil {
		return os.ErrProcessDone
	}
	return p.cmd.Process.Signal(sig)
}

// Stop tells the server to exit and waits for it. The test fails when it takes
// too long or does not exit with code 0.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	s.WaitExit(t)
}

// WaitExit waits until a server that was told to exit has. The test fails when it
// takes too long or does not exit with code 0.
func (s *Server) WaitExit(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	if !p.wait(Deadline) {
		t.Fatalf("the server did not exit within %s of SIGTERM\n%s", Deadline, s.Logs())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the server exited with code %d; want 0", code)
	}
	s.client.CloseIdleConnections()
}

// Exited says whether the server has exited.
func (s *Server) Exited() bool { return s.running() == nil }

// Kill ends the server without a chance to write anything out.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	p := s.running()
	if p == nil {
		t.Fatal("there is no server to kill")
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !p.wait(Deadline) {
		t.Fatal("the server outlives SIGKILL")
	}
	s.client.CloseIdleConnections()
}

// Restart starts the server again, in the same folders and on the same ports,
// after Stop when it still runs.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if s.running() != nil {
		s.Stop(t)
	}
	if err := s.start(t); err != nil {
		t.Fatalf("the server did not start again: %v\n%s", err, s.Logs())
	}
}

// Reload gives the server another configuration, or the same one again. The test
// fails when it is refused.
func (s *Server) Reload(t testing.TB, caddyfile string) {
	t.Helper()
	if err := s.TryReload(caddyfile); err != nil {
		t.Fatalf("reload: %v\n%s", err, s.Logs())
	}
}

// TryReload is Reload for a configuration that may be refused. Restart goes on
// with the configuration of Start.
func (s *Server) TryReload(caddyfile string) error {
	req, err := http.NewRequest(http.MethodPost, s.adminURL("/load"), strings.NewReader(s.parked(caddyfile)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // also when nothing changed
	res, err := admin.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	// The server of the old configuration closes its idle connections, and a POST on
	// one would get no answer.
	s.settle()
	s.client.CloseIdleConnections()
	return nil
}

// settle waits until the old configuration's listeners are closed. Caddy answers a
// reload when it is about to close them; both listen on one port then, each with a
// queue of its own, and a client that the kernel puts into the old one is reset. On
// systems without /proc there is no way to see it from outside.
func (s *Server) settle() {
	suffixes := map[string]bool{}
	for _, port := range s.ports {
		suffixes[fmt.Sprintf(":%04X", port)] = true
	}
	for end := time.Now().Add(Deadline); time.Now().Before(end); pause() {
		listening, twice := map[string]bool{}, false
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			text, err := os.ReadFile(table)
			if err != nil {
				return
			}
			for line := range strings.Lines(string(text)) {
				f := strings.Fields(line) // number, local address, remote address, state
				if len(f) < 4 || f[3] != "0A" || !suffixes[f[1][max(0, len(f[1])-5):]] {
					continue
				}
				twice = twice || listening[f[1]]
				listening[f[1]] = true
			}
		}
		if !twice {
			return
		}
	}
}

// Port returns the port that the environment variable name carries.
func (s *Server) Port(name string) int {
	port, ok := s.ports[name]
	if !ok {
		panic("comettest: no port is named " + name)
	}
	return port
}

// URL returns the address of path on the port HTTP.
func (s *Server) URL(path string) string { return s.at("http://127.0.0.1", "HTTP", path) }

// URL2 returns the address of path on the port HTTP2ND.
func (s *Server) URL2(path string) string { return s.at("http://127.0.0.1", "HTTP2ND", path) }

// DoorURL returns the address of path on the port DOOR.
func (s *Server) DoorURL(path string) string { return s.at("http://127.0.0.1", "DOOR", path) }

// TLSURL returns the address of path on the port HTTPS.
func (s *Server) TLSURL(path string) string { return s.at("https://localhost", "HTTPS", path) }

func (s *Server) adminURL(path string) string { return s.at("http://127.0.0.1", "ADMIN", path) }

func (s *Server) at(host, port, path string) string {
	return host + ":" + strconv.Itoa(s.Port(port)) + path
}

// Logs returns what the server has logged so far, one JSON object a line.
func (s *Server) Logs() string { return s.log.String() }

// WaitLog waits until the log has a line with substring in it, and returns that line.
func (s *Server) WaitLog(t testing.TB, substring string) string {
	t.Helper()
	return s.WaitLogFrom(t, 0, substring)
}

// WaitLogFrom is WaitLog for what was logged after the first from bytes of Logs.
func (s *Server) WaitLogFrom(t testing.TB, from int, substring string) string {
	t.Helper()
	var line string
	Eventually(t, Deadline, func() bool {
		for l := range strings.Lines(s.Logs()[from:]) {
			if strings.Contains(l, substring) {
				line = l
				return true
			}
		}
		return false
	}, "no log line with ", substring)
	return line
}

// Client returns a client for plain HTTP/1.1 with keep-alive, the same one each time.
func (s *Server) Client() *http.Client { return s.client }

// TLSClient returns a new client that speaks only HTTP/2, or only HTTP/1.1, over
// TLS. Its connections are closed with the test.
func (s *Server) TLSClient(t testing.TB, h2 bool) *http.Client {
	t.Helper()
	tr := s.transport()
	tr.TLSClientConfig = s.tlsConfig(t)
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// HTTP3Client returns a new client that speaks HTTP/3. Its connections are closed
// with the test.
func (s *Server) HTTP3Client(t testing.TB) *http.Client {
	t.Helper()
	tr := &http3.Transport{TLSClientConfig: s.tlsConfig(t), DisableCompression: true}
	t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr}
}

// transport returns a transport without a proxy. It asks for no compression, so
// that a test sees what was sent.
func (s *Server) transport() *http.Transport {
	dialer := new(net.Dialer)
	return &http.Transport{
		// The certificate is for localhost; which address that is does not matter.
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, port, err := net.SplitHostPort(addr); err == nil && host == "localhost" {
				addr = net.JoinHostPort("127.0.0.1", port)
			}
			return dialer.DialContext(ctx, network, addr)
		},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 20_000,
	}
}

// tlsConfig trusts the server's own authority, which it makes at its first start. It
// returns when the server has its certificate, which is made after it serves.
func (s *Server) tlsConfig(t testing.TB) *tls.Config {
	t.Helper()
	file := filepath.Join(s.Dir, "data", "caddy", "pki", "authorities", "local", "root.crt")
	roots := x509.NewCertPool()
	Eventually(t, Deadline, func() bool {
		pem, err := os.ReadFile(file)
		return err == nil && roots.AppendCertsFromPEM(pem)
	}, "the server has no authority of its own; is there a site with `tls internal`?")
	config := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port("HTTPS")))
	Eventually(t, Deadline, func() bool {
		conn, err := tls.Dial("tcp", addr, config)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}, "no TLS connection to ", addr)
	return config.Clone()
}

// RawConn returns a new connection to the port HTTP. It is closed with the test, and
// what is read from or written to it fails after the deadline.
func (s *Server) RawConn(t testing.TB) net.Conn {
	t.Helper()
	return s.RawConnTo(t, "HTTP")
}

// RawConnTo is RawConn for any port, by its name.
func (s *Server) RawConnTo(t testing.TB, port string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port(port))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * Deadline)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TLSConfig returns a new configuration for connections of HTTP/1.1 to the port HTTPS.
func (s *Server) TLSConfig(t testing.TB) *tls.Config {
	t.Helper()
	s.trusted.Do(func() { s.roots = s.tlsConfig(t).RootCAs })
	return &tls.Config{RootCAs: s.roots, ServerName: "localhost", NextProtos: []string{"http/1.1"}}
}

// Eventually waits until cond is true, and fails the test with msg when it is not
// within deadline.
func Eventually(t testing.TB, deadline time.Duration, cond func() bool, msg ...any) {
	t.Helper()
	end := time.Now().Add(deadline)
	for !cond() {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", deadline, fmt.Sprint(msg...))
		}
		pause()
	}
}

// pause is the time between two looks at something that is waited for.
func pause() { time.Sleep(5 * time.Millisecond) }

// admin talks to admin endpoints. Those are exchanged at each reload, so no
// connection is used twice.
var admin = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   2 * Deadline,
}

// environment is a child's: nothing of it leads out of dir.
func environment(dir string, ports map[string]int, extra []string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(kv), "=")
		return strings.HasPrefix(name, "XDG_") || strings.HasSuffix(name, "_PROXY") ||
			strings.HasPrefix(name, "COMET_") || strings.HasPrefix(name, "CADDY_")
	})
	env = append(env,
		"DIR="+dir,
		"HOME="+dir,
		"XDG_DATA_HOME="+filepath.Join(dir, "data"),
		"XDG_CONFIG_HOME="+filepath.Join(dir, "settings"),
	)
	for name, port := range ports {
		env = append(env, name+"="+strconv.Itoa(port))
	}
	return append(env, extra...)
}

// given are the ports that some test of this process has.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// pickPorts finds free ports, for TCP and UDP. They are below those that the kernel
// gives to outgoing connections, of which some tests open thousands.
func pickPorts(t testing.TB) map[string]int {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	ports := map[string]int{}
	for _, name := range portNames {
		for range 1000 {
			port := 10_000 + rand.IntN(20_000)
			if !given.ports[port] && free(port) {
				given.ports[port] = true
				ports[name] = port
				break
			}
		}
		if ports[name] == 0 {
			t.Fatal("no free port found")
		}
	}
	return ports
}

func free(port int) bool {
	addr := ":" + strconv.Itoa(port)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	defer udp.Close()
	return true
}

// logBuffer keeps what the server logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func newLogBuffer() *logBuffer { return new(logBuffer) }

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
