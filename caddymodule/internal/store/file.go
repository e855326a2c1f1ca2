package store

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A store is written at an orderly exit and read at the next start: its epoch,
// its position and the value of each field, not the messages before it.
//
// The file is a JSON object a line: a fileHead, a fileField for each value, and
// a fileEnd, without which it is not whole. While a store is open its file is
// named FILE.open: when there is one at a start, the last exit was not orderly.
// The values of then are still the best there is, but the cursors given out
// since cannot be told from those that are still to come, so the store goes on
// in a new epoch.
type (
	fileHead struct {
		Version   int       `json:"comet_store"`
		Epoch     string    `json:"epoch"`
		Position  Position  `json:"position"`
		Forgotten Position  `json:"forgotten"`
		Written   time.Time `json:"written"`
	}
	fileField struct {
		Field    string    `json:"field"`
		Data     []byte    `json:"data"`
		Type     string    `json:"type,omitempty"`
		Event    string    `json:"event,omitempty"`
		Time     time.Time `json:"time"`
		Active   time.Time `json:"active"` // when it was last published or watched
		Position Position  `json:"position"`
		Floor    Position  `json:"floor"`
	}
	fileEnd struct {
		Fields *int `json:"fields"`
	}
)

const fileVersion = 1

// openSuffix is on the name of the file of a store that is open.
const openSuffix = ".open"

// Opened says what Open found.
type Opened struct {
	Fields  int       // values that were read
	Written time.Time // when they were written; zero when there was no file

	// Crashed is whether the last exit was not orderly: the values are those of
	// the exit before it, and the epoch is a new one.
	Crashed bool

	// SetAside is the new name of a file that could not be read, and Cause why.
	SetAside string
	Cause    error
}

// Open reads the file at path into the store, which must be empty. A file that
// cannot be read is renamed, and the store stays empty. It returns an error when
// the folder cannot be used.
func (s *Store) Open(path string) (Opened, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Opened{}, err
	}
	var opened Opened
	name := path
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		name = path + openSuffix
		if file, err = os.Open(name); errors.Is(err, fs.ErrNotExist) {
			return opened, nil
		}
		opened.Crashed = true
	}
	if err == nil {
		opened.Written, err = s.load(file, !opened.Crashed)
		_ = file.Close()
	}
	if err != nil {
		opened.Cause = err
		opened.SetAside = fmt.Sprintf("%s.unreadable-%s", path, time.Now().UTC().Format("20060102T150405.000"))
		return opened, os.Rename(name, opened.SetAside)
	}
	s.mu.Lock()
	opened.Fields = s.published
	s.mu.Unlock()
	return opened, os.Rename(name, path+openSuffix)
}

// Save writes the store to path: whole, and then renamed, so that there is never
// half a file.
func (s *Store) Save(path string) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	err = s.write(file)
	if err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return err
	}
	if err = os.Remove(path + openSuffix); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

func (s *Store) write(w io.Writer) error {
	s.mu.Lock()
	head := fileHead{
		Version:   fileVersion,
		Epoch:     s.epoch,
		Position:  s.position,
		Forgotten: s.forgotten,
		Written:   time.Now().UTC(),
	}
	fields := make([]fileField, 0, s.published)
	for _, f := range s.fields {
		m := f.value()
		if m == nil {
			// It goes with its watchers, and what is known of it with it.
			head.Forgotten = max(head.Forgotten, f.floor)
			continue
		}
		floor := f.floor
		if kept := f.kept(); len(kept) > 1 {
			floor = kept[len(kept)-2].Position
		}
		active := f.active
		if f.watchers > 0 {
			active = head.Written
		}
		fields = append(fields, fileField{m.Field, []byte(m.Data), m.Type, m.Event, m.Time, active, m.Position, floor})
	}
	s.mu.Unlock()
	slices.SortFunc(fields, func(a, b fileField) int {
		if a.Position < b.Position {
			return -1
		}
		return 1
	})

	buffer := bufio.NewWriterSize(w, 64<<10)
	encoder := json.NewEncoder(buffer)
	if err := encoder.Encode(head); err != nil {
		return err
	}
	for i := range fields {
		if err := encoder.Encode(&fields[i]); err != nil {
			return err
		}
	}
	n := len(fields)
	if err := encoder.Encode(fileEnd{&n}); err != nil {
		return err
	}
	return buffer.Flush()
}

// load reads what write wrote, and changes the store only when it is whole.
// Unless sameEpoch, the store keeps its own epoch.
func (s *Store) load(r io.Reader, sameEpoch bool) (written time.Time, err error) {
	decoder := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	decoder.DisallowUnknownFields()
	var head fileHead
	if err := decoder.Decode(&head); err != nil {
		return written, fmt.Errorf("reading its first line: %w", err)
	}
	if head.Version != fileVersion {
		return written, fmt.Errorf("it is of version %d, not %d", head.Version, fileVersion)
	}
	if _, err := ParseCursor(Cursor{head.Epoch, head.Position}.String()); err != nil {
		return written, fmt.Errorf("its epoch %q is not one", head.Epoch)
	}
	var fields []fileField
	for {
		var line struct {
			fileField
			fileEnd
		}
		if err := decoder.Decode(&line); err != nil {
			return written, fmt.Errorf("it is cut off or damaged after %d fields: %w", len(fields), err)
		}
		if line.Fields != nil {
			if *line.Fields != len(fields) {
				return written, fmt.Errorf("it has %d fields and should have %d", len(fields), *line.Fields)
			}
			break
		}
		f := line.fileField
		if f.Field == "" || f.Position > head.Position || f.Floor >= f.Position {
			return written, fmt.Errorf("field %q has position %d and floor %d of %d", f.Field, f.Position, f.Floor, head.Position)
		}
		if n := len(fields); n > 0 && f.Position <= fields[n-1].Position {
			return written, fmt.Errorf("field %q is out of order", f.Field)
		}
		fields = append(fields, f)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if sameEpoch {
		s.epoch = head.Epoch
	}
	s.position, s.forgotten = head.Position, head.Forgotten
	now := time.Now()
	for _, line := range fields {
		f := s.field(line.Field)
		f.floor = line.Floor
		s.position = line.Position - 1
		s.append(f, &Message{
			Field: f.name, Data: string(line.Data), Type: line.Type, Event: line.Event, Time: line.Time,
		}, now)
	}
	s.position = head.Position
	slices.SortStableFunc(fields, func(a, b fileField) int { return a.Active.Compare(b.Active) })
	for _, line := range fields {
		if f := s.fields[line.Field]; f != nil && f.idle {
			s.idle.remove(f)
			f.active = line.Active
			s.idle.push(f)
		}
	}
	s.makeRoom()
	s.sweep(now)
	return head.Written, nil
}
