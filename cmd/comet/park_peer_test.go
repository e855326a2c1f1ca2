package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// proxyHeader is what the PROXY protocol puts in front of a connection from 203.0.113.7.
var proxyHeaders = map[string]string{
	"v1": "PROXY TCP4 203.0.113.7 127.0.0.1 51234 443\r\n",
	"v2": "\r\n\r\n\x00\r\nQUIT\n" + "\x21\x11\x00\x0c" + "\xcb\x00\x71\x07" + "\x7f\x00\x00\x01" +
		string(binary.BigEndian.AppendUint16(nil, 51234)) + string(binary.BigEndian.AppendUint16(nil, 443)),
}

// prefixConn sends a prefix in one segment with the first write.
type prefixConn struct {
	net.Conn
	prefix string
}

func (p *prefixConn) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(append([]byte(p.prefix), b...))
	n = max(0, n-len(p.prefix))
	p.prefix = ""
	return n, err
}

func TestBehindTheProxyProtocolAParkedConnectionKeepsItsAddress(t *testing.T) {
	t.Parallel()
	const proxy = `proxy_protocol {
				timeout 5s
				allow 127.0.0.0/8
			}`
	servers := func(plain, secure string) string {
		return "servers :{$HTTP2ND} {\n\t\tlistener_wrappers {\n\t\t\t" + plain + "\n\t\t}\n\t}\n" +
			"\tservers :{$HTTPS} {\n\t\tlistener_wrappers {\n\t\t\t" + secure + "\n\t\t}\n\t}"
	}
	body := open + `
	header X-Client {client_ip}
	respond /who "{remote_host} {client_ip} {remote_port}"
`
	for _, c := range []struct{ name, global string }{
		{"alone", servers(proxy, proxy+"\n\t\t\ttls")},
		{"with the listener wrapper", servers(proxy+"\n\t\t\tcomet", proxy+"\n\t\t\ttls\n\t\t\tcomet")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "alone" && !comettest.Knows(t, "servers {\n\tlistener_wrappers {\n\t\tcomet\n\t}\n}") {
				t.Skip("there is no listener wrapper named comet in this binary")
			}
			s := comettest.Start(t, comettest.Global(c.global)+
				"http://127.0.0.1:{$HTTP} {\n"+open+"\n}\n"+
				"http://127.0.0.1:{$HTTP2ND} {\n"+body+"\n}\n"+
				"https://localhost:{$HTTPS} {\n\ttls internal\n"+body+"\n}\n")
			for version, header := range proxyHeaders {
				for _, kind := range []string{"plain", "TLS"} {
					test := func(name string, do func(t *testing.T, l *link, field string)) {
						t.Run(version+", "+kind+", "+name, func(t *testing.T) {
							field := freshField(t, s)
							if kind == "plain" {
								conn := &prefixConn{s.RawConnTo(t, "HTTP2ND"), header}
								do(t, newLink(t, conn, "127.0.0.1"), field)
								return
							}
							conn := &prefixConn{s.RawConnTo(t, "HTTPS"), header}
							do(t, tlsLinkOver(t, s, conn, nil), field)
						})
					}
					who := func(t *testing.T, l *link) {
						t.Helper()
						l.wantBody("203.0.113.7 203.0.113.7 51234")
					}
					test("held, woken and reused", func(t *testing.T, l *link, field string) {
						for n := range 3 {
							l.hold(s, field)
							held := list(t, admin(t, s, "GET", "/comet/default/held?field="+field, 200), "held")
							if len(held) != 1 || held[0]["client_ip"] != "203.0.113.7" || held[0]["remote_addr"] != "203.0.113.7:51234" {
								t.Errorf("held is %v", held)
							}
							if a := l.wake(s, field, fmt.Sprint(n)); a.Header.Get("X-Client") != "203.0.113.7" {
								t.Errorf("the answer is for %s", a.Header.Get("X-Client"))
							}
							l.get("/who")
							who(t, l)
						}
					})
					test("with a request ahead in the first segment", func(t *testing.T, l *link, field string) {
						l.say(l.ask(holdOn(field)) + l.ask("/who") + l.ask(holdOn(field)))
						comettest.WaitSubscribers(t, s, field, 1)
						l.wake(s, field, "1")
						who(t, l)
						comettest.WaitSubscribers(t, s, field, 1)
						l.wake(s, field, "2")
						l.get("/who")
						who(t, l)
					})
				}
			}
		})
	}
}

