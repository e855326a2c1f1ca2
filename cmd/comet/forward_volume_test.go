package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// listPHP is an application that counts its requests, and how many it has at once, in a
// file.
const listPHP = `<?php
function count_requests(int $more): void {
	$file = fopen(getenv('COUNTS'), 'c+');
	flock($file, LOCK_EX);
	[$all, $now, $most] = array_map('intval', explode(' ', fgets($file) ?: '0 0 0'));
	$now += $more;
	$all += max($more, 0);
	ftruncate($file, 0);
	rewind($file);
	fwrite($file, "$all $now " . max($now, $most));
}
count_requests(1);
usleep(1000);
echo $_SERVER['HTTP_COMET_VALUE'], ' for ', $_COOKIE['user'] ?? 'all';
count_requests(-1);
`

// TestTenThousandParkedAndTheirPHPRequests has them all woken at once by one message, in
// front of a PHP that is the only one who knows what it says to whom.
func TestTenThousandParkedAndTheirPHPRequests(t *testing.T) {
	fpm := findPHP(t)
	n := scale(10_000, 300, 1000)
	needDescriptors(t, n)
	code := t.TempDir()
	for _, name := range []string{"index.php", "shared.php", "paced.php"} {
		if err := os.WriteFile(filepath.Join(code, name), []byte(listPHP), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const pace = 3
	app := startApplicationBehind(t, code, "app.example.com", fmt.Sprintf(`
app.example.com {
	comet {
		hold /shared.php {
			field list
			forward
			share
			timeout 5m
		}
		hold /paced.php {
			field list
			forward
			share
			pace %d
			timeout 5m
		}
	}
	root %s
	php_fastcgi unix//run/php/php-fpm.sock
}
`, pace, code)+door)
	counts := filepath.Join(app.give(t, "counts"), "requests")
	startPHP(t, fpm, app.dir, "env[COUNTS] = "+counts, fmt.Sprint("pm.max_children = ", 2*pace))
	// requests returns how many there were, and at most at once, since the last call.
	requests := func() (all, most int) {
		t.Helper()
		said := strings.Fields(readText(t, counts))
		if len(said) != 3 || said[1] != "0" {
			t.Fatalf("PHP has counted %q", said)
		}
		if err := os.Truncate(counts, 0); err != nil {
			t.Fatal(err)
		}
		return num(said[0]), num(said[2])
	}

	cursor := comettest.Publish(t, app.Server, "list=0").Cursor()
	all := connect(t, app.Server, n)
	for round, c := range []struct {
		path  string
		users int // 0: without a cookie
	}{
		{"/shared.php", 0},
		{"/shared.php", 50},
		{"/paced.php", 0},
		{"/paced.php", n},
	} {
		what := fmt.Sprintf("%s for %d users", c.path, c.users)
		user := func(i int) string { return strconv.Itoa(i % max(c.users, 1)) }
		all.each(t, what, func(i int, w *waiter) error {
			if c.users == 0 {
				return w.ask(c.path, "Comet-Cursor: "+cursor)
			}
			return w.ask(c.path, "Comet-Cursor: "+cursor, "Cookie: user="+user(i))
		})
		all.wantHeld(t, app.Server, "list")
		if comettest.Parks(t) {
			comettest.Eventually(t, comettest.Deadline, func() bool { return parkedNow(t, app.Server) == float64(n) }, "not all of them are parked")
		}
		value := strconv.Itoa(round + 1)
		start := time.Now()
		cursor = comettest.Publish(t, app.Server, "list="+value).Cursor()
		all.each(t, what, func(i int, w *waiter) error {
			res, body, err := w.read()
			if err != nil {
				return err
			}
			want := value + " for all"
			if c.users > 0 {
				want = value + " for " + user(i)
			}
			if string(body) != want || res.Close {
				return fmt.Errorf("got %q, connection kept: %t; want %q", body, !res.Close, want)
			}
			return nil
		})
		took := time.Since(start)
		asked, most := requests()
		t.Logf("%s: %d answers in %s by %d PHP requests, %d at once", what, n, took.Round(time.Millisecond), asked, most)
		if limit := 2 * max(c.users, 1); asked > limit || c.users == n && asked != n {
			t.Errorf("%s: PHP had %d requests", what, asked)
		}
		if strings.HasPrefix(c.path, "/paced") && most > pace {
			t.Errorf("%s: PHP had %d requests at once; want at most %d", what, most, pace)
		}
	}
}

// TestAThousandLargeAnswersAreWhole has an application that sends 50 MiB to each of those
// who are woken at once.
func TestAThousandLargeAnswersAreWhole(t *testing.T) {
	needMemory(t)
	n := scale(1000, 5, 20)
	needDescriptors(t, 2*n)
	const pieces = 800
	piece := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	for _, options := range []string{"pace 20", ""} {
		app, address := newAsked(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close") // or some are kept open
			for range pieces {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		})
		s := startForwarding(t, address, options+"\n\t\t\ttimeout 10m") // for which one waits for its turn
		calm, before := countLeftovers(t, s), resident(t, s.Pid)
		cursor := comettest.Publish(t, s, "list=0").Cursor()
		all := connect(t, s, n)
		all.each(t, options, func(_ int, w *waiter) error { return w.ask("/list", "Comet-Cursor: "+cursor) })
		all.wantHeld(t, s, "list")
		start := time.Now()
		comettest.Publish(t, s, "list=1")
		all.each(t, options, func(_ int, w *waiter) error {
			defer w.conn.Close()
			res, err := http.ReadResponse(w.r, nil)
			if err != nil {
				return err
			}
			if res.StatusCode != 200 {
				return errors.New(res.Status)
			}
			got := make([]byte, len(piece))
			for range pieces {
				if _, err := io.ReadFull(res.Body, got); err != nil {
					return err
				}
				if !bytes.Equal(got, piece) {
					return errors.New("got something else")
				}
			}
			if more, err := res.Body.Read(got[:1]); more > 0 || err != io.EOF {
				return fmt.Errorf("and then %d bytes more, %v", more, err)
			}
			return nil
		})
		largest := mostResident(t, s.Pid)
		t.Logf("%q: %d answers of %d MiB in %s; the process has %d MiB at most, %d before", options, n, pieces*len(piece)>>20,
			time.Since(start).Round(time.Millisecond), largest>>10, before>>10)
		if asked := app.count(); asked != n {
			t.Errorf("%q: the application was asked %d times by %d clients", options, asked, n)
		}
		if more := (largest - before) >> 10; more > 400 { // 1 MiB a client would be a GiB
			t.Errorf("%q: the process has %d MiB more while they are answered", options, more)
		}
		wantCalm(t, s, calm)
	}
}
