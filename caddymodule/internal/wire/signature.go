package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signature is who let a request watch its fields, and until when: the application,
// which knows one of the keys.
type Signature struct {
	Fields []string // as they are signed
	Until  time.Time

	until string
	mac   []byte
}

// ReadSignature reads what a query says of its signature:
// `field=inbox/42&until=UNIX&sig=HEX`. The error says what is missing.
func ReadSignature(query string) (Signature, error) {
	pairs, err := parseQuery(query)
	if err != nil {
		return Signature{}, err
	}
	s := Signature{until: first(pairs, "until")}
	s.Fields = slices.DeleteFunc(all(pairs, "field"), func(name string) bool { return name == "" })
	seconds, err := strconv.ParseUint(s.until, 10, 48)
	switch s.mac, _ = hex.DecodeString(first(pairs, "sig")); {
	case len(s.Fields) == 0:
		return s, errors.New("it names no field by field=")
	case err != nil:
		return s, errors.New("until= is not a time as seconds since 1970")
	case len(s.mac) != sha256.Size:
		return s, errors.New("sig= is not 64 hexadecimal digits")
	}
	s.Until = time.Unix(int64(seconds), 0)
	return s, nil
}

// IsBy reports whether the signature was made with a key: whether it is the
// HMAC-SHA-256 of the names of the fields, each with a newline behind it, and the time
// as the query has it.
func (s *Signature) IsBy(key string) bool {
	h := hmac.New(sha256.New, []byte(key))
	_, _ = h.Write([]byte(strings.Join(s.Fields, "\n") + "\n" + s.until)) // cannot fail
	return hmac.Equal(h.Sum(nil), s.mac)
}
