package store

import (
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
)

// Position is the number of a message in its store. It grows by one with every
// message and every deletion, over all fields. Zero is before the first.
type Position uint64

// Cursor is a position and the epoch it counts in. A store that starts empty
// begins a new epoch, so a cursor of an earlier one is recognized.
type Cursor struct {
	Epoch    string
	Position Position
}

// ErrCursor is returned by ParseCursor for a text that no store has issued.
var ErrCursor = errors.New("not a cursor")

const (
	epochLen    = 10
	maxEpochLen = 32
)

// String returns the cursor as clients carry it: opaque to them, and safe in a
// header, a query and an event stream.
func (c Cursor) String() string {
	b := make([]byte, 0, len(c.Epoch)+21)
	b = append(b, c.Epoch...)
	b = append(b, '.')
	return string(strconv.AppendUint(b, uint64(c.Position), 10))
}

// ParseCursor reads what String wrote. It returns ErrCursor for anything else.
func ParseCursor(s string) (Cursor, error) {
	epoch, number, ok := strings.Cut(s, ".")
	if !ok || epoch == "" || len(epoch) > maxEpochLen {
		return Cursor{}, ErrCursor
	}
	for i := range len(epoch) {
		if c := epoch[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return Cursor{}, ErrCursor
		}
	}
	if number == "" || number[0] == '+' || (number[0] == '0' && number != "0") {
		return Cursor{}, ErrCursor
	}
	position, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Cursor{}, ErrCursor
	}
	return Cursor{Epoch: epoch, Position: Position(position)}, nil
}

// newEpoch returns a name that no earlier epoch had.
func newEpoch() string {
	return strings.ToLower(rand.Text()[:epochLen])
}
