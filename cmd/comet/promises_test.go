package main_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestAClientThatLeavesIsForgottenAtOnce(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "leave=1&stay=1")

	t.Run("when it closes its connection", func(t *testing.T) {
		var conns []net.Conn
		for range 10 {
			conn := s.RawConn(t)
			fmt.Fprint(conn, "GET /push?field=leave&leave=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			conns = append(conns, conn)
		}
		comettest.WaitSubscribers(t, s, "leave", 10)
		for i, conn := range conns {
			conn.Close()
			comettest.WaitSubscribers(t, s, "leave", 9-i)
		}
	})

	t.Run("when it resets its connection", func(t *testing.T) {
		conn := s.RawConn(t)
		fmt.Fprint(conn, "GET /push?field=leave&leave=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		comettest.WaitSubscribers(t, s, "leave", 1)
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		comettest.WaitSubscribers(t, s, "leave", 0)
	})

	t.Run("from every list it stands in", func(t *testing.T) {
		conn := s.RawConn(t)
		fmt.Fprint(conn, "GET /push?field=leave&field=stay&after=now HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		comettest.WaitSubscribers(t, s, "leave", 1)
		comettest.WaitSubscribers(t, s, "stay", 1)
		conn.Close()
		comettest.WaitSubscribers(t, s, "leave", 0)
		comettest.WaitSubscribers(t, s, "stay", 0)
	})

	t.Run("and one that was answered is no subscriber", func(t *testing.T) {
		held := comettest.Hold(t, s, "field=leave&field=stay&after=now")
		comettest.Publish(t, s, "leave=2")
		comettest.Await(t, held)
		comettest.WaitSubscribers(t, s, "stay", 0)
		wantText(t, comettest.Push(t, s, "field=stay&stay=1&wait=0"), "NO\n")
		comettest.WaitSubscribers(t, s, "stay", 0)
	})
}

// What a client sends ahead is its next request, not a reason to drop this one.
func TestAPipelinedRequestIsAnsweredNext(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "ahead=1")
	conn := s.RawConn(t)
	fmt.Fprint(conn, "GET /push?field=ahead&ahead=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	comettest.WaitSubscribers(t, s, "ahead", 1)
	fmt.Fprint(conn, "GET /config?field=ahead HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	comettest.Publish(t, s, "ahead=2")
	r := bufio.NewReader(conn)
	for _, want := range []string{"YES\n", "2\n"} {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 16)
		n, _ := res.Body.Read(body)
		res.Body.Close()
		if got := string(body[:n]); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

func TestAReloadCutsNobody(t *testing.T) {
	t.Parallel()
	config := func(holds string) string {
		return site("\tcomet {\n\t\tpublish /config\n" + holds + "\n\t}\n\trespond \"app\"")
	}
	const (
		push  = "\t\thold /push {\n\t\t\tfield id news other\n\t\t}\n"
		less  = "\t\thold /push {\n\t\t\tfield id news\n\t\t}\n"
		more  = "\t\thold /push {\n\t\t\tfield id news other extra/**\n\t\t}\n"
		side  = "\t\thold /side {\n\t\t\tfield id\n\t\t}\n"
		moved = "\t\thold /elsewhere {\n\t\t\tfield id news other\n\t\t}\n"
	)
	s := comettest.Start(t, config(push+side))
	comettest.Publish(t, s, "id=1&news=1&other=1")

	t.Run("held requests are woken by publications to the new configuration", func(t *testing.T) {
		var held []<-chan comettest.Answer
		for range 5 {
			held = append(held, comettest.Hold(t, s, "format=json&after=now&field=id"))
		}
		for _, c := range []string{config(push + side), config(more + side), config(push + side)} {
			s.Reload(t, c)
			held = append(held, comettest.Hold(t, s, "format=json&after=now&field=id"))
		}
		comettest.WaitSubscribers(t, s, "id", len(held))
		comettest.Publish(t, s, "id=2")
		for _, h := range held {
			wantTexts(t, comettest.Await(t, h), "id=2")
		}
	})

	t.Run("values, messages and cursors outlive it", func(t *testing.T) {
		cursor := now(t, s)
		comettest.Publish(t, s, "news=2")
		s.Reload(t, config(push+side))
		comettest.Publish(t, s, "news=3")
		a := since(t, s, cursor, "news")
		if wantTexts(t, a, "news=2", "news=3"); a.Missed() {
			t.Errorf("a reload is a gap: %s", a)
		}
	})

	t.Run("a reload that fails changes nothing", func(t *testing.T) {
		held := comettest.Hold(t, s, "format=json&after=now&field=id")
		for _, bad := range []string{
			config(push + "\t\tnonsense\n"),
			site("comet {\n publish /config\n publish /config\n}"),
			config(push) + "https://localhost:{$HTTPS} {\n tls /no/such.crt /no/such.key\n}\n",
			config(push) + "http://127.0.0.1:{$DOOR} {\n bind 192.0.2.1\n}\n", // fails at its start
		} {
			if err := s.TryReload(bad); err == nil {
				t.Error("a bad configuration is taken")
			}
		}
		comettest.Publish(t, s, "id=3")
		wantTexts(t, comettest.Await(t, held), "id=3")
	})

	t.Run("one whose route is gone is answered as on a timeout, others are not", func(t *testing.T) {
		gone := comettest.Hold(t, s, "format=json&after=now&field=other")
		text := comettest.Hold(t, s, "field=other&other=1")
		side := comettest.HoldOn(t, s, request{URL: "/side?format=json&after=now"}, "id")
		s.Reload(t, config("\t\thold /side {\n\t\t\tfield id\n\t\t}\n"))
		a := comettest.Await(t, gone)
		wantTexts(t, a)
		wantText(t, comettest.Await(t, text), "NO\n")
		comettest.Publish(t, s, "id=4")
		wantTexts(t, comettest.Await(t, side), "id=4")
		wantText(t, comettest.Push(t, s, "id=0"), "app")
		if a.Missed() || a.Cursor() == "" {
			t.Errorf("got %s; want a timeout with a cursor", a)
		}
	})

	t.Run("one whose route may watch less is answered as on a timeout", func(t *testing.T) {
		s.Reload(t, config(push))
		refused := comettest.Hold(t, s, "format=json&after=now&field=other")
		both := comettest.Hold(t, s, "format=json&after=now&field=news&field=other")
		allowed := comettest.Hold(t, s, "format=json&after=now&field=news")
		s.Reload(t, config(less))
		wantTexts(t, comettest.Await(t, refused))
		wantTexts(t, comettest.Await(t, both))
		comettest.Publish(t, s, "news=5")
		wantTexts(t, comettest.Await(t, allowed), "news=5")
	})

	t.Run("one whose route moved is answered as on a timeout", func(t *testing.T) {
		s.Reload(t, config(push))
		held := comettest.Hold(t, s, "format=json&after=now&field=id")
		s.Reload(t, config(moved))
		wantTexts(t, comettest.Await(t, held))
	})

	t.Run("with comet gone altogether all are answered", func(t *testing.T) {
		s.Reload(t, config(push))
		held := comettest.Hold(t, s, "format=json&after=now&field=id")
		s.Reload(t, site("respond \"app\""))
		wantTexts(t, comettest.Await(t, held))
	})
}

func TestAnExitAnswersEverybody(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`comet {
		drain 2s
	}`)+`
http://127.0.0.1:{$HTTP} {
`+open+`
}`)
	comettest.Publish(t, s, "id=1&news=1")
	const n = 200
	type end struct {
		answer comettest.Answer
		at     time.Time
	}
	ends := make(chan end, n)
	for i := range n {
		client := &http.Client{Transport: &http.Transport{}} // a connection each
		query := "id=1"
		if i%2 == 1 {
			query = "field=id&after=now&format=json"
		}
		go func() {
			a := s.Try(t.Context(), request{URL: "/push?" + query, Client: client})
			ends <- end{a, time.Now()}
		}()
	}
	comettest.WaitSubscribers(t, s, "id", n)

	// Half a request, so that its connection is neither idle nor held.
	late := s.RawConn(t)
	fmt.Fprint(late, "GET /push?field=news&after=now HTTP/1.1\r\nHost: 127.0.0.1\r\n")

	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	signalled := time.Now()
	var at []time.Time
	for i := range n {
		e := <-ends
		if e.answer.Err != nil {
			t.Fatalf("a held request was cut: %v", e.answer.Err)
		}
		if i == 0 {
			fmt.Fprint(late, "\r\n") // the exit has begun
		}
		if b := e.answer.Body; e.answer.Status != 200 || b != "NO\n" && (e.answer.JSON == nil || len(e.answer.JSON.Messages) > 0) {
			t.Fatalf("got %s; want an answer as on a timeout", e.answer)
		}
		if !e.answer.Close {
			t.Fatalf("an answer at the exit has no Connection: close: %s", e.answer)
		}
		if e.answer.Cursor() == "" {
			t.Fatalf("an answer at the exit has no cursor: %s", e.answer)
		}
		at = append(at, e.at)
	}
	if last := at[n-1].Sub(signalled); last > 12*time.Second {
		t.Errorf("the last answer came after %s; drain is 2s", last)
	}
	if spread := at[n-1].Sub(at[0]); spread < 500*time.Millisecond {
		t.Errorf("all were answered within %s; want them spread over 2s", spread)
	}
	if res, err := http.ReadResponse(bufio.NewReader(late), nil); err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a new hold during the exit got %s; want 503", res.Status)
		}
	} // a connection that is closed without an answer says the same
	s.WaitExit(t)
}

