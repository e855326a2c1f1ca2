package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// access says who may publish. With neither addresses nor tokens that is this
// machine; with tokens alone, who has one, from anywhere; with both, who has a
// token and such an address.
type access struct {
	addresses *caddyhttp.MatchClientIP // nil: not asked for
	unix      bool                     // peers on unix sockets too
	tokens    [][sha256.Size]byte
}

// The words that an allow list may have beside addresses and CIDRs.
const (
	allowPrivate = "private_ranges"
	allowUnix    = "unix"
)

// checkAllow reports what is wrong with an entry of an allow list.
func checkAllow(entry string) error {
	if entry == allowPrivate || entry == allowUnix || strings.Contains(entry, "{") {
		return nil
	}
	address, _, _ := strings.Cut(entry, "%")
	if _, err := netip.ParseAddr(address); err == nil {
		return nil
	}
	if _, err := netip.ParsePrefix(entry); err == nil {
		return nil
	}
	return fmt.Errorf("%q is not an address, a CIDR such as 10.1.0.0/16, %s or %s", entry, allowPrivate, allowUnix)
}

func (a *access) provision(ctx caddy.Context, server *caddyhttp.Server, allow, tokens []string) error {
	if len(allow) > 0 {
		if lax, err := believesClients(server); err != nil {
			return err
		} else if lax {
			return errors.New("allow goes by the client address, and this server has trusted_proxies without trusted_proxies_strict: " +
				"the address would be what the client says of itself; add trusted_proxies_strict to the servers global option")
		}
		a.addresses = new(caddyhttp.MatchClientIP)
	}
	for _, entry := range allow {
		if err := checkAllow(entry); err != nil {
			return err
		}
		switch entry {
		case allowPrivate:
			a.addresses.Ranges = append(a.addresses.Ranges, caddyhttp.PrivateRangesCIDR()...)
		case allowUnix:
			a.unix = true
		default:
			a.addresses.Ranges = append(a.addresses.Ranges, entry)
		}
	}
	if a.addresses != nil {
		if err := a.addresses.Provision(ctx); err != nil {
			return fmt.Errorf("allow: %w", err)
		}
	}
	for _, token := range tokens {
		secret, err := expandSecret("token", token)
		if err != nil {
			return err
		}
		if secret = strings.TrimSpace(secret); secret == "" {
			return fmt.Errorf("the token %s is empty; is the variable set?", token)
		}
		a.tokens = append(a.tokens, sha256.Sum256([]byte(secret)))
	}
	return nil
}

// expandSecret returns what a token or a key stands for. An unknown placeholder would
// be one that everybody can guess.
func expandSecret(what, s string) (string, error) {
	secret, err := caddy.NewReplacer().ReplaceOrErr(s, true, true)
	if err != nil {
		return "", fmt.Errorf("the %s %s cannot be expanded: %w; is the variable set?", what, s, err)
	}
	return secret, nil
}

// believesClients reports whether the server takes the left-most address of
// X-Forwarded-For, which is the client's own word, for the client's.
func believesClients(server *caddyhttp.Server) (bool, error) {
	if server == nil || server.TrustedProxiesStrict > 0 {
		return false, nil
	}
	if server.TrustedProxiesUnix {
		return true, nil
	}
	// Nothing public tells, once the module is loaded.
	proxies := reflect.ValueOf(server).Elem().FieldByName("trustedProxies")
	if !proxies.IsValid() || proxies.Kind() != reflect.Interface {
		return false, errors.New("this version of Caddy does not tell whether the server has trusted_proxies: use a token instead of allow")
	}
	return !proxies.IsNil(), nil
}

// denial is why a request may not publish. The caller is told the status alone;
// the reason is for the log.
type denial struct {
	status int
	kind   string // what the metric calls it
	reason string
}

// The kinds of denials.
const (
	deniedAddress = "address"
	deniedToken   = "token"
	deniedPage    = "page"
	deniedHost    = "host"
)

func forbidden(kind, format string, args ...any) *denial {
	return &denial{http.StatusForbidden, kind, fmt.Sprintf(format, args...)}
}

// check returns why r may not publish, nil when it may. It returns an error when
// that cannot be known yet: 425.
func (a *access) check(r *http.Request, isSiteName func(*http.Request) bool) (*denial, error) {
	denied, err := a.checkAddress(r)
	if denied != nil || err != nil {
		return denied, err
	}
	if len(a.tokens) > 0 {
		return a.checkToken(r), nil
	}
	// A web page can make a browser of this machine, or of a machine in the list,
	// send almost any request, and a name that it resolves anew gives it the
	// answers too. No backend sends these.
	if origin := r.Header.Get("Origin"); origin != "" {
		return forbidden(deniedPage, "a web page sent it: it has Origin %q", origin), nil
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" {
		return forbidden(deniedPage, "a web page sent it: it has Sec-Fetch-Site %q", site), nil
	}
	host := hostOf(r)
	if _, err := netip.ParseAddr(host); err != nil && !strings.EqualFold(host, "localhost") && !isSiteName(r) {
		return forbidden(deniedHost, "its Host %q is not a name of the site, localhost or an IP address", r.Host), nil
	}
	return nil, nil
}

func (a *access) checkAddress(r *http.Request) (*denial, error) {
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		// 0-RTT: anybody may have sent it, from any address, and more than once
		return nil, caddyhttp.Error(http.StatusTooEarly, errors.New("the TLS handshake is not complete"))
	}
	if a.addresses == nil {
		if len(a.tokens) == 0 {
			if reason := notThisMachine(r); reason != "" {
				return forbidden(deniedAddress, "only this machine may publish: %s", reason), nil
			}
		}
		return nil, nil
	}
	if isUnix(r) && !clientAddr(r).IsValid() {
		if a.unix {
			return nil, nil
		}
		return forbidden(deniedAddress, "a unix socket is not in the allow list"), nil
	}
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); isTrustedProxy(r) && (!ok || server.TrustedProxiesStrict == 0) {
		return forbidden(deniedAddress, "the address is the client's own word"), nil
	}
	if !clientAddr(r).IsValid() {
		return forbidden(deniedAddress, "the client has no address"), nil
	}
	switch allowed, err := a.addresses.MatchWithError(r); {
	case err != nil:
		return nil, err
	case !allowed:
		return forbidden(deniedAddress, "the address %s is not in the allow list", clientAddr(r)), nil
	}
	return nil, nil
}

func (a *access) checkToken(r *http.Request) *denial {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(token) == "" {
		return &denial{http.StatusUnauthorized, deniedToken, "it has no token"}
	}
	// Hashed, so that the time tells nothing of length or content.
	given := sha256.Sum256([]byte(strings.TrimSpace(token)))
	equal := 0
	for i := range a.tokens {
		equal |= subtle.ConstantTimeCompare(given[:], a.tokens[i][:])
	}
	if equal == 0 {
		return &denial{http.StatusUnauthorized, deniedToken, "its token is wrong"}
	}
	return nil
}
