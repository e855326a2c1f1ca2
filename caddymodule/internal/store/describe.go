package store

import (
	"sort"
	"time"
)

// FieldInfo is what there is to know of a field, its messages aside.
type FieldInfo struct {
	Field    string
	Watchers int
	Messages int       // that are kept, the value included
	Bytes    int64     // of its name and messages, as Limits.MaxMemory counts them
	Rate     float64   // messages a second over the last minute, as far as they are kept
	Last     time.Time // when it was last published; zero when it never was
}

// Names returns the names of all fields, in no order, those included that are
// only watched.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.fields))
	for name := range s.fields {
		names = append(names, name)
	}
	return names
}

// Describe returns what there is to know of those of the fields that exist.
func (s *Store) Describe(fields []string) []FieldInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	infos := make([]FieldInfo, 0, len(fields))
	for _, name := range fields {
		f := s.fields[name]
		if f == nil {
			continue
		}
		s.trim(f, now)
		kept := f.kept()
		old := sort.Search(len(kept), func(i int) bool { return now.Sub(kept[i].Time) < time.Minute })
		info := FieldInfo{
			Field:    f.name,
			Watchers: f.watchers,
			Messages: len(kept),
			Bytes:    nameSize(f.name) + f.bytes,
			Rate:     float64(len(kept)-old) / time.Minute.Seconds(),
		}
		if v := f.value(); v != nil {
			info.Last = v.Time
		}
		infos = append(infos, info)
	}
	return infos
}
