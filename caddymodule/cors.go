package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// CORS says which pages of other origins may read what a hold route answers: the
// browser keeps it from all others. With it the route answers preflight requests
// too.
type CORS struct {
	// Origins are the origins of the pages: scheme://host, with :port when it is
	// not the usual one of the scheme. `https://*.example.com` stands for all names
	// below example.com, and `*` for every origin.
	Origins []string `json:"origins,omitempty"`

	// Credentials lets pages send cookies and other credentials along. It does not
	// go together with the origin `*`.
	Credentials bool `json:"credentials,omitempty"`

	// MaxAge is how long a browser may go by the answer to a preflight request.
	// Default: 2h, the most that Chromium takes.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// PrivateNetwork lets pages of the public internet ask a server in a private
	// network, when their browser asks whether they may.
	PrivateNetwork bool `json:"private_network,omitempty"`

	listed []originPattern // the origins, as they were read
}

const defaultCORSMaxAge = caddy.Duration(2 * time.Hour)

// What a page may send and read beyond what every page may.
const (
	corsRequestHeaders = "Accept, Authorization, Cache-Control, Content-Type, Last-Event-ID"
	corsAnswerHeaders  = headerCursor + ", " + headerField + ", " + headerMissed + ", Retry-After"
)

var errNoOrigins = errors.New("it lists no origins, so nobody could use it: add them, as in origins https://app.example.com")

// provision checks the options.
func (c *CORS) provision() error {
	if len(c.Origins) == 0 {
		return errNoOrigins
	}
	if c.MaxAge < 0 {
		return errors.New("max_age is negative")
	}
	if c.MaxAge == 0 {
		c.MaxAge = defaultCORSMaxAge
	}
	return c.readOrigins()
}

// readOrigins reads the origins, as far as they are listed, and checks them.
func (c *CORS) readOrigins() error {
	c.listed = nil
	for _, s := range c.Origins {
		p, err := parseOrigin(s)
		if err != nil {
			return err
		}
		if slices.Contains(c.listed, p) {
			return fmt.Errorf("the origin %s is given twice", s)
		}
		c.listed = append(c.listed, p)
	}
	if c.Credentials && slices.Contains(c.listed, anyOrigin) {
		return errors.New("browsers refuse credentials where every origin is let in: list the origins in place of *, or leave credentials out")
	}
	return nil
}

// allows reports whether pages of an origin may read the answers.
func (c *CORS) allows(origin string) bool {
	origin = strings.ToLower(origin)
	return slices.ContainsFunc(c.listed, func(p originPattern) bool { return p.matches(origin) })
}

// allow says in the header of the answer to r whether the page that sent it may
// read it, and reports that.
func (c *CORS) allow(header http.Header, r *http.Request) bool {
	if slices.Contains(c.listed, anyOrigin) {
		header.Set("Access-Control-Allow-Origin", "*")
		return true
	}
	header.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !c.allows(origin) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin)
	if c.Credentials {
		header.Set("Access-Control-Allow-Credentials", "true")
	}
	return true
}

// ancestors returns the pages that may have what a hold route answers in a frame, as
// a Content-Security-Policy lists them: those of the site, and of the origins.
func (c *CORS) ancestors() string {
	switch {
	case c == nil:
		return "'self'"
	case slices.Contains(c.listed, anyOrigin):
		return "*"
	default:
		return "'self' " + strings.Join(c.Origins, " ")
	}
}

// expose is allow for what is not a preflight request.
func (c *CORS) expose(header http.Header, r *http.Request) {
	if c.allow(header, r) {
		header.Set("Access-Control-Expose-Headers", corsAnswerHeaders)
	}
}

