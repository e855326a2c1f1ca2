package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// forwardSite is one plain site whose /list forwards with options, before an application.
func forwardSite(app, options string) string {
	return strings.ReplaceAll(comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		hold /list* {
			field list
			forward
			`+options+`
		}
		hold /push {
			field **
		}
	}
	reverse_proxy {$APP}
}
`, "{$APP}", app)
}

// What may be shared is what the configuration of now says: those who were held before
// are no exception.
func TestHeldRequestsAreSharedAsTheRouteHasItNow(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, after, header string }{
		"no longer public":   {"share public", "share", "Cookie"},
		"by one header more": {"share", "share by Accept-Language", "Accept-Language"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(100 * time.Millisecond)
				fmt.Fprint(w, "for "+r.Header.Get(c.header))
			})
			s := comettest.Start(t, forwardSite(address, c.before))
			cursor := comettest.Publish(t, s, "list=0").Cursor()
			each := ownAnswers{}
			for _, who := range []string{"who=ann", "who=bob"} {
				each.hold(t, s, "for "+who, map[string]string{"Comet-Cursor": cursor, c.header: who})
			}
			s.Reload(t, forwardSite(address, c.after))
			comettest.Publish(t, s, "list=1")
			each.want(t)
			if app.count() != 2 {
				t.Errorf("the application was asked %d times", app.count())
			}
		})
	}
}

// One that was woken before a reload, and waits for its turn, comes to a route that
// shares in another way, or not at all.
func TestWhoWaitsForItsTurnOutlivesShare(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]string{"gone": "pace 1", "no longer public": "share\n\t\t\tpace 1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			may := make(chan bool, 10)
			app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/list/slow" {
					<-may
				}
				time.Sleep(100 * time.Millisecond)
				fmt.Fprint(w, "for "+r.Header.Get("Cookie"))
			})
			s := comettest.Start(t, forwardSite(address, "share public\n\t\t\tpace 1"))
			cursor := comettest.Publish(t, s, "list=0").Cursor()
			slow := make(chan comettest.Answer, 1)
			client := ownConnection(t, s)
			go func() { slow <- s.Try(t.Context(), request{URL: s.URL("/list/slow"), Client: client}) }()
			comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })
			got := map[string]<-chan comettest.Answer{}
			for _, who := range []string{"who=ann", "who=bob"} {
				got[who] = comettest.HoldOn(t, s, request{URL: s.URL("/list"), Header: map[string]string{"Comet-Cursor": cursor, "Cookie": who}}, "list")
			}
			comettest.Publish(t, s, "list=1")
			comettest.WaitSubscribers(t, s, "list", 0)
			done := make(chan error, 1)
			text := forwardSite(address, after)
			go func() { done <- s.TryReload(text) }()
			time.Sleep(time.Second) // the slow request keeps the old configuration
			may <- true
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			for who, answers := range got {
				if a := comettest.Await(t, answers); a.Body != "for "+who && a.Body != "for " {
					t.Errorf("%s was given %s", who, a)
				}
			}
			if strings.Contains(s.Logs(), "nil pointer") {
				t.Error("a handler panicked")
			}
		})
	}
}

// What the application is told is no older than the cursor that the client goes on from.
func TestWhatComesWhileARequestWaitsForItsTurnIsTold(t *testing.T) {
	t.Parallel()
	may := make(chan bool, 10)
	app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/list/slow" {
			<-may
		}
		fmt.Fprint(w, r.Header.Get("Comet-Value"))
	})
	s := comettest.Start(t, forwardSite(address, "pace 1"))
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	client := ownConnection(t, s)
	go func() { s.Try(t.Context(), request{URL: s.URL("/list/slow"), Client: client}) }()
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })
	held := comettest.HoldOn(t, s, request{URL: s.URL("/list"), Header: map[string]string{"Comet-Cursor": cursor}}, "list")
	comettest.Publish(t, s, "list=1")
	comettest.WaitSubscribers(t, s, "list", 0)
	at := comettest.Publish(t, s, "list=2").Cursor()
	may <- true
	a := comettest.Await(t, held)
	if a.Body != "2" && a.Cursor() == at {
		t.Errorf("the application was told %q, and the client goes on from behind 2 (%s): it never comes", a.Body, a.Cursor())
	}
}

// The head that comes again is all that the client, or a proxy in front, has sent.
func TestALongHeaderDoesNotHideThoseBeforeIt(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, nil)
	s := comettest.Start(t, forwardSite(address, ""))
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	conn := s.RawConn(t)
	long := "X-Long: "
	long += strings.Repeat("x", 4096-len(long))
	fmt.Fprint(conn, "GET /list HTTP/1.1\r\nX-By-Proxy: yes\r\n"+long+"GET /list HTTP/1.1\r\nHost: "+strings.TrimPrefix(s.URL(""), "http://")+"\r\nComet-Cursor: "+cursor+"\r\n\r\n")
	comettest.WaitSubscribers(t, s, "list", 1)
	comettest.Publish(t, s, "list=1")
	if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	if got := app.last(t).Header.Get("X-By-Proxy"); got != "yes" {
		t.Errorf("the header that came before is lost: %v", app.last(t).Header)
	}
}

// Those who have seen different things do not ask the same.
func TestWhoHasSeenLessIsNotGivenTheRestForAnother(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
		fmt.Fprint(w, "since "+r.Header.Get("X-Since"))
	})
	s := comettest.Start(t, forwardSite(address, "share public\n\t\t\tseen {header.X-Since}"))
	comettest.Publish(t, s, "list=7")
	each := ownAnswers{}
	for _, since := range []string{"7", "8"} {
		each.hold(t, s, "since "+since, map[string]string{"X-Since": since})
	}
	comettest.Publish(t, s, "list=9")
	each.want(t)
}

// ownAnswers are the answers of held clients, by what each of them is to be given.
type ownAnswers map[string]<-chan comettest.Answer

func (o ownAnswers) hold(t *testing.T, s *comettest.Server, body string, header map[string]string) {
	t.Helper()
	o[body] = comettest.HoldOn(t, s, request{URL: s.URL("/list"), Header: header}, "list")
}

func (o ownAnswers) want(t *testing.T) {
	t.Helper()
	for body, answers := range o {
		if a := comettest.Await(t, answers); a.Body != body {
			t.Errorf("got %s; want %s", a, body)
		}
	}
}

// A client cannot have a header that is compared kept from the application.
func TestWhatIsComparedReachesTheApplication(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
		fmt.Fprint(w, "for "+r.Header.Get("Accept-Language")+r.Header.Get("Cookie"))
	})
	for _, c := range []struct{ options, header string }{{"share by Accept-Language", "Accept-Language"}, {"share", "Cookie"}} {
		s := comettest.Start(t, forwardSite(address, c.options))
		cursor := comettest.Publish(t, s, "list=0").Cursor()
		var conn net.Conn
		for range 8 { // one of them is the first
			conn = s.RawConn(t)
			fmt.Fprintf(conn, "GET /list HTTP/1.1\r\nHost: %s\r\nComet-Cursor: %s\r\n%s: DE\r\nConnection: %[3]s\r\n\r\n", strings.TrimPrefix(s.URL(""), "http://"), cursor, c.header)
		}
		comettest.WaitSubscribers(t, s, "list", 8)
		held := comettest.HoldOn(t, s, request{URL: s.URL("/list"), Header: map[string]string{"Comet-Cursor": cursor, c.header: "DE"}}, "list")
		comettest.Publish(t, s, "list=1")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		t.Logf("attacker: %s", b)
		if a := comettest.Await(t, held); a.Body != "for DE" {
			t.Errorf("%s: another client was given %s", c.options, a)
		}
	}
}

// A body is a part of what is asked.
func TestRequestsWithDifferentBodiesDoNotAskTheSame(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		time.Sleep(100 * time.Millisecond)
		fmt.Fprintf(w, "for %s", b)
	})
	s := comettest.Start(t, forwardSite(address, "share"))
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	got := map[string]<-chan comettest.Answer{}
	for _, who := range []string{"attacker", ""} {
		got[who] = comettest.HoldOn(t, s, request{Method: "GET", URL: s.URL("/list"), Body: who, Header: map[string]string{"Comet-Cursor": cursor}}, "list")
	}
	comettest.Publish(t, s, "list=1")
	for who, answers := range got {
		if a := comettest.Await(t, answers); a.Body != "for "+who {
			t.Errorf("who sent %q was given %s", who, a)
		}
	}
}

// Once the application has answered, it is somebody else's turn.
func TestAClientThatDoesNotReadHoldsNoTurnOfAnApplicationThatIsDone(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1<<19)) })
	s := startForwarding(t, address, "share\n\t\t\tpace 1")
	comettest.Publish(t, s, "list=0")
	askWithoutWindow(t, s, "/list")
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })

	done := make(chan comettest.Answer, 1)
	client := s.TLSClient(t, false)
	go func() { done <- s.Try(t.Context(), request{URL: s.TLSURL("/list/other"), Client: client}) }()
	select {
	case a := <-done:
		if a.Status != 200 {
			t.Errorf("got %s", a)
		}
	case <-time.After(5 * time.Second):
		t.Errorf("one who does not read keeps the turn, and the application has nothing to do: it answers %d", app.now)
	}
}

// askWithoutWindow asks for paths over one connection of HTTP/2, and reads no body.
func askWithoutWindow(t *testing.T, s *comettest.Server, paths ...string) {
	t.Helper()
	config := s.TLSConfig(t)
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", s.Port("HTTPS")), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for i, path := range paths {
		head.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", path}, {":authority", fmt.Sprint("localhost:", s.Port("HTTPS"))}} {
			_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true})
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }() // it reads all frames, and gives no window
}

// What is kept of answers that may be shared has a bound, whoever does not read them.
func TestAnswersThatNobodyReadsAreNotKeptWithoutBound(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1<<20-1)) })
	s := startForwarding(t, address, "share")
	comettest.Publish(t, s, "list=0")
	s.TLSConfig(t)
	before := memory(t, s)
	n := 200
	paths := make([]string, n)
	for i := range paths {
		paths[i] = fmt.Sprint("/list?", i)
	}
	askWithoutWindow(t, s, paths...)
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == n })
	time.Sleep(500 * time.Millisecond)
	grown := memory(t, s) - before
	t.Logf("%d requests of one connection take %d MiB", n, grown>>20)
	if grown > 64<<20 {
		t.Errorf("%d requests of one connection take %d MiB", n, grown>>20)
	}
}

// memory returns how much is in use, after the garbage was collected.
func memory(t *testing.T, s *comettest.Server) int {
	t.Helper()
	a := s.Do(t, request{URL: fmt.Sprint("http://127.0.0.1:", s.Port("ADMIN"), "/debug/pprof/heap?gc=1&debug=1"), Within: time.Minute})
	_, after, _ := strings.Cut(a.Body, "\n# HeapAlloc = ")
	number, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// With the listener wrapper the connections stay.
func TestAReloadClosesNoConnectionBetweenRequests(t *testing.T) {
	needWrapper(t)
	t.Parallel()
	_, address := newAsked(t, nil)
	config := func(retry string) string {
		return strings.Replace(forwardSite(address, retry), "{\n", "{\n"+wrappers+"\n", 1)
	}
	s := comettest.Start(t, config("retry 1s"))
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	conn := s.RawConn(t)
	from := bufio.NewReader(conn)
	ask := func(cursor string) (next string) {
		t.Helper()
		fmt.Fprintf(conn, "GET /list HTTP/1.1\r\nHost: %s\r\nComet-Cursor: %s\r\n\r\n", strings.TrimPrefix(s.URL(""), "http://"), cursor)
		if cursor != "" {
			comettest.WaitSubscribers(t, s, "list", 1)
			comettest.Publish(t, s, "list=1")
		}
		res, err := http.ReadResponse(from, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode != 200 || res.Close {
			t.Fatal(res)
		}
		return res.Header.Get("Comet-Cursor")
	}
	ask(cursor)
	time.Sleep(50 * time.Millisecond) // it is parked again
	s.Reload(t, config("retry 2s"))
	cursor = ask("")
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := from.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after an answer without Connection: close it is closed: %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(comettest.Deadline))
	ask(cursor)
}

// A request that is parked has not ended yet.
func TestAParkedRequestTouchesNothing(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, nil)
	s := comettest.Start(t, strings.ReplaceAll(comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		touch /list* views
	}
	handle /list* {
		comet {
			hold * {
				field list
				forward
			}
		}
		reverse_proxy {$APP}
	}
}
`, "{$APP}", address))
	cursor := comettest.Publish(t, s, "list=0&views=0").Cursor()
	held := comettest.HoldOn(t, s, request{URL: s.URL("/list"), Header: map[string]string{"Comet-Cursor": cursor}}, "list")
	time.Sleep(50 * time.Millisecond)
	wantValue(t, s, "views", "0")
	comettest.Publish(t, s, "list=1")
	comettest.Await(t, held)
	time.Sleep(50 * time.Millisecond)
	wantValue(t, s, "views", "1")
}