func TestAnExitWithNobodyHeldIsQuick(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global(`comet {
		drain 30s
	}`)+`
http://127.0.0.1:{$HTTP} {
`+open+`
}`)
	comettest.Publish(t, s, "id=1")
	s.Client().CloseIdleConnections()
	start := time.Now()
	s.Stop(t)
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestAnOrderlyExitKeepsValuesEpochAndPosition(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	odd := "a\x00b\xff{host}\n"
	comettest.Publish(t, s, "id=1&news=hello&dropped=1&odd="+escape(odd))
	comettest.PublishAs(t, s, "field=json", "application/json", `{"a":1.50}`)
	old := now(t, s)
	comettest.Publish(t, s, "id=2")
	comettest.Publish(t, s, "id=3")
	wantStatus(t, s.Do(t, request{Method: "DELETE", URL: "/config?field=dropped"}), 200)
	cursor := now(t, s)

	s.Restart(t)

	t.Run("values are read at the next start", func(t *testing.T) {
		wantValue(t, s, "id", "3")
		wantValue(t, s, "news", "hello")
		wantValue(t, s, "odd", odd)
		wantValue(t, s, "json", `{"a":1.50}`)
		wantUnset(t, s, "dropped")
		a := comettest.Push(t, s, "format=json&field=json")
		if len(a.JSON.Messages) != 1 || string(a.JSON.Messages[0].Data) != `{"a":1.50}` {
			t.Errorf("the type of a value is lost: %s", a.Body)
		}
	})
	t.Run("cursors go on without a gap", func(t *testing.T) {
		a := since(t, s, cursor, "id", "news")
		if wantTexts(t, a); a.Missed() {
			t.Errorf("an orderly exit is a gap: %s", a)
		}
		held := comettest.Hold(t, s, "format=json&field=id&after="+escape(cursor))
		comettest.Publish(t, s, "id=4")
		b := comettest.Await(t, held)
		if wantTexts(t, b, "id=4"); b.Missed() {
			t.Errorf("an orderly exit is a gap: %s", b)
		}
	})
	t.Run("messages of before are there or their loss is told", func(t *testing.T) {
		a := since(t, s, old, "id")
		if got := a.Texts(); !slices.Equal(got, []string{"id=2", "id=3", "id=4"}) {
			if !a.Missed() || len(got) == 0 || got[len(got)-1] != "id=4" {
				t.Errorf("got %s; want all three messages, or a gap", a)
			}
		}
	})
	t.Run("a deletion of before is still a gap", func(t *testing.T) {
		a := since(t, s, old, "dropped")
		if wantTexts(t, a); !a.Missed() {
			t.Errorf("got %s; want a gap", a)
		}
	})
	t.Run("a second exit keeps them again", func(t *testing.T) {
		second := now(t, s)
		s.Restart(t)
		wantValue(t, s, "id", "4")
		wantValue(t, s, "news", "hello")
		if a := since(t, s, second, "id"); a.Missed() {
			t.Errorf("an orderly exit is a gap: %s", a)
		}
	})
}

