package caddymodule

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Share has an application asked once for all requests that are woken together and
// ask the same: those with the same scheme, host, method and URI, and the same
// headers Accept-Encoding, Range, If-Match, If-Modified-Since, If-None-Match,
// If-Range, If-Unmodified-Since, Cookie and Authorization, of the same user and with
// the same client certificate, and all other headers but those that say nothing of who
// asks. At most one such request is with the application, and one more waits for it.
//
// A response is not shared, and each request goes on by itself, when it is larger than
// 1 MiB, is 401, 403 or 429, sets a cookie, is private, is an event stream, has
// trailers, or varies by another header.
type Share struct {
	// Public leaves out who asks: these other headers, the cookies, the Authorization,
	// the user and the client certificate. The application is not told the cookies and
	// the Authorization.
	Public bool `json:"public,omitempty"`

	// By are the names of further headers that have to be the same.
	By []string `json:"by,omitempty"`
}

// sharedBy are the headers that have to be the same, whoever asks.
var sharedBy = []string{"Accept-Encoding", "Range", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since"}

// unlikeHeaders need not be the same, beside commonHeaders: they say how a request came,
// or where. Those that end in a hyphen are prefixes.
var unlikeHeaders = []string{
	"Comet-", "Connection", "Keep-Alive", "Last-Event-Id",
	"Cf-", "Fastly-", "Fly-", "Forwarded", "True-Client-Ip", "Via", "X-Amz-", "X-Azure-", "X-Client-Ip",
	"X-Cluster-Client-Ip", "X-Forwarded-For", "X-Real-Ip", "X-Request-",
}

func isUnlike(name string) bool {
	return isListed(name, unlikeHeaders) || isListed(name, commonHeaders)
}

// compares reports whether requests have the same values of a header.
func (s *Share) compares(name string) bool {
	return slices.Contains(sharedBy, name) || slices.Contains(s.By, name) || !s.Public && !isUnlike(name)
}

// maxShared is how many bytes the body of a response may have that is shared.
const maxShared = 1 << 20

func (s *Share) check() error {
	for i, name := range s.By {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("%q is not the name of a header", name)
		}
		s.By[i] = http.CanonicalHeaderKey(name)
	}
	return nil
}

// equal reports whether requests ask the same by the one that do by the other. Both may
// be nil.
func (s *Share) equal(other *Share) bool {
	if s == nil || other == nil {
		return s == other
	}
	return s.Public == other.Public && slices.Equal(s.By, other.By)
}

// shareKey is the same for requests that ask the same.
type shareKey [sha256.Size]byte

// key returns the key of a request. It is nil when that is not shared: also when it
// asks for headers to be kept from the application.
func (f *Forward) key(r *http.Request) *shareKey {
	s := f.Share
	if s == nil || slices.ContainsFunc(r.Header["Connection"], func(v string) bool {
		return !httpguts.HeaderValuesContainsToken([]string{"keep-alive, close"}, strings.TrimSpace(v))
	}) {
		return nil
	}
	k := keyHash{sha256.New()}
	sent, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	k.add(strconv.FormatBool(r.TLS != nil), r.Host, r.Method, sent.RequestURI, r.URL.String())
	k.addHeaders(r.Header, sharedBy)
	k.addHeaders(r.Header, s.By)
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, placeholder := range f.Seen {
		k.add(repl.ReplaceAll(placeholder, ""))
	}
	if !s.Public {
		k.addHeaders(r.Header, slices.DeleteFunc(sortedKeys(r.Header), isUnlike))
		user, _ := repl.GetString(userPlaceholder)
		k.add(user)
		if r.TLS != nil {
			for _, c := range r.TLS.PeerCertificates {
				k.add(string(c.Raw))
			}
		}
	}
	key := shareKey(k.hash.Sum(nil))
	return &key
}

// with returns the key of requests that the application is told the same of.
func (k *shareKey) with(why outcome, fields []string) shareKey {
	h := keyHash{sha256.New()}
	h.add(string(k[:]), why.String(), wire.FieldList(fields))
	return shareKey(h.hash.Sum(nil))
}

// keyHash is a hash of texts, each with its length.
type keyHash struct{ hash hash.Hash }

func (k keyHash) add(texts ...string) {
	for _, text := range texts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(text)))
		k.hash.Write(length[:])
		_, _ = io.WriteString(k.hash, text)
	}
}

func (k keyHash) addHeaders(header http.Header, names []string) {
	for _, name := range names {
		values := header.Values(name)
		k.add(name, strconv.Itoa(len(values)))
		k.add(values...)
	}
}