// A touch that matches what is held would wake all again with each answer.
func TestWhoWatchesAFieldDoesNotTouchIt(t *testing.T) {
	t.Parallel()
	for _, by := range forwardedByAll {
		for _, block := range []string{"the same block", "another block"} {
			t.Run(by.name+", "+block, func(t *testing.T) {
				t.Parallel()
				app, address := newAsked(t, nil)
				site := strings.Replace(forwardingSite(""), "comet {\n\t\tpublish", "comet {\n\t\ttouch /list list views\n\t\tpublish", 2)
				if block == "another block" {
					site = strings.ReplaceAll(forwardingSite(""), "\tcomet {\n\t\tpublish", "\tcomet {\n\t\ttouch /list list views\n\t}\n\tcomet {\n\t\tpublish")
				}
				s := comettest.Start(t, site, append(by.opts, comettest.Env("APP", address))...)
				cursor := comettest.Publish(t, s, "list=10&views=0").Cursor()
				const n = 3
				answers := crowdOf(t, s, by, n, func(int) map[string]string { return map[string]string{"Comet-Cursor": cursor} })
				comettest.Publish(t, s, "list=11")
				each(t, answers, n, func(comettest.Answer) {})
				// One who has seen nothing goes on at once, and is no other.
				wantStatus(t, s.Do(t, request{URL: by.url(s, "/list"), Client: by.client(t, s)}), 200)
				comettest.Eventually(t, comettest.Deadline, func() bool {
					got, _ := value(t, s, "views")
					return got == "4"
				}, "not each of them has touched the other field")
				wantValue(t, s, "list", "11")
				if asked := app.count(); asked != n+1 {
					t.Errorf("the application was asked %d times", asked)
				}
				// The same address is changed by POST.
				wantStatus(t, s.Do(t, request{Method: http.MethodPost, URL: by.url(s, "/list"), Client: by.client(t, s)}), 200)
				comettest.Eventually(t, comettest.Deadline, func() bool {
					got, _ := value(t, s, "list")
					return got == "12"
				}, "who does not watch does not touch")
				if said := s.Logs(); strings.Count(said, "a request that watches a field does not touch it") != 1 {
					t.Errorf("the log says %s", said)
				}
			})
		}
	}
}