// What was written at an orderly exit is old once the next run has published.
// Reading it again after a crash must not take positions a second time: a client's
// cursor from before the crash would then skip what comes after it.
func TestACrashIsAGap(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=1")
	s.Restart(t) // orderly: now there is something written
	for i := 2; i < 10; i++ {
		comettest.Publish(t, s, fmt.Sprintf("id=%d", i))
	}
	cursor := now(t, s)
	s.Kill(t)
	s.Restart(t)
	if a := since(t, s, cursor, "id"); !a.Missed() {
		t.Errorf("before anything is published: got %s; want a gap", a)
	}
	for i := range 20 {
		comettest.Publish(t, s, fmt.Sprintf("id=after-%d", i))
	}
	if a := since(t, s, cursor, "id"); !a.Missed() {
		t.Errorf("after more was published: got %s; want a gap", a)
	}
}

func TestStateThatCannotBeReadIsSetAside(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=1&news=hello")
	cursor := now(t, s)
	s.Stop(t)
	files := stateFiles(t, s.Dir)
	if len(files) == 0 {
		t.Fatal("an orderly exit wrote no file that mentions comet under the data directory")
	}
	for _, f := range files {
		garble(t, f)
	}
	before := len(s.Logs())
	s.Restart(t)
	if fresh := s.Logs()[before:]; !strings.Contains(fresh, `"level":"error"`) && !strings.Contains(fresh, `"level":"warn"`) {
		t.Errorf("a file that cannot be read has no log line:\n%s", fresh)
	}
	wantUnset(t, s, "news")
	if a := since(t, s, cursor, "id"); !a.Missed() {
		t.Errorf("got %s; want a gap", a)
	}
	comettest.Publish(t, s, "id=2")
	s.Restart(t)
	wantValue(t, s, "id", "2")
}
