package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// cutter stands between a client and a server, and cuts what goes through it.
type cutter struct {
	listener net.Listener
	to       string
	refusing atomic.Bool // it answers 503 itself

	mu    sync.Mutex
	conns map[net.Conn]bool // both sides
	due   bool              // to cut, after so many more bytes of answers
	after int
}

// startCutter starts one in front of the port HTTP. It is gone with the test.
func startCutter(t *testing.T, s *comettest.Server) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, to: fmt.Sprintf("127.0.0.1:%d", s.Port("HTTP")), conns: map[net.Conn]bool{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		c.cut()
		serving.Wait()
	})
	return c
}

func (c *cutter) url(path string) string { return "http://" + c.listener.Addr().String() + path }

func (c *cutter) serve(conn net.Conn) {
	defer c.forget(conn)
	c.keep(conn)
	if c.refusing.Load() {
		_, _ = bufio.NewReader(conn).ReadString('\n') // the client left, or asks
		_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer c.forget(server)
	c.keep(server)
	go func() {
		_, _ = io.Copy(server, conn)
		server.Close()
	}()
	_, _ = io.Copy(answers{c, conn}, server)
}

// answers is what a client is sent, which is cut in the middle where c says so.
type answers struct {
	c  *cutter
	to net.Conn
}

func (a answers) Write(p []byte) (int, error) {
	cut := a.c.spend(len(p))
	n, err := a.to.Write(p[:cut])
	if cut < len(p) && err == nil {
		a.to.Close()
		a.c.cut()
		err = errCut
	}
	return n, err
}

// spend returns how many of n bytes come before a cut.
func (c *cutter) spend(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.due || c.after >= n {
		c.after -= n
		return n
	}
	c.due = false
	return c.after
}

// cutAfter has it cut all connections once, after so many bytes of answers in all.
func (c *cutter) cutAfter(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due, c.after = true, bytes
}

// hasCut says whether it has done so.
func (c *cutter) hasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.due
}

func (c *cutter) keep(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[conn] = true
}

func (c *cutter) forget(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
	conn.Close()
}

// cut ends all connections that there are, without a goodbye to the client.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// npmEvent is what a client from npm says.
type npmEvent struct {
	Open  bool   `json:"open"`
	Error string `json:"error"`
	ID    string `json:"id"`
	Event string `json:"event"`
	Data  string `json:"data"`
}

// startNPMClient reads a stream with one of the clients of testdata/clients, which
// ends with the test. Without node or the clients the test is skipped.
func startNPMClient(t *testing.T, name, url string) <-chan npmEvent {
	t.Helper()
	node := findCommand(t, "node", "nodejs")
	dir := testdataDir(t, "clients")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "eventsource")); err != nil {
		t.Skip("no clients in testdata/clients/node_modules; testdata/setup installs them")
	}
	cmd := exec.Command(node, filepath.Join(dir, "read.mjs"), name, url)
	var said output
	cmd.Stderr = &said
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	events := make(chan npmEvent, 10_000)
	go func() {
		defer close(events)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var e npmEvent
			if err := json.Unmarshal(line, &e); err != nil {
				e.Error = err.Error() + ": " + string(line)
			}
			events <- e
		}
	}()
	t.Cleanup(func() {
		input.Close()
		timer := time.AfterFunc(comettest.Deadline, func() { _ = cmd.Process.Kill() }) // it may have ended just now
		for range events {                                                             // until its output ends
		}
		_ = cmd.Wait() // the exit code says nothing about the test
		timer.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said.String())
		}
	})
	return events
}

// followNPM reads numbered messages from a client while its connection is cut again and
// again, and checks that each comes once, in order. With refuse the server cannot be
// reached for a while after some of the cuts: an EventSource gives up for good then.
func followNPM(t *testing.T, s *comettest.Server, name, query string, refuse bool) {
	t.Helper()
	total, cuts := scale(300, 100, 150), 5
	field, c := freshField(t, s), startCutter(t, s)
	events := startNPMClient(t, name, c.url("/push?"+query+"&field="+field+"&after="+escape(now(t, s))))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	seen := atomic.Int64{}
	var others sync.WaitGroup
	others.Go(func() {
		for n := range total {
			event := []string{"", "added"}[n%2]
			// The last may be seen before its publisher is answered.
			a := s.Try(context.WithoutCancel(ctx), request{
				Method: "POST", URL: "/config?field=" + field + "&event=" + event, Type: "text/plain", Body: fmt.Sprint("m:", n),
			})
			if a.Err != nil || a.Status != 200 {
				t.Errorf("publishing %d: %s", n, a)
				return
			}
			pause(ctx, 10*time.Millisecond)
		}
	})
	others.Go(func() {
		for i := range cuts {
			// When something more has come, so that a cut is one.
			for from := seen.Load(); seen.Load() == from && seen.Load() < int64(total) && ctx.Err() == nil; {
				pause(ctx, 5*time.Millisecond)
			}
			pause(ctx, time.Duration(rand.IntN(200))*time.Millisecond)
			if refuse && i%2 == 1 { // it comes back to a server that cannot answer
				c.refusing.Store(true)
				c.cut()
				pause(ctx, 300*time.Millisecond)
				c.refusing.Store(false)
				continue
			}
			c.cut()
		}
	})
	defer others.Wait()
	defer cancel()
	opened := 0
	for next := 0; next < total; {
		var e npmEvent
		var more bool
		select {
		case e, more = <-events:
		case <-ctx.Done():
		}
		switch {
		case !more:
			t.Fatalf("%s: after %d of %d messages nothing more comes", name, next, total)
		case e.Open:
			opened++
		case e.Error != "" || e.Event == "comet-session":
		case e.Event == "comet-missed":
			t.Fatalf("%s is told a gap: %s", name, e.Data)
		default:
			if want := fmt.Sprint("m:", next); e.Data != want || e.ID == "" || e.Event != []string{"message", "added"}[next%2] {
				t.Fatalf("%s got %+v; want %s", name, e, want)
			}
			next++
			seen.Store(int64(next))
		}
	}
	t.Logf("%s: %d messages, opened %d times", name, total, opened)
}

func TestClientsFromNPMReceiveAndResume(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startStreams(t, "", "retry 50ms-100ms\n\t\t\tstream_max 2s-3s", p.opts...)
			for _, name := range []string{"eventsource", "fetch-event-source", "reconnecting-eventsource"} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					followNPM(t, s, name, "format=sse", name != "eventsource")
				})
			}
		})
	}
}

func TestTheWebSocketFromNPMReceivesAndResumes(t *testing.T) {
	t.Parallel()
	for _, p := range parkings(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := startSockets(t, "", "stream_max 2s-3s", p.opts...)
			followNPM(t, s, "ws", "format=ws", true)
		})
	}
}