// Those who could not be given the answer to another one go on by themselves, and have
// nothing kept for anybody.
func TestWhatIsNotSharedIsSentAsItComes(t *testing.T) {
	t.Parallel()
	may := make(chan bool)
	app, address := newAsked(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 900_000))
		_ = http.NewResponseController(w).Flush()
		<-may
		fmt.Fprint(w, strings.Repeat("x", 900_000))
	})
	t.Cleanup(func() { close(may) })
	s := comettest.Start(t, forwardSite(address, "share"))
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	var conns []net.Conn
	for range 2 {
		conn := s.RawConn(t)
		conns = append(conns, conn)
		fmt.Fprintf(conn, "GET /list HTTP/1.1\r\nHost: %s\r\nComet-Cursor: %s\r\n\r\n", strings.TrimPrefix(s.URL(""), "http://"), cursor)
	}
	comettest.WaitSubscribers(t, s, "list", 2)
	comettest.Publish(t, s, "list=1")
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })
	may <- true // the first is too large to be shared
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 2 })
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(comettest.Deadline))
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Errorf("the beginning of the answer is kept back: %v", err)
		}
	}
}

// `pace` bounds what the application does at once, whatever clients do.
func TestClientsThatLeaveGetNoFurtherTurns(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
	s := startForwarding(t, address, "pace 2")
	for n := range 10 {
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan comettest.Answer, 1)
		client := ownConnection(t, s)
		go func() { left <- s.Try(ctx, request{URL: s.URL("/list"), Client: client}) }()
		for until := time.Now().Add(300 * time.Millisecond); app.count() <= n && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		leave()
		<-left
	}
	if app.most > 2 {
		t.Errorf("the application was busy with %d at once; want 2", app.most)
	}
}