// serveKept has the application answer a request, keeps the answer until it is all
// there, and gives it to all who follow p. While the answer is written somebody else has
// the turn of p: its client may take long to read.
//
// As long as the answer is kept the application may go on when the client leaves. It would
// do so anyway, mostly, and be busy with more requests than have a turn.
func serveKept(fw *forwardWriter, r *http.Request, next caddyhttp.Handler, p *passage, shares bool) error {
	client := r.Context()
	ctx, cancel := context.WithCancel(context.WithoutCancel(client))
	defer cancel()
	defer func() { *r = *r.WithContext(client) }() // others have it
	*r = *r.WithContext(ctx)
	kw := &keepingWriter{
		forwardWriter: fw, passage: p, shares: shares, before: maps.Clone(fw.Header()), header: fw.Header().Clone(),
		follow: func() { context.AfterFunc(client, cancel) },
	}
	defer context.AfterFunc(client, func() { time.AfterFunc(leftTime, cancel) })()
	defer kw.forget()
	defer fw.writeInTime(r)()
	err := kw.ask(r, next)
	switch {
	case kw.passesOn:
		return err
	case ctx.Err() != nil: // its client has left long ago: another one asks
		return caddyhttp.Error(statusLeft, ctx.Err())
	case err != nil:
		p.lane.share(p, &sharedAnswer{err: err})
		return fw.failed(err)
	}
	answer := kw.answer()
	p.lane.share(p, answer)
	p.lane.leave(p)
	return answer.write(fw, r)
}

// statusLeft is what reverse_proxy has for a client that has left.
const statusLeft = 499

// leftTime is for how long an application may go on when its client has left.
const leftTime = 30 * time.Second

// ask has the application answer. One that breaks off before anything went to the client
// has failed.
func (w *keepingWriter) ask(r *http.Request, next caddyhttp.Handler) (err error) {
	defer func() {
		failure := recover()
		if failure == nil {
			return
		}
		if failure != http.ErrAbortHandler || w.passesOn { //nolint:errorlint // it is compared, by net/http as well
			w.passage.lane.share(w.passage, &sharedAnswer{err: errBrokenOff})
			panic(failure)
		}
		err = caddyhttp.Error(http.StatusBadGateway, errBrokenOff)
	}()
	if err := next.ServeHTTP(w, r); err != nil || w.passesOn {
		return err
	}
	w.WriteHeader(http.StatusOK)
	length := w.header.Get("Content-Length")
	if !w.passesOn && r.Method != http.MethodHead && w.status != http.StatusNotModified && length != "" && length != strconv.Itoa(w.body.Len()) {
		return caddyhttp.Error(http.StatusBadGateway, errBrokenOff)
	}
	return nil
}

var errBrokenOff = errors.New("the application broke its answer off")

// keepingWriter keeps what an application answers, until it is all there, or is not to
// be kept.
type keepingWriter struct {
	*forwardWriter

	passage  *passage
	shares   bool
	before   http.Header // what others have set
	header   http.Header // of the answer
	status   int
	body     bytes.Buffer
	kept     int64  // bytes of it that count
	passesOn bool   // it goes to the client as it comes
	follow   func() // has the application's request end when the client leaves
}

// maxKeeping is how many bytes of answers are kept at once, until their clients have
// read them. Beyond it answers go to their clients as they come.
const maxKeeping = 32 << 20

var keeping atomic.Int64

// forget is called when the client has the answer, or nobody is to have it.
func (w *keepingWriter) forget() {
	keeping.Add(-w.kept)
	w.kept = 0
}

// mayKeep reports whether there is room for n bytes more.
func (w *keepingWriter) mayKeep(n int) bool {
	if w.body.Len()+n > maxShared {
		return false
	}
	w.kept += int64(n)
	return keeping.Add(int64(n)) <= maxKeeping
}

// Header returns the header of the answer.
func (w *keepingWriter) Header() http.Header {
	if w.passesOn {
		return w.forwardWriter.Header()
	}
	return w.header
}

// WriteHeader begins the answer. Informational ones before it are left out.
func (w *keepingWriter) WriteHeader(status int) {
	switch {
	case w.passesOn:
		w.forwardWriter.WriteHeader(status)
	case w.status != 0 || isInformational(status):
	default:
		w.status = status
		if !w.isComplete() || w.shares && !w.mayShare() {
			w.passOn()
		}
	}
}

// isComplete reports whether an answer with this header comes to an end soon, and is
// not too large to be kept.
func (w *keepingWriter) isComplete() bool {
	length, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64)
	return (err != nil || length <= maxShared) && len(w.header["Trailer"]) == 0 && w.status != http.StatusSwitchingProtocols &&
		!strings.HasPrefix(w.header.Get("Content-Type"), "text/event-stream")
}

