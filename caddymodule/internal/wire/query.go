package wire

import (
	"net/url"
	"strings"
)

// pair is a name and a value of a query or a form, in its place.
type pair struct {
	name, value string
	assigned    bool // there was a "="
}

// parseQuery reads a query, or a form, in its order. It is strict where
// url.ParseQuery is not, because nothing may be published in part.
func parseQuery(s string) ([]pair, error) {
	if s == "" {
		return nil, nil
	}
	var pairs []pair
	for part := range strings.SplitSeq(s, "&") {
		if part == "" {
			continue
		}
		name, value, assigned := strings.Cut(part, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, err
		}
		value, err = url.QueryUnescape(value)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair{name, value, assigned})
	}
	return pairs, nil
}

// all returns the values that name has.
func all(pairs []pair, name string) []string {
	var values []string
	for _, p := range pairs {
		if p.name == name {
			values = append(values, p.value)
		}
	}
	return values
}

// first returns the first value that name has and that is not empty.
func first(pairs []pair, name string) string {
	for _, p := range pairs {
		if p.name == name && p.value != "" {
			return p.value
		}
	}
	return ""
}