// A request that does not come through to its route the second time gives up its turn.
func TestWhoIsStoppedOnTheWayGivesUpItsTurn(t *testing.T) {
	t.Parallel()
	for name, stops := range map[string]string{"refused": "respond @late 401", "cut": "abort @late"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, func(http.ResponseWriter, *http.Request) {
				time.Sleep(50 * time.Millisecond)
			})
			text := strings.ReplaceAll(comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	route {
		@late {
			header X-Stops *
			file {
				root {$DIR}
				try_files /late
			}
		}
		`+stops+`
		comet {
			publish /config
			hold /list* {
				field list
				forward
				share
				pace 1
			}
			hold /push {
				field **
			}
		}
		reverse_proxy {$APP}
	}
}
`, "{$APP}", address)
			s := comettest.Start(t, text)
			cursor := comettest.Publish(t, s, "list=0").Cursor()
			answers := crowdOf(t, s, forwardedByAll[0], 20, func(i int) map[string]string {
				h := map[string]string{"Comet-Cursor": cursor, "Cookie": fmt.Sprint(i % 4)}
				if i%2 == 0 {
					h["X-Stops"] = "yes"
				}
				return h
			})
			if err := os.WriteFile(s.Dir+"/late", []byte("yes"), 0o600); err != nil {
				t.Fatal(err)
			}
			comettest.Publish(t, s, "list=1")
			got := map[int]int{}
			for range 20 {
				select {
				case a := <-answers:
					got[a.Status]++
				case <-time.After(comettest.Deadline):
					t.Fatalf("not all are answered: %v, the application was asked %d times", got, app.count())
				}
			}
			t.Log(got, app.count())
		})
	}
}

// An exit waits for the application, and so does a reload.
func TestWhatIsWithTheApplicationIsAnswered(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"an exit", "an exit after a reload", "a reload after a reload"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(time.Second):
					fmt.Fprint(w, "answer")
				case <-r.Context().Done():
				}
			})
			s := comettest.Start(t, forwardSite(address, "retry 1s"))
			cursor := comettest.Publish(t, s, "list=0").Cursor()
			held := comettest.HoldOn(t, s, request{URL: s.URL("/list"), Header: map[string]string{"Comet-Cursor": cursor}}, "list")
			if strings.Contains(name, "after") {
				s.Reload(t, forwardSite(address, "retry 2s"))
			}
			comettest.Publish(t, s, "list=1")
			comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })
			if strings.HasPrefix(name, "a reload") {
				s.Reload(t, forwardSite(address, "retry 3s"))
			} else {
				s.Stop(t)
			}
			if a := comettest.Await(t, held); a.Body != "answer" {
				t.Errorf("got %s", a)
			}
		})
	}
}

// An application that is asked by no configuration of now: the one of a site that has no
// comet any more.
func TestAReloadWithoutCometCutsNobody(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, nil)
	s := comettest.Start(t, forwardSite(address, ""))
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	held := comettest.HoldOn(t, s, request{URL: s.URL("/list"), Header: map[string]string{"Comet-Cursor": cursor}}, "list")
	s.Reload(t, comettest.Global("")+"http://127.0.0.1:{$HTTP} {\n\treverse_proxy "+address+"\n}\n")
	// Its server is still there, or is not any more.
	if a := comettest.Await(t, held); a.Status != 200 && (a.Status != 503 || a.Header.Get("Retry-After") == "") {
		t.Errorf("got %s", a)
	}
}

// A page for errors that is made by another application is made with pace and share too.
func TestAPageForErrorsComesFromAnotherApplication(t *testing.T) {
	t.Parallel()
	_, errors := newAsked(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a page that says sorry") })
	for _, options := range []string{"", "pace 5", "share"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			site := strings.TrimSuffix(strings.TrimSpace(forwardSite("127.0.0.1:1", options)), "}") + `
	handle_errors {
		reverse_proxy ` + errors + `
	}
}
`
			s := comettest.Start(t, site)
			comettest.Publish(t, s, "list=0")
			a := s.Do(t, request{URL: s.URL("/list")})
			if !strings.Contains(a.Body, "sorry") {
				t.Errorf("%q: got %s", options, a)
			}
		})
	}
}

// What was cut off publishes nothing, also when its application is asked at its pace.
func TestWhatIsForwardedAndBreaksOffPublishesNothing(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"", "pace 5"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			_, address := newAsked(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Comet-Publish", "said=1")
				fmt.Fprint(w, strings.Repeat("x", 2<<20))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(200 * time.Millisecond)
				panic(http.ErrAbortHandler)
			})
			site := strings.Replace(forwardSite(address, options), "\tcomet {\n", "\tcomet {\n\t\ttouch /list views\n\t\tfrom_responses\n\t}\n\tcomet {\n", 1)
			s := comettest.Start(t, site)
			comettest.Publish(t, s, "list=0&views=0&said=0")
			client := ownConnection(t, s)
			a := s.Try(t.Context(), request{URL: s.URL("/list"), Client: client})
			if a.Err == nil {
				t.Fatalf("it is not cut: %d", a.Status)
			}
			time.Sleep(100 * time.Millisecond)
			wantValue(t, s, "views", "0")
			wantValue(t, s, "said", "0")
		})
	}
}

// Those who do not read take all the room for answers that are kept, and then the turns.
func TestClientsThatDoNotReadKeepTheTurnsForAWhileOnly(t *testing.T) {
	t.Parallel()
	app, address := newAsked(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1<<19)) })
	s := startForwarding(t, address, "pace 2\n\t\t\ttimeout 2m")
	comettest.Publish(t, s, "list=0")
	paths := make([]string, 80)
	for i := range paths {
		paths[i] = fmt.Sprint("/list?", i)
	}
	askWithoutWindow(t, s, paths...)
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() > 64 }, "the application is not asked")
	a := s.Do(t, request{URL: s.TLSURL("/list/other"), Client: s.TLSClient(t, false), Within: 2 * time.Minute})
	wantStatus(t, a, 200)
	t.Logf("answered after %s", a.Elapsed)
}

// A handler between the touch and the route copies the request.
func TestWhoWatchesAFieldDoesNotTouchItBehindForwardAuth(t *testing.T) {
	t.Parallel()
	_, authAddress := newAsked(t, nil)
	for _, between := range []string{"", "forward_auth " + authAddress + " {\n\t\t\turi /auth\n\t\t}"} {
		app, address := newAsked(t, nil)
		s := comettest.Start(t, comettest.Global("")+`