// mayShare reports whether an answer with this header may be shared.
func (w *keepingWriter) mayShare() bool {
	header := w.header
	switch {
	case len(header["Set-Cookie"]) > 0:
		return false
	case w.status == http.StatusUnauthorized, w.status == http.StatusForbidden, w.status == http.StatusTooManyRequests:
		return false // others may not be meant
	}
	if slices.ContainsFunc(header["Cache-Control"], func(v string) bool { return strings.Contains(strings.ToLower(v), "private") }) {
		return false
	}
	share := w.passage.share
	varies, others := header["Vary"], w.before["Vary"]
	if len(varies) >= len(others) && slices.Equal(varies[:len(others)], others) {
		varies = varies[len(others):] // what others vary by they do for each
	}
	for name := range strings.SplitSeq(strings.Join(varies, ","), ",") {
		if name = strings.TrimSpace(name); name != "" && !share.compares(http.CanonicalHeaderKey(name)) {
			return false
		}
	}
	return true
}

// passOn has the answer go to the client alone.
func (w *keepingWriter) passOn() {
	w.passesOn = true
	w.follow()
	w.passage.lane.share(w.passage, nil)
	header := w.forwardWriter.Header()
	clear(header)
	maps.Copy(header, w.header)
	w.forwardWriter.WriteHeader(w.status)
	if w.body.Len() > 0 {
		_, _ = w.forwardWriter.Write(w.body.Bytes()) // the next write tells of the error
		w.body = bytes.Buffer{}
	}
	w.forget()
}

// Write writes a part of the body.
func (w *keepingWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if !w.passesOn && !w.mayKeep(len(p)) {
		w.passOn()
	}
	if w.passesOn {
		return w.forwardWriter.Write(p)
	}
	return w.body.Write(p)
}

// ReadFrom copies the body.
func (w *keepingWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

// FlushError sends what was written so far, if it goes to the client.
func (w *keepingWriter) FlushError() error {
	w.WriteHeader(http.StatusOK)
	if !w.passesOn {
		return nil
	}
	return w.forwardWriter.FlushError()
}

// answer returns what was written.
func (w *keepingWriter) answer() *sharedAnswer {
	a := &sharedAnswer{status: w.status, header: http.Header{}, body: w.body.Bytes(), cursor: w.cursor}
	for name, values := range w.header {
		if !slices.Equal(values, w.before[name]) {
			a.header[name] = values
		}
	}
	for name := range w.before {
		if _, kept := w.header[name]; !kept {
			a.header[name] = nil
		}
	}
	return a
}

// sharedAnswer is an answer of an application that more than one client is given.
type sharedAnswer struct {
	status int
	header http.Header // what it says; nil values: it takes out what others set
	body   []byte
	cursor store.Cursor
	err    error // it failed instead

	readers atomic.Int32 // so many other clients are given it
}

// keep counts the body, as long as other clients are given it.
func (a *sharedAnswer) keep() (forget func()) {
	size := int64(len(a.body))
	if a.readers.Add(1) == 1 {
		keeping.Add(size)
	}
	return func() {
		if a.readers.Add(-1) == 0 {
			keeping.Add(-size)
		}
	}
}

// errShared is the error of a request whose answer was to be that of another one.
var errShared = errors.New("the application has failed, when it was asked once for several who ask the same")

// send sends the answer to another client.
func (a *sharedAnswer) send(w http.ResponseWriter, r *http.Request) error {
	fw := newForwardWriter(w, a.cursor)
	if a.err != nil {
		return fw.failed(caddyhttp.Error(statusOf(a.err), fmt.Errorf("%w: %w", errShared, a.err)))
	}
	defer a.keep()()
	defer fw.writeInTime(r)()
	return a.write(fw, r)
}

func (a *sharedAnswer) write(fw *forwardWriter, r *http.Request) error {
	header := fw.Header()
	for name, values := range a.header {
		if values == nil {
			delete(header, name)
		} else {
			header[name] = slices.Clone(values)
		}
	}
	hasBody := r.Method != http.MethodHead && a.status != http.StatusNoContent && a.status != http.StatusNotModified
	if hasBody && header.Get("Content-Length") == "" {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	fw.WriteHeader(a.status)
	if hasBody {
		if _, err := fw.Write(a.body); err != nil {
			return nil //nolint:nilerr // the client left; it goes on from what it has seen
		}
	}
	return nil
}
