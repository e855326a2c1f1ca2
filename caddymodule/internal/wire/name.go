package wire

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// MaxName is how many bytes the name of a field or an event may have.
const MaxName = 255

// CheckName reports what keeps name from being one of a field or an event:
// it must have 1 to MaxName bytes of UTF-8 without control characters.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case len(name) > MaxName:
		return fmt.Errorf("has %d bytes, and at most %d are allowed", len(name), MaxName)
	case !utf8.ValidString(name):
		return errors.New("is not UTF-8")
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return errors.New("has a control character in it")
		}
	}
	return nil
}

// checkName makes an answer of what CheckName found.
func checkName(what, name string) *Error {
	if err := CheckName(name); err != nil {
		return badRequest("the name of the %s %.80q %v", what, name, err)
	}
	return nil
}

// reserved are the names that mean something in the query of a held request, or
// will. A field so named is watched by field=NAME.
var reserved = map[string]bool{
	"field": true, "after": true, "wait": true, "last": true, "format": true,
	"wrap": true, "callback": true, "event": true, "retry": true, "token": true,
	"sig": true, "until": true,
}

func isReserved(name string) bool {
	return reserved[name] || len(name) > 0 && name[0] == '_' ||
		len(name) >= len("comet_") && name[:len("comet_")] == "comet_"
}
