package main_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestHostileBodies(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, site(open))
	comettest.Publish(t, s, "id=untouched")

	t.Run("a form with 10,000 names is taken whole or not at all", func(t *testing.T) {
		var b strings.Builder
		for i := range 10_000 {
			fmt.Fprintf(&b, "mass/%d=%d&", i, i)
		}
		a := s.Do(t, request{URL: "/config", Type: comettest.FormType, Body: strings.TrimSuffix(b.String(), "&")})
		wantStatus(t, a, 200, 400, 413)
		_, first := value(t, s, "mass/0")
		_, last := value(t, s, "mass/9999")
		if first != last || first != (a.Status == 200) {
			t.Errorf("after %d the first is set: %t, the last: %t", a.Status, first, last)
		}
	})

	t.Run("a value of 2 MiB is 413", func(t *testing.T) {
		huge := strings.Repeat("x", 2<<20)
		for _, r := range []request{
			{URL: "/config", Type: comettest.FormType, Body: "ok=1&huge=" + huge},
			{URL: "/config?field=huge", Type: "text/plain", Body: huge},
			{URL: "/config?field=huge", Type: "text/plain", Reader: strings.NewReader(huge)},
			{URL: "/config", Type: "application/json", Body: `{"ok":1,"huge":"` + huge + `"}`},
			{URL: "/config", Type: multipartType, Body: multipart("ok", "1", "huge", huge)},
		} {
			wantStatus(t, s.Do(t, r), 413)
		}
		wantUnset(t, s, "ok", "huge")
	})

	t.Run("invalid UTF-8 is kept in a value and refused in a name", func(t *testing.T) {
		a := s.Do(t, request{URL: "/config", Type: comettest.FormType, Body: "latin=%E9%FF"})
		if wantStatus(t, a, 200, 400); a.Status == 200 {
			wantValue(t, s, "latin", "\xe9\xff")
			b := comettest.Push(t, s, "format=json&field=latin")
			if len(b.JSON.Messages) != 1 || b.JSON.Messages[0].Encoding != "base64" || b.JSON.Messages[0].Text() != "6f8=" {
				t.Errorf("got %s; want base64", b.Body)
			}
		}
		wantStatus(t, s.Do(t, request{URL: "/config", Type: comettest.FormType, Body: "ok=1&lat%E9=2"}), 400)
		wantStatus(t, s.Do(t, request{URL: "/config", Type: "application/json", Body: "{\"ok\":1,\"lat\xe9\":2}"}), 400)
		wantUnset(t, s, "ok")
	})

	t.Run("a name with a newline is 400", func(t *testing.T) {
		for _, r := range []request{
			{URL: "/config", Type: comettest.FormType, Body: "ok=1&a%0Ab=2"},
			{URL: "/config", Type: comettest.FormType, Body: "ok=1&a%0D%0ASet-Cookie:%20x=2"},
			{URL: "/config", Type: "application/json", Body: `{"ok":1,"a\nb":2}`},
			{URL: "/config?field=ok&field=a%0Ab", Type: "text/plain", Body: "x"},
		} {
			a := s.Do(t, r)
			if wantStatus(t, a, 400); a.Header.Get("Set-Cookie") != "" {
				t.Errorf("a name became a header: %s", a)
			}
		}
		wantUnset(t, s, "ok")
	})

	t.Run("broken JSON is 400", func(t *testing.T) {
		for _, body := range []string{
			"", "{", "[", `{"ok":1`, `{"ok":1,}`, `{"ok":01}`, `{'ok':1}`, `{"ok":1}x`, `{"ok":NaN}`, `[{"field":"ok","data":1},`,
			"null", "true", `"ok"`, "\x00", "{\"ok\":\"\x01\"}", strings.Repeat("[", 100_000), strings.Repeat(`{"ok":`, 100_000),
			`{"ok":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`,
		} {
			a := s.Do(t, request{Method: "POST", URL: "/config", Type: "application/json", Body: body})
			if a.Status != 400 || strings.TrimSpace(a.Body) == "" || len(a.Body) > 4096 {
				t.Errorf("%.40q: got %.300s; want 400 and a line", body, a)
			}
		}
		wantUnset(t, s, "ok")
	})

	t.Run("a missing or absurd type is 415", func(t *testing.T) {
		for _, typ := range []string{"", "absurd", "a/b/c", "application/json, text/plain", "/", strings.Repeat("x", 5000), "text/plain"} {
			wantStatus(t, s.Do(t, request{URL: "/config", Type: typ, Body: "ok=1"}), 415)
		}
		wantUnset(t, s, "ok")
	})

	t.Run("broken multipart is 400", func(t *testing.T) {
		for _, body := range []string{
			"", "x", "--XX", "--XX--", "--XX\r\n\r\n", "--XX\r\nContent-Disposition: form-data; name=\"ok\"\r\n\r\n1",
			"--XX\r\nContent-Disposition: form-data; name=\"ok\"\r\n\r\n1\r\n--XX\r\nNonsense\r\n\r\n2\r\n--XX--\r\n",
			"--XX\r\nContent-Disposition: form-data; name=\"ok\"\r\n\r\n1\r\n--XX\r\nContent-Type: text/plain\r\n\r\n2\r\n--XX--\r\n",
		} {
			a := s.Do(t, request{Method: "POST", URL: "/config", Type: multipartType, Body: body})
			if a.Status == 200 && strings.HasPrefix(body, "--XX--") {
				continue // a form with nothing in it may be called well formed
			}
			wantStatus(t, a, 400)
		}
		wantUnset(t, s, "ok")
	})

	t.Run("chunks without an end are 413", func(t *testing.T) {
		conn := s.RawConn(t)
		fmt.Fprint(conn, "POST /config?field=ok HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
		answered := make(chan *http.Response, 1)
		go func() {
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				res = nil
			}
			answered <- res
		}()
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<14, strings.Repeat("x", 1<<14))
		sent := 0
		for {
			select {
			case res := <-answered:
				if res == nil {
					t.Error("the connection was cut without an answer")
				} else if res.StatusCode != 413 {
					t.Errorf("got %s; want 413", res.Status)
				}
				wantUnset(t, s, "ok")
				return
			default:
			}
			if n, err := conn.Write([]byte(chunk)); err == nil {
				sent += n
			} else if res := <-answered; res == nil || res.StatusCode != 413 {
				t.Errorf("after %d bytes: %v; want 413", sent, err)
				return
			} else {
				wantUnset(t, s, "ok")
				return
			}
			if sent > 256<<20 {
				t.Fatal("256 MiB were taken without an answer")
			}
		}
	})

	t.Run("broken chunks and bodies cut short publish nothing", func(t *testing.T) {
		for _, raw := range []string{
			"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
			"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
			"Content-Length: 10\r\n\r\nhello",
		} {
			conn := s.RawConn(t)
			fmt.Fprint(conn, "POST /config?field=ok HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"+raw)
			if c, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
			if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				if res.Body.Close(); res.StatusCode < 400 || res.StatusCode > 499 {
					t.Errorf("%.60q: got %s; want a 4xx", raw, res.Status)
				}
			}
		}
		wantUnset(t, s, "ok")
	})

	t.Run("a body on a hold does no harm", func(t *testing.T) {
		comettest.Publish(t, s, "bodied=1")
		for _, body := range []string{"x", strings.Repeat("x", 1<<20)} {
			a := s.Do(t, request{Method: "GET", URL: "/push?field=bodied&bodied=0", Body: body, Type: "text/plain"})
			wantStatus(t, a, 200, 400, 413)
		}
		wantText(t, comettest.Push(t, s, "field=bodied&bodied=0"), "YES\n")
	})

	t.Run("hostile queries are answered", func(t *testing.T) {
		for _, query := range []string{
			"%zz", "field=%", "a;b", strings.Repeat("&", 5000), strings.Repeat("field=x&", 5000) + "wait=0", "wait=1e999", "wait=-5&id=-1",
			"wait=NaN&id=-1", "last=-1", "last=99999999999999999999", "last=x", "after=" + strings.Repeat("a", 10_000),
			"id=" + strings.Repeat("9", 50_000), "format=" + strings.Repeat("x", 10_000), "retry=x&id=-1",
		} {
			a := s.Do(t, request{URL: "/push?" + query})
			if a.Status >= 500 && a.Status != 503 {
				t.Errorf("?%.60s: got %.300s", query, a)
			}
		}
	})

	wantValue(t, s, "id", "untouched")
}

