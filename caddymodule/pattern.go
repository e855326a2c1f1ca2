package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// pattern is what a hold route may watch: a name, in which "*" stands for any
// characters but "/", "**" for any, and placeholders for literal text.
type pattern []patternPart

type patternPart struct {
	kind partKind
	text string // of a literal, or the placeholder with its braces
}

type partKind uint8

const (
	literal partKind = iota
	star
	starStar
	placeholder
)

// parsePattern reads a pattern as it stands in the configuration.
func parsePattern(s string) (pattern, error) {
	if err := wire.CheckName(s); err != nil {
		return nil, fmt.Errorf("the field %q %w", s, err)
	}
	var p pattern
	addLiteral := func(text string) {
		if n := len(p); n > 0 && p[n-1].kind == literal {
			p[n-1].text += text
		} else {
			p = append(p, patternPart{literal, text})
		}
	}
	for s != "" {
		switch i := strings.IndexAny(s, "*{"); {
		case i < 0:
			addLiteral(s)
			s = ""
		case i > 0:
			addLiteral(s[:i])
			s = s[i:]
		case s[0] == '*':
			stars := len(s) - len(strings.TrimLeft(s, "*"))
			switch stars {
			case 1:
				p = append(p, patternPart{kind: star})
			case 2:
				p = append(p, patternPart{kind: starStar})
			default:
				return nil, errors.New("a field has at most two stars together: * is any characters but /, ** is any")
			}
			s = s[stars:]
		default:
			end := strings.IndexByte(s, '}')
			if end < 2 {
				return nil, fmt.Errorf("the placeholder that begins at %q does not end", s)
			}
			p = append(p, patternPart{placeholder, s[:end+1]})
			s = s[end+1:]
		}
	}
	return p, nil
}

// isPlain reports whether the pattern stands for one name, once its placeholders
// are expanded.
func (p pattern) isPlain() bool {
	for _, part := range p {
		if part.kind == star || part.kind == starStar {
			return false
		}
	}
	return true
}

// hasPlaceholder reports whether the pattern is not the same for every request.
func (p pattern) hasPlaceholder() bool {
	return slices.ContainsFunc(p, func(part patternPart) bool { return part.kind == placeholder })
}

// expand returns the pattern with its placeholders replaced by literal text. It
// returns an error for one that says nothing, or more than a part of a name may.
func (p pattern) expand(repl *caddy.Replacer) (pattern, error) {
	expanded := p
	for i, part := range p {
		if part.kind != placeholder {
			continue
		}
		text := repl.ReplaceAll(part.text, "")
		if text == "" || strings.Contains(text, "/") || strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
			return nil, fmt.Errorf("the placeholder %s is %q here, and that cannot be part of a field", part.text, text)
		}
		if &expanded[0] == &p[0] {
			expanded = append(pattern(nil), p...)
		}
		expanded[i] = patternPart{literal, text}
	}
	if expanded.isPlain() {
		if err := wire.CheckName(expanded.name()); err != nil {
			return nil, fmt.Errorf("the field %.80q %w", expanded.name(), err)
		}
	}
	return expanded, nil
}

// name returns the name that an expanded, plain pattern stands for.
func (p pattern) name() string {
	if len(p) == 1 {
		return p[0].text
	}
	var b strings.Builder
	for _, part := range p {
		b.WriteString(part.text)
	}
	return b.String()
}

// matches reports whether an expanded pattern stands for name. Its time is
// bounded by the product of their lengths, whatever the pattern.
func (p pattern) matches(name string) bool {
	if len(p) == 1 && p[0].kind == literal {
		return p[0].text == name
	}
	// reached[i] is whether the parts so far can stand for name[:i].
	reached := append(make([]bool, 0, 128), make([]bool, len(name)+1)...) // on the stack, mostly
	reached[0] = true
	for _, part := range p {
		if part.kind == literal {
			for i := len(name); i >= 0; i-- {
				from := i - len(part.text)
				reached[i] = from >= 0 && reached[from] && name[from:i] == part.text
			}
			continue
		}
		for i := 1; i <= len(name); i++ {
			if reached[i-1] && (part.kind == starStar || name[i-1] != '/') {
				reached[i] = true
			}
		}
	}
	return reached[len(name)]
}
