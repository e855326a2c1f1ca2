package wire

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// MaxChange is how large a request may be that changes what a stream watches, in
// bytes.
const MaxChange = 32 << 10

// Change is what a request asks for that changes what a stream watches.
type Change struct {
	Watch, Unwatch []string // each name once in a list

	// After is the cursor after which the client wants the messages of the fields in
	// Watch; nil: from where the stream is.
	After *store.Cursor
}

// SessionOf returns the session that a query names, empty when it names none.
func SessionOf(query string) string {
	if !strings.Contains(query, "session=") {
		return ""
	}
	pairs, err := parseQuery(query)
	if err != nil {
		return ""
	}
	return first(pairs, "session")
}

// ReadChange reads the body of such a request: an object with the members watch and
// unwatch, lists of names, and after, a cursor; all may be left out.
func ReadChange(route HoldRoute, body string) (Change, *Error) {
	var c Change
	var given struct {
		Watch   []string `json:"watch"`
		Unwatch []string `json:"unwatch"`
		After   *string  `json:"after"`
	}
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&given); err != nil {
		const form = `the body is not as in {"watch":["news"],"unwatch":["id"],"after":"CURSOR"}`
		if member, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return c, badRequest("%s: there is no member %.80s", form, member)
		}
		return c, badRequest("%s", form)
	}
	if decoder.More() {
		return c, badRequest("there is something after the object in the body")
	}
	var e *Error
	if c.Watch, e = readNames(given.Watch); e != nil {
		return c, e
	}
	if c.Unwatch, e = readNames(given.Unwatch); e != nil {
		return c, e
	}
	if e := c.Check(route); e != nil {
		return c, e
	}
	if given.After != nil && *given.After != "" {
		cursor, err := store.ParseCursor(*given.After)
		if err != nil {
			return c, badRequest("after %.80q is not a cursor; send one that an answer gave you", *given.After)
		}
		c.After = &cursor
	}
	return c, nil
}

// Check reports what is to be watched that the route does not allow.
func (c *Change) Check(route HoldRoute) *Error {
	for _, name := range c.Watch {
		if e := route.check(name); e != nil {
			return e
		}
	}
	return nil
}

// readNames returns a list of names of fields, each once.
func readNames(given []string) ([]string, *Error) {
	if len(given) > MaxFields {
		return nil, errTooMany
	}
	var once []string
	for _, name := range given {
		if e := checkName("field", name); e != nil {
			return nil, e
		}
		if !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once, nil
}

// Apply returns what is watched after the change by who watched fields before.
func (c *Change) Apply(fields []string) ([]string, *Error) {
	after := make([]string, 0, len(fields)) // which JSON is not to call null
	for _, name := range fields {
		if !slices.Contains(c.Unwatch, name) {
			after = append(after, name)
		}
	}
	for _, name := range c.Watch {
		if !slices.Contains(after, name) {
			after = append(after, name)
		}
	}
	if len(after) > MaxFields {
		return nil, errTooMany
	}
	return after, nil
}

var errTooMany = badRequest("a request may watch at most %d fields", MaxFields)

// Watched returns what a client is told of what its stream watches now.
func Watched(cursor store.Cursor, fields []string) []byte {
	b := append(append([]byte(`{"cursor":"`), cursor.String()...), `",`...)
	return append(appendWatched(b, fields), "}\n"...)
}

// appendWatched appends the member of an object that says what is watched.
func appendWatched(b []byte, fields []string) []byte {
	b = append(b, `"watch":[`...)
	for i, name := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, name)
	}
	return append(b, ']')
}
