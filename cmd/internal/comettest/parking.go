package comettest

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Parking returns what the environment variable COMET_PARKING says of how the
// servers of this run hold requests: "" leaves it to their Caddyfiles, "off" has
// all hold on goroutines, "trim_tls" has them trim parked TLS connections. Any other
// value is put into the Caddyfile too.
func Parking() string { return os.Getenv("COMET_PARKING") }

// WithParking is COMET_PARKING for one server. A binary that does not know the option
// holds on goroutines whatever it is told, and is told nothing.
func WithParking(value string) Option {
	return func(s *Server) { s.parking = &value }
}

// known is what the binary under test was found to understand.
var known struct {
	sync.Mutex
	words map[string]bool
}

// Knows says whether the binary takes a global options block with these lines.
func Knows(t testing.TB, lines string) bool {
	t.Helper()
	known.Lock()
	defer known.Unlock()
	is, asked := known.words[lines]
	if !asked {
		is = Adapt(t, "{\n"+lines+"\n}\n").Code == 0
		if known.words == nil {
			known.words = map[string]bool{}
		}
		known.words[lines] = is
	}
	return is
}

// KnowsParking says whether the binary has the option parking.
func KnowsParking(t testing.TB) bool {
	t.Helper()
	return Knows(t, "comet {\n\tparking off\n}")
}

// Parks says whether a server that is told nothing more of it parks what it can.
func Parks(t testing.TB) bool {
	t.Helper()
	return runtime.GOOS == "linux" && Parking() != "off" && KnowsParking(t)
}

// parked returns a Caddyfile as the server is given it.
func (s *Server) parked(text string) string {
	if s.parking != nil {
		return injectParking(text, *s.parking)
	}
	return injectParking(text, Parking())
}

// injectParking puts `parking value` into the global options of a Caddyfile: into the
// `comet` block there, or into a new one. What says something of parking already, and
// what cannot be read, stays as it is.
func injectParking(text, value string) string {
	if value == "" {
		return text
	}
	line := "parking " + value
	tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
	if err != nil {
		return text
	}
	if len(tokens) == 0 || !isBrace(tokens[0], "{") {
		return "{\n\tcomet {\n\t\t" + line + "\n\t}\n}\n" + text
	}
	lines := strings.SplitAfter(text, "\n")
	after := func(number int, added string) string {
		return strings.Join(slices.Insert(lines, number, added), "")
	}
	depth := 0
	for i, token := range tokens {
		first := i == 0 || tokens[i-1].Line < token.Line
		switch {
		case isBrace(token, "{"):
			depth++
		case isBrace(token, "}"):
			if depth--; depth == 0 {
				return after(tokens[0].Line, "\tcomet {\n\t\t"+line+"\n\t}\n")
			}
		case depth == 1 && first && token.Text == "comet":
			next := tokens[min(i+1, len(tokens)-1)]
			switch {
			case next.Line > token.Line: // it has no block
				at := token.Line - 1
				end := strings.TrimRight(lines[at], "\r\n")
				lines[at] = strings.Replace(end, "comet", "comet {\n\t\t"+line+"\n\t}", 1) + lines[at][len(end):]
				return strings.Join(lines, "")
			case isBrace(next, "{"):
				if says(tokens[i+2:], "parking") {
					return text
				}
				return after(next.Line, "\t\t"+line+"\n")
			}
		}
	}
	return text
}

// says tells whether a line of the block that tokens begin in starts with word.
func says(tokens []caddyfile.Token, word string) bool {
	depth := 0
	for i, token := range tokens {
		switch {
		case isBrace(token, "{"):
			depth++
		case isBrace(token, "}"):
			if depth--; depth < 0 {
				return false
			}
		case depth == 0 && token.Text == word && (i == 0 || tokens[i-1].Line < token.Line):
			return true
		}
	}
	return false
}

func isBrace(token caddyfile.Token, brace string) bool {
	return token.Text == brace && !token.Quoted()
}