// authority makes certificates for clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, key := a.make(t, template)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// make signs a certificate; an authority without one signs its own.
func (a authority) make(t *testing.T, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

func (a authority) client(t *testing.T, name string) tls.Certificate {
	t.Helper()
	der, key := a.make(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestAParkedConnectionKeepsItsClientsCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	config := func(global string, n int) string {
		return comettest.Global(global) + "http://127.0.0.1:{$HTTP} {\n" + open + `
}
https://localhost:{$HTTPS} {
	tls internal {
		client_auth {
			mode require_and_verify
			trust_pool file {$DIR}/clients.pem
		}
	}
	header X-Client "{http.request.tls.client.subject}"
	header X-TLS "{http.request.tls.version} {http.request.tls.proto} {http.request.tls.server_name}"
	comet {
		hold /push {
			field id news **
		}
	}
	respond /who "` + fmt.Sprint(n) + ` {http.request.tls.client.subject} {http.request.scheme}"
}
`
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, with the listener wrapper %t", tls.VersionName(version), wrapped), func(t *testing.T) {
				global := ""
				if wrapped {
					needWrapper(t)
					global = wrappers
				}
				s := comettest.Start(t, config(global, 0), comettest.File("clients.pem", ca.pem))
				dial := func(name string) *link {
					return tlsLinkOver(t, s, s.RawConnTo(t, "HTTPS"), func(c *tls.Config) {
						c.Certificates = []tls.Certificate{ca.client(t, name)}
						c.MinVersion, c.MaxVersion = version, version
					})
				}
				field := freshField(t, s)
				bob, ann := dial("bob"), dial("ann")
				for n := range 3 {
					bob.get(holdOn(field))
					ann.say(ann.ask(holdOn(field)) + ann.ask("/who"))
					comettest.WaitSubscribers(t, s, field, 2)
					comettest.Publish(t, s, fmt.Sprintf("%s=%d", field, n))
					for name, l := range map[string]*link{"bob": bob, "ann": ann} {
						a := l.answer()
						wantTexts(t, a, fmt.Sprintf("%s=%d", field, n))
						if a.Header.Get("X-Client") != "CN="+name || a.Header.Get("X-Tls") == "" || a.Header.Get("X-Tls")[0] != 't' {
							t.Errorf("the answer is for %q over %q; want %s", a.Header.Get("X-Client"), a.Header.Get("X-Tls"), name)
						}
					}
					bob.get("/who")
					bob.wantBody("0 CN=bob https")
					ann.wantBody("0 CN=ann https")
				}
				if wrapped {
					bob.hold(s, field)
					s.Reload(t, config(global, 1))
					bob.wake(s, field, "reloaded")
					bob.get("/who")
					bob.wantBody("1 CN=bob https")
				}
			})
		}
	}
}

func TestAParkedConnectionOnAUnixSocketIsWokenAndReused(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "comet") // the path of a socket may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "http.sock")
	s := comettest.Start(t, comettest.Global("")+"http://127.0.0.1:{$HTTP} {\n"+open+"\n}\n"+
		"http://unix.example {\n\tbind unix/"+socket+"\n\troot {$DIR}\n\t@static path /static.txt\n\tfile_server @static\n"+open+"\n}\n",
		comettest.File("static.txt", staticText))
	dial := func() *link {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(comettest.Deadline)); err != nil {
			t.Fatal(err)
		}
		return newLink(t, conn, "unix.example")
	}
	field := freshField(t, s)
	calm := openFiles(s)
	l := dial()
	for n := range 5 {
		l.holdAndWake(s, field, fmt.Sprint(n))
		l.get("/static.txt")
		l.wantBody(staticText)
		l.say(l.ask(holdOn(field)) + l.ask("/static.txt"))
		comettest.WaitSubscribers(t, s, field, 1)
		l.wake(s, field, fmt.Sprint("ahead ", n))
		l.wantBody(staticText)
	}
	l.hold(s, field)
	l.Close()
	comettest.WaitSubscribers(t, s, field, 0)
	half := dial()
	half.hold(s, field)
	_ = half.Conn.(*net.UnixConn).CloseWrite()
	comettest.WaitSubscribers(t, s, field, 0)
	half.wantLeft()
	comettest.Eventually(t, comettest.Deadline, func() bool { return openFiles(s) <= calm+1 }, "their descriptors stay")
}