func TestMemoryIsFlatUnderHostileBodies(t *testing.T) {
	t.Parallel()
	needMemory(t)
	s := comettest.Start(t, site(open))
	huge := strings.Repeat("x", 2<<20)
	deep := strings.Repeat("[", 1<<20-1)
	var names strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&names, "n%d=&", i)
	}
	names.WriteString("a%0Ab=1") // refused at its very end
	round := func() {
		for _, r := range []request{
			{URL: "/config", Type: comettest.FormType, Body: "huge=" + huge},
			{URL: "/config", Type: comettest.FormType, Body: names.String()},
			{URL: "/config", Type: "application/json", Body: deep},
			{URL: "/config?field=huge", Reader: strings.NewReader(huge)},
			{URL: "/config", Type: multipartType, Body: multipart("huge", huge)},
		} {
			a := s.Do(t, r)
			wantStatus(t, a, 400, 413)
		}
	}
	for range 10 {
		round()
	}
	before := resident(t, s.Pid)
	rounds := 60
	if testing.Short() || comettest.Race {
		rounds = 15
	}
	for range rounds {
		round()
	}
	if after := resident(t, s.Pid); after > before+before/2+64<<10 {
		t.Errorf("the server had %d KiB before and has %d KiB now", before, after)
	}
	wantUnset(t, s, "n0", "huge")
}

// needMemory skips a test where the memory of a process cannot be read.
func needMemory(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("memory is read from /proc, which is not here")
	}
}

// resident returns the resident memory of a process in KiB.
func resident(t *testing.T, pid int) int { return processMemory(t, pid, "VmRSS:") }

// mostResident returns the largest that it was.
func mostResident(t *testing.T, pid int) int { return processMemory(t, pid, "VmHWM:") }

func processMemory(t *testing.T, pid int, name string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatalf("no %s for the process %d", name, pid)
	return 0
}
