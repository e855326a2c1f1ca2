//go:build linux

package park

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"reflect"
	"sync"
	"time"
	"unsafe"
)

// A tls.Conn keeps the buffers into which it read its handshake for as long as it
// lives: some 3.5 KiB, half of what it has. They are of no use to a connection that
// waits, and it makes new ones when they are not there. But they are its own
// affair: so they are let go of only when that is asked for, and only when a test
// at the start shows that this version of crypto/tls goes on as if nothing had
// happened.

// trimmable are the fields of a tls.Conn that are let go of when they are empty.
var trimmable = []string{"rawInput", "hand"}

// trimOffsets returns where the trimmable fields are in a tls.Conn.
var trimOffsets = sync.OnceValues(func() ([]uintptr, error) {
	offsets := make([]uintptr, 0, len(trimmable))
	for _, name := range trimmable {
		field, ok := reflect.TypeFor[tls.Conn]().FieldByName(name)
		if !ok || field.Type != reflect.TypeFor[bytes.Buffer]() {
			return nil, fmt.Errorf("crypto/tls has no buffer %s", name)
		}
		offsets = append(offsets, field.Offset)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if err := testTrim(version, offsets); err != nil {
			return nil, fmt.Errorf("crypto/tls does not do without its buffers: %w", err)
		}
	}
	return offsets, nil
})

// CanTrimTLS reports why connections with TLS cannot let go of their buffers, nil
// when they can.
func CanTrimTLS() error {
	_, err := trimOffsets()
	return err
}

// TrimTLS has the connection let go of what TLS keeps from its handshake whenever
// it is parked. CanTrimTLS must have returned nil.
func (c *Conn) TrimTLS() { c.trim = c.tls }

// trimTLS lets go of the empty buffers of t, from which nobody reads at the time.
func trimTLS(t *tls.Conn, offsets []uintptr) {
	for _, offset := range offsets {
		buffer := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(t), offset))
		if buffer.Len() == 0 {
			*buffer = bytes.Buffer{}
		}
	}
}

// testTrim has a server's connection exchange messages, some of which come in
// pieces, and lets go of its buffers all the time.
func testTrim(version uint16, offsets []uintptr) error {
	certificate, err := testCertificate()
	if err != nil {
		return err
	}
	near, far := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	_, _ = near.SetDeadline(deadline), far.SetDeadline(deadline) // they have them
	server := tls.Server(near, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		MinVersion:   version,
		MaxVersion:   version,
	})
	client := tls.Client(far, &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // it is the one that was just made
		MinVersion:         version,
		MaxVersion:         version,
	})
	echoed := make(chan error, 1)
	go func() {
		echoed <- echoTrimmed(server, offsets)
		_ = near.Close()
	}()
	talked := talk(client)
	_ = far.Close()
	return errors.Join(talked, <-echoed)
}

// echoTrimmed sends back what it reads, until the other side says goodbye.
func echoTrimmed(server *tls.Conn, offsets []uintptr) error {
	if err := server.Handshake(); err != nil {
		return err
	}
	var room [100]byte // less than there is in a record
	for {
		trimTLS(server, offsets)
		n, err := server.Read(room[:])
		trimTLS(server, offsets)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := server.Write(room[:n]); err != nil {
			return err
		}
	}
}

// talk sends messages of all sizes and wants them back.
func talk(client *tls.Conn) error {
	for _, size := range []int{1, 99, 100, 101, 1000, 16 << 10, 40 << 10, 1} {
		message := bytes.Repeat([]byte{byte(size)}, size)
		sent := make(chan error, 1)
		go func() {
			_, err := client.Write(message)
			sent <- err
		}()
		back := make([]byte, size)
		_, err := io.ReadFull(client, back)
		if err := errors.Join(<-sent, err); err != nil {
			return err
		}
		if !bytes.Equal(back, message) {
			return errors.New("a message came back as another")
		}
	}
	return client.CloseWrite()
}

func testCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
