package main_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

// comet.js in Chromium, against the server: what it is told, and what it does then.
func TestTheClientInABrowser(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	s := startPages(t, "")

	t.Run("what it watches changes while it goes on", func(t *testing.T) {
		for _, transport := range []string{"sse", "stream", "poll", "ws"} {
			one, two := freshField(t, s), freshField(t, s)
			p := b.open(t, "changes, by "+transport, desktop, s.URL(cometPage(map[string]any{"transport": transport}, one)))
			p.waitFor(t, "comet.state === 'open'")
			p.is(t, "stop = watch("+quote(two)+")")
			comettest.WaitSubscribers(t, s, two, 1)
			comettest.Publish(t, s, two+"=1&"+one+"=2")
			p.waitFor(t, "got.join() === '0,0,1,2'") // what there was, first
			p.is(t, "stop(), true")
			if transport != "poll" { // the next does not ask for it
				comettest.WaitSubscribers(t, s, two, 0)
			}
			comettest.Publish(t, s, two+"=not watched&"+one+"=3")
			p.waitFor(t, "got.join() === '0,0,1,2,3'")
			comettest.WaitSubscribers(t, s, two, 0)
			p.is(t, "comet.close(), true")
			comettest.WaitSubscribers(t, s, one, 0)
			p.call(t, "close")
		}
	})

	t.Run("what it may not watch closes it", func(t *testing.T) {
		p := b.open(t, "refused", desktop, s.URL(cometPage(map[string]any{}, "id")+"&url=/few"))
		p.waitFor(t, "states.at(-1)?.startsWith('closed 403 ') && states.at(-1).includes('add `field id`')")
	})

	t.Run("behind a proxy that keeps back streams it polls", func(t *testing.T) {
		field := freshField(t, s)
		proxy := startKeepingBack(t, s)
		p := b.open(t, "kept back", desktop, proxy+cometPage(map[string]any{"patience": 1}, field))
		stop := publishNumbers(t, s, field)
		p.waitFor(t, "comet.state === 'open' && comet.transport === 'poll'")
		p.goOn(t, 5)
		// A machine that has another network tries all anew.
		p.is(t, "dispatchEvent(new Event('online'))")
		p.waitFor(t, "comet.transport === 'sse'")
		p.waitFor(t, "comet.state === 'open' && comet.transport === 'poll'")
		p.goOn(t, 5)
		p.wantNumbers(t, stop())
		p.call(t, "close")
	})

	t.Run("a server that cannot answer is asked later, and then at once where the network is back", func(t *testing.T) {
		field := freshField(t, s)
		c := startCutter(t, s)
		p := b.open(t, "refused for a while", desktop, c.url(cometPage(map[string]any{}, field)))
		stop := publishNumbers(t, s, field)
		p.goOn(t, 3)
		c.refusing.Store(true)
		c.cut()
		p.waitFor(t, "states.filter((state) => state === 'waiting').length >= 4")
		c.refusing.Store(false)
		p.is(t, "dispatchEvent(new Event('online'))")
		p.goOn(t, 3)
		p.wantNumbers(t, stop())
		p.call(t, "close")
	})
}

// quote returns a name as a string of JavaScript.
func quote(name string) string { return "'" + name + "'" }

// startKeepingBack starts a proxy that hands on an answer when it has all of it, and
// returns where it is.
func startKeepingBack(t *testing.T, s *comettest.Server) string {
	t.Helper()
	target, err := url.Parse(s.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(answer *http.Response) error {
		body, err := io.ReadAll(answer.Body)
		answer.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) } // the client left
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // which is first
	return server.URL
}
