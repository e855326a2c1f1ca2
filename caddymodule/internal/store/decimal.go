package store

import (
	"errors"
	"strings"
)

// errNotNumber is returned by nextWhole for a value that is no decimal number.
var errNotNumber = errors.New("the value is not a decimal number")

// decimal is a decimal number of any length, taken apart: an optional minus,
// digits, and an optional point with digits. Leading zeros of the whole part
// and trailing zeros of the fraction are gone, and zero is never negative.
type decimal struct {
	negative        bool
	whole, fraction string
}

// parseDecimal reports whether s is a decimal number, and takes it apart.
func parseDecimal(s string) (decimal, bool) {
	rest, negative := strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(rest, ".")
	if !isDigits(whole) || (point && !isDigits(fraction)) {
		return decimal{}, false
	}
	d := decimal{
		negative: negative,
		whole:    strings.TrimLeft(whole, "0"),
		fraction: strings.TrimRight(fraction, "0"),
	}
	if d.whole == "" && d.fraction == "" {
		d.negative = false
	}
	return d, true
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// compare returns -1, 0 or 1 as a is less than, equal to or greater than b.
func (a decimal) compare(b decimal) int {
	if a.negative != b.negative {
		if a.negative {
			return -1
		}
		return 1
	}
	if a.negative {
		a, b = b, a
	}
	if len(a.whole) != len(b.whole) {
		if len(a.whole) < len(b.whole) {
			return -1
		}
		return 1
	}
	if c := strings.Compare(a.whole, b.whole); c != 0 {
		return c
	}
	return strings.Compare(a.fraction, b.fraction)
}

// nextWhole returns the smallest whole number greater than value.
func nextWhole(value string) (string, error) {
	d, ok := parseDecimal(value)
	if !ok {
		return "", errNotNumber
	}
	if !d.negative {
		return string(increment([]byte("0" + d.whole))), nil
	}
	if d.fraction == "" {
		d.whole = string(decrement([]byte(d.whole)))
	}
	if d.whole == "" {
		return "0", nil
	}
	return "-" + d.whole, nil
}

// increment adds one to a whole number that begins with a zero.
func increment(digits []byte) []byte {
	i := len(digits) - 1
	for ; digits[i] == '9'; i-- {
		digits[i] = '0'
	}
	digits[i]++
	if digits[0] == '0' {
		return digits[1:]
	}
	return digits
}

// decrement takes one from a whole number greater than zero. Zero is empty.
func decrement(digits []byte) []byte {
	i := len(digits) - 1
	for ; digits[i] == '0'; i-- {
		digits[i] = '9'
	}
	digits[i]--
	if digits[0] == '0' {
		return digits[1:]
	}
	return digits
}
