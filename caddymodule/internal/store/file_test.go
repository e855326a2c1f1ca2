package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnOrderlyExitIsGoneOnFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "comet", "default.store")
	s := New(DefaultLimits())
	if opened, err := s.Open(path); err != nil || !opened.Written.IsZero() {
		t.Fatalf("opened %+v, %v", opened, err)
	}
	start := s.Cursor()
	binary := "\x00\xff\n\"<"
	publish(t, s, "a", "1", "a", binary, "b", "x", "gone", "1")
	if _, _, err := s.Publish([]Publication{{Field: "j", Data: `{"a":1}`, Type: "application/json", Event: "added"}}); err != nil {
		t.Fatal(err)
	}
	s.Delete([]string{"gone"})
	end := s.Cursor()
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}

	again := New(DefaultLimits())
	opened, err := again.Open(path)
	if err != nil || opened.Fields != 3 || opened.Crashed || opened.SetAside != "" {
		t.Fatalf("opened %+v, %v", opened, err)
	}
	if again.Cursor() != end {
		t.Errorf("the cursor is %v, was %v", again.Cursor(), end)
	}
	wantTold(t, read(again, SinceFirst(), "a", "b", "j"), "a="+binary+` b=x j={"a":1}`)
	j := read(again, SinceLast(1), "j").Messages[0]
	was := read(s, SinceLast(1), "j").Messages[0]
	if j.Type != was.Type || j.Event != was.Event || !j.Time.Equal(was.Time) || j.Position != was.Position {
		t.Errorf("read %+v, was %+v", j, was)
	}
	wantTold(t, read(again, SinceCursor(end), "a", "b", "j", "gone"), "")
	wantTold(t, read(again, SinceCursor(start), "b"), "b=x") // nothing was lost of b
	wantTold(t, read(again, SinceCursor(start), "a"), "a="+binary+" !a")
	wantTold(t, read(again, SinceCursor(start), "gone"), "!gone")
	publish(t, again, "b", "y")
	wantTold(t, read(again, SinceCursor(end), "a", "b", "j"), "b=y")
	checkBooks(t, again)

	// It was not saved: the values are there, the cursors are not believed.
	crashed := New(DefaultLimits())
	if opened, err = crashed.Open(path); err != nil || !opened.Crashed || opened.Fields != 3 {
		t.Fatalf("opened %+v, %v", opened, err)
	}
	wantTold(t, read(crashed, SinceCursor(end), "b"), "b=x !b")
	if err := crashed.Save(path); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(path + "*")
	if len(left) != 1 {
		t.Errorf("files left: %q", left)
	}
}

func TestAFileThatCannotBeReadIsSetAside(t *testing.T) {
	s := New(DefaultLimits())
	publish(t, s, "a", "1", "b", "2")
	good := filepath.Join(t.TempDir(), "good")
	if err := s.Save(good); err != nil {
		t.Fatal(err)
	}
	content, _ := os.ReadFile(good)
	lines := strings.SplitAfter(string(content), "\n")
	for name, bad := range map[string]string{
		"empty":           "",
		"cut off":         lines[0] + lines[1],
		"cut in a line":   string(content[:len(content)/2]),
		"one line short":  lines[0] + lines[1] + lines[3],
		"later version":   strings.Replace(string(content), `"comet_store":1`, `"comet_store":2`, 1),
		"unknown member":  strings.Replace(string(content), `"position"`, `"pos"`, 1),
		"position beyond": strings.Replace(string(content), `"position":2,"floor"`, `"position":9,"floor"`, 1),
		"not ours":        "\x00\x01\x02",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "default.store")
			if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			s := New(DefaultLimits())
			opened, err := s.Open(path)
			if err != nil || opened.Cause == nil {
				t.Fatalf("opened %+v, %v", opened, err)
			}
			if kept, err := os.ReadFile(opened.SetAside); err != nil || string(kept) != bad {
				t.Errorf("set aside as %q: %v", opened.SetAside, err)
			}
			if s.Cursor().Position != 0 || len(s.fields) != 0 {
				t.Error("something of it was read")
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("it is still there")
			}
		})
	}
}

func TestAStoreThatCannotBeWrittenSaysSo(t *testing.T) {
	s := New(DefaultLimits())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(filepath.Join(file, "default.store")); err == nil {
		t.Error("a folder that is a file was used")
	}
	if err := s.Save(filepath.Join(file, "default.store")); err == nil {
		t.Error("a folder that is a file was written to")
	}
}

func TestReadingAFileObeysTheLimits(t *testing.T) {
	s := New(DefaultLimits())
	for i := range 100 {
		publish(t, s, strings.Repeat("f", i+1), strings.Repeat("x", 1000))
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	limits := DefaultLimits()
	limits.MaxFields, limits.FieldIdle = 10, time.Hour
	small := New(limits)
	defer small.Close()
	if opened, err := small.Open(path); err != nil || opened.Fields != 10 {
		t.Errorf("opened %+v, %v", opened, err)
	}
	wantTold(t, read(small, SinceCursor(Cursor{small.epoch, 1}), "ff"), "!ff")
	checkBooks(t, small)
}

func TestAFieldThatWasWatchedUntilTheExitIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(DefaultLimits())
		defer s.Close()
		publish(t, s, "watched", "1", "idle", "1")
		w, _ := watch(t, s, SinceNow(), "watched")
		defer w.End()
		time.Sleep(29 * 24 * time.Hour)
		path := filepath.Join(t.TempDir(), "s")
		if err := s.Save(path); err != nil {
			t.Fatal(err)
		}
		again := New(DefaultLimits())
		defer again.Close()
		if _, err := again.Open(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * 24 * time.Hour)
		again.mu.Lock()
		defer again.mu.Unlock()
		if again.fields["watched"] == nil || again.fields["idle"] != nil {
			t.Errorf("left: %v", again.fields)
		}
	})
}

func FuzzLoad(f *testing.F) {
	s := New(DefaultLimits())
	publish(f, s, "a", "1", "b", "2")
	var b strings.Builder
	if err := s.write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.String())
	f.Fuzz(func(t *testing.T, content string) {
		s := New(DefaultLimits())
		defer s.Close()
		_, err := s.load(strings.NewReader(content), true)
		if err != nil && (len(s.fields) != 0 || s.position != 0) {
			t.Error("half of it was read")
		}
		checkBooks(t, s)
		if c := s.Cursor(); err == nil {
			if _, err := ParseCursor(c.String()); err != nil {
				t.Errorf("its cursor %q cannot be read", c)
			}
		}
	})
}