// isPreflight reports whether a browser asks by r what a page may ask.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// answerPreflight answers a preflight request, at a route that has CORS.
func (h *Hold) answerPreflight(w http.ResponseWriter, r *http.Request) error {
	header := w.Header()
	if !h.CORS.allow(header, r) {
		return h.refuse(w, r, wire.Text, wire.Errorf(http.StatusForbidden, "%s", notAllowed(r.Header.Get("Origin"))))
	}
	header.Set("Access-Control-Allow-Methods", wire.HoldMethods+", POST") // a session is changed by POST
	header.Set("Access-Control-Allow-Headers", corsRequestHeaders)
	seconds := (time.Duration(h.CORS.MaxAge) + time.Second - 1) / time.Second
	header.Set("Access-Control-Max-Age", strconv.FormatInt(int64(seconds), 10))
	if h.CORS.PrivateNetwork && r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		header.Set("Access-Control-Allow-Private-Network", "true")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// notAllowed says that an origin is not listed, and what to add when it can be.
func notAllowed(origin string) string {
	line := fmt.Sprintf("pages of the origin %.300q may not ask here", origin)
	if _, err := parseOrigin(origin); err != nil {
		return line
	}
	return line + fmt.Sprintf("; to let them, add `origins %s` to the cors block of this route", origin)
}

// originPattern is an origin, or the origins of all names below one.
type originPattern struct {
	prefix, suffix string // of the origin, as the Fetch standard serialises it
	wildcard       bool   // between them are labels
}

// anyOrigin is what `*` stands for.
var anyOrigin = originPattern{wildcard: true}

// matches reports whether it stands for an origin, which is in lower case.
func (p originPattern) matches(origin string) bool {
	if !p.wildcard || p == anyOrigin {
		return p == anyOrigin || origin == p.prefix
	}
	rest, starts := strings.CutPrefix(origin, p.prefix)
	labels, ends := strings.CutSuffix(rest, p.suffix)
	return starts && ends && isHostName(labels)
}

// originForm is how an origin is written: a scheme, a wildcard, a host and a port.
var originForm = regexp.MustCompile(`^([a-z][a-z0-9+.-]*)://(\*\.)?([^][/?#@:*\s]+|\[[0-9a-f:.]+\])(?::([0-9]+))?$`)

// usualPorts are the ports that an origin does not name.
var usualPorts = map[string]string{"http": "80", "https": "443"}

// originHost makes of a host with other letters than ASCII what browsers do.
var originHost = idna.New(idna.MapForLookup(), idna.BidiRule())

// parseOrigin reads an entry of the origins.
func parseOrigin(s string) (originPattern, error) {
	if s == "*" {
		return anyOrigin, nil
	}
	form := originForm.FindStringSubmatch(strings.ToLower(s))
	if form == nil {
		return originPattern{}, notAnOrigin(s)
	}
	scheme, wildcard, host, port := form[1], form[2] != "", form[3], form[4]
	if scheme == "ws" || scheme == "wss" {
		return originPattern{}, fmt.Errorf("no page has the origin %q: write https:// or http://, for WebSocket too", s)
	}
	if address, isIPv6 := strings.CutPrefix(host, "["); isIPv6 {
		ip, err := netip.ParseAddr(strings.TrimSuffix(address, "]"))
		if err != nil || wildcard {
			return originPattern{}, notAnOrigin(s)
		}
		host = "[" + ip.String() + "]"
	} else if !isHostName(host) {
		ascii, err := originHost.ToASCII(host)
		if err != nil || !isHostName(ascii) {
			return originPattern{}, notAnOrigin(s)
		}
		host = ascii
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return originPattern{}, fmt.Errorf("the port of %q is more than 65535", s)
		}
		if port = strconv.FormatUint(n, 10); port != usualPorts[scheme] {
			host += ":" + port
		}
	}
	if wildcard {
		return originPattern{prefix: scheme + "://", suffix: "." + host, wildcard: true}, nil
	}
	return originPattern{prefix: scheme + "://" + host}, nil
}

// isHostName reports whether s has nothing but what the names of hosts are made of.
func isHostName(s string) bool {
	return s != "" && strings.TrimLeft(s, "abcdefghijklmnopqrstuvwxyz0123456789-._") == ""
}

// notAnOrigin says what is wrong with an origin.
func notAnOrigin(s string) error {
	isOrigin := func(s string) bool {
		_, err := parseOrigin(s)
		return err == nil
	}
	if s == "null" {
		return errors.New("null is not one origin but what all pages without one send: only * lets them in")
	}
	if !strings.Contains(s, "://") && isOrigin("https://"+s) {
		return fmt.Errorf("the origin %q has no scheme: write https://%[1]s", s)
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		if host, _, ok := strings.Cut(rest, "/"); ok && isOrigin(scheme+"://"+host) {
			return fmt.Errorf("an origin has no path, as %q has: write %s://%s", s, scheme, host)
		}
	}
	return fmt.Errorf("%q is no origin: write a scheme and a host, and a port if need be, as in https://app.example.com:8443, https://*.example.com, or * for every origin", s)
}
