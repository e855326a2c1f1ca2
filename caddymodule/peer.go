package caddymodule

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// connKey is the context key of the connection of a request, on HTTP/1 and 2.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// forwardingHeaders say that a request came through a proxy. Those that end in a
// hyphen are prefixes.
var forwardingHeaders = []string{
	"Forwarded", "Via", "X-Forwarded-", "X-Real-Ip", "X-Client-Ip",
	"X-Cluster-Client-Ip", "True-Client-Ip", "Cf-", "Fastly-Client-Ip",
}

// forwardingHeader returns the name of a header that says that the request came
// through a proxy, empty when there is none.
func forwardingHeader(r *http.Request) string {
	for name := range r.Header {
		if isListed(name, forwardingHeaders) {
			return name
		}
	}
	return ""
}

// isListed reports whether a header is in a list, in which those that end in a hyphen are
// prefixes.
func isListed(name string, list []string) bool {
	return slices.ContainsFunc(list, func(h string) bool {
		return name == h || strings.HasSuffix(h, "-") && strings.HasPrefix(name, h)
	})
}

// notThisMachine returns what keeps a request from being of this machine: it is
// when a loopback peer made it by itself. Empty means that it is.
func notThisMachine(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return "the peer is not a loopback address"
	}
	if h := forwardingHeader(r); h != "" {
		return "the request was forwarded: it has the header " + h
	}
	if r.ProtoMajor >= 3 {
		return ""
	}
	// The address may be one that a listener wrapper was told, as by the PROXY
	// protocol. What the system says of the socket is what counts.
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	socket, ok := unwrapConn(conn).(*net.TCPConn)
	if !ok {
		return "the connection is not known to be a TCP connection of this machine"
	}
	if socket.RemoteAddr().String() != r.RemoteAddr {
		return "the peer's address is from the PROXY protocol, or another listener wrapper"
	}
	return ""
}

// unwrapConn returns the innermost connection of c that can be told: through
// crypto/tls, go-proxyproto, and the wrappers that embed a net.Conn, as those of
// Caddy do.
func unwrapConn(c net.Conn) net.Conn {
	for c != nil {
		var inner net.Conn
		switch w := c.(type) {
		case *net.TCPConn, *net.UnixConn:
			return c
		case interface{ NetConn() net.Conn }:
			inner = w.NetConn()
		case interface{ Raw() net.Conn }:
			inner = w.Raw()
		default:
			v := reflect.Indirect(reflect.ValueOf(c))
			if v.Kind() != reflect.Struct {
				return c
			}
			field := v.FieldByName("Conn")
			if !field.IsValid() || !field.CanInterface() {
				return c
			}
			inner, _ = reflect.TypeAssert[net.Conn](field)
		}
		if inner == nil {
			return c
		}
		c = inner
	}
	return c
}

// clientAddr returns the address that counts for a client: its peer's, or what a
// trusted proxy says. It is not valid when there is none, as for a unix socket.
func clientAddr(r *http.Request) netip.Addr {
	client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

// isTrustedProxy reports whether the peer is one of trusted_proxies.
func isTrustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// isUnix reports whether the request came over a unix socket.
func isUnix(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && strings.HasPrefix(local.Network(), "unix")
}

// clientOf returns what max_held_per_client counts a client address by: itself,
// or its /64 in IPv6.
func clientOf(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	prefix, _ := addr.Prefix(bits) // so many there are
	return prefix
}

// hostOf returns the name or address in the Host header, without its port.
func hostOf(r *http.Request) string {
	return strings.TrimSuffix(strings.TrimPrefix(hostWithoutPort(r.Host), "["), "]")
}

func hostWithoutPort(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}