http://127.0.0.1:{$HTTP} {
	comet {
		publish /config
		touch /list list
	}
	handle /list {
		`+between+`
		comet {
			hold * {
				field list
				forward
			}
		}
		reverse_proxy `+address+`
	}
}
`)
		cursor := comettest.Publish(t, s, "list=1").Cursor()
		client := ownConnection(t, s)
		go func() {
			for t.Context().Err() == nil {
				a := s.Try(t.Context(), request{URL: s.URL("/list"), Client: client, Header: map[string]string{"Comet-Cursor": cursor}})
				if a.Err != nil {
					return
				}
				cursor = a.Cursor()
			}
		}()
		time.Sleep(300 * time.Millisecond)
		comettest.Publish(t, s, "list=5")
		time.Sleep(2 * time.Second)
		if n := app.count(); n > 3 {
			t.Errorf("with %q one publication has the application asked %d times in two seconds", between, n)
		}
	}
}

// Who asks may be known by another header than a cookie.
func TestWhoIsKnownByAnotherHeaderIsAnother(t *testing.T) {
	t.Parallel()
	_, auth := newAsked(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Remote-User", r.Header.Get("X-Api-Key")) })
	_, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(200 * time.Millisecond)
		fmt.Fprint(w, "for "+r.Header.Get("Remote-User"))
	})
	site := strings.Replace(forwardSite(address, "share"), "\treverse_proxy", "\t@list path /list\n\tforward_auth @list "+auth+" {\n\t\turi /auth\n\t\tcopy_headers Remote-User\n\t}\n\treverse_proxy", 1)
	s := comettest.Start(t, site)
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	each := ownAnswers{}
	for _, who := range []string{"ann", "bob"} {
		each.hold(t, s, "for "+who, map[string]string{"Comet-Cursor": cursor, "X-Api-Key": who})
	}
	comettest.Publish(t, s, "list=1")
	each.want(t)
}

// A refusal is of the one who asks, who may be asking for others.
func TestWhatIsRefusedToOneIsNotRefusedToAll(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Millisecond)
		fmt.Fprint(w, "secret")
	})
	site := strings.Replace(forwardSite(address, "share"), "\treverse_proxy", "\t@outside remote_ip 127.0.0.2\n\trespond @outside \"keep out\" 403\n\treverse_proxy", 1)
	s := comettest.Start(t, site)
	cursor := comettest.Publish(t, s, "list=0").Cursor()
	hold := func(from string) *bufio.Reader {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", fmt.Sprint("127.0.0.1:", s.Port("HTTP")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /list HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nComet-Cursor: %s\r\n\r\n", s.Port("HTTP"), cursor)
		_ = conn.SetReadDeadline(time.Now().Add(comettest.Deadline))
		return bufio.NewReader(conn)
	}
	from := map[string]*bufio.Reader{}
	for i, who := range []string{"outsider", "insider"} {
		from[who] = hold(map[string]string{"insider": "127.0.0.1", "outsider": "127.0.0.2"}[who])
		comettest.WaitSubscribers(t, s, "list", i+1)
	}
	comettest.Publish(t, s, "list=1")
	for who, want := range map[string]string{"insider": "secret", "outsider": "keep out"} {
		res, err := http.ReadResponse(from[who], nil)
		if err != nil {
			t.Fatal(who, err)
		}
		b, _ := io.ReadAll(res.Body)
		if string(b) != want {
			t.Errorf("the %s is given %d %s", who, res.StatusCode, b)
		}
	}
}

func TestAnErrorThatIsTheClientsHasACursor(t *testing.T) {
	t.Parallel()
	_, address := newAsked(t, nil)
	site := strings.Replace(forwardSite(address, ""), "\treverse_proxy "+address, "\troot {$DIR}\n\tfile_server", 1)
	s := comettest.Start(t, site)
	comettest.Publish(t, s, "list=0")
	a := s.Do(t, request{URL: s.URL("/list/none")})
	if a.Status != 404 || a.Cursor() == "" {
		t.Errorf("got %s, cursor %q", a, a.Cursor())
	}
}

// Those who follow and do not read keep what the one who leads has been given.
func TestFollowersThatDoNotReadKeepAnswersWithinBounds(t *testing.T) {
	t.Parallel()
	may := make(chan bool)
	app, address := newAsked(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/list/slow" {
			<-may
			return
		}
		fmt.Fprint(w, strings.Repeat("x", 1<<20-1))
	})
	s := startForwarding(t, address, "share\n\t\t\tpace 1")
	comettest.Publish(t, s, "list=0")
	slow := s.TLSClient(t, false)
	go func() { s.Try(t.Context(), request{URL: s.TLSURL("/list/slow"), Client: slow}) }()
	comettest.Eventually(t, comettest.Deadline, func() bool { return app.count() == 1 })
	wait := func(n int) {
		t.Helper()
		comettest.Eventually(t, comettest.Deadline, func() bool { return int(metrics(t, s)["comet_forward_waiting"]) == n }, n, " do not wait")
	}
	s.TLSConfig(t)
	const n = 150
	leads := s.TLSClient(t, true)
	got := make(chan comettest.Answer, n)
	paths := make([]string, n)
	for i := range paths {
		paths[i] = fmt.Sprint("/list?", i)
		go func() {
			got <- s.Try(t.Context(), request{URL: s.TLSURL(paths[i]), Client: leads})
		}()
	}
	wait(n)

	askWithoutWindow(t, s, paths...)
	wait(2 * n)
	before := memory(t, s)
	may <- true
	for range n {
		if a := <-got; a.Status != 200 || len(a.Body) != 1<<20-1 {
			t.Fatalf("got %.100s", a)
		}
	}
	time.Sleep(3 * time.Second) // until nothing is kept for who comes late
	grown := memory(t, s) - before
	t.Logf("asked %d times; one connection that does not read keeps %d MiB", app.count(), grown>>20)
	if grown > 64<<20 {
		t.Errorf("one connection that does not read keeps %d MiB; at most 32 are to be kept", grown>>20)
	}
}
