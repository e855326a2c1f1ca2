package main_test

import (
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/cmd/internal/comettest"
)

func TestAReloadMayTakeTheAccessLogFromAParkedRequest(t *testing.T) {
	t.Parallel()
	needWrapper(t) // else the connection need not outlive the reload
	const site = "http://127.0.0.1:{$HTTP} {\n" + open + "\n"
	s := comettest.Start(t, comettest.Global(wrappers)+site+"\tlog\n}\n")
	field := freshField(t, s)
	l := plainLink(t, s)
	l.hold(s, field)
	s.Reload(t, comettest.Global(wrappers)+site+"}\n")
	l.wake(s, field, "1")
	l.holdAndWake(s, field, "2")
}

func TestARequestThatComesWhileAnEarlierOneWaitsIsServedAfterThoseBeforeIt(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, both("", open), comettest.Env("GOMAXPROCS", "1"))
	for range 5 {
		first, second, third := freshField(t, s), freshField(t, s), freshField(t, s)
		l := plainLink(t, s)
		l.holdAndWake(s, first, "1") // after which the connection comes back to the server
		l.say(l.ask(holdOn(second)) + l.ask(holdOn(third)))
		comettest.WaitSubscribers(t, s, second, 1)
		l.say(l.ask("/push?format=json&wait=0&field=" + first))
		l.wake(s, second, "1")
		comettest.WaitSubscribers(t, s, third, 1)
		l.wake(s, third, "1")
		if a := l.answer(); a.Status != 200 {
			t.Fatalf("got %s", a)
		}
		l.Close()
	}
}

func TestAParkedConnectionIsServedWhereItWasMadeToAlsoWhenServersAreSplit(t *testing.T) {
	t.Parallel()
	needWrapper(t)
	global := comettest.Global("servers {\n\tlistener_wrappers {\n\t\tcomet\n\t}\n}")
	s := comettest.Start(t, global+"http://:{$HTTP} {\n\tbind 127.0.0.1 127.0.0.2\n"+open+"\n\trespond /who old\n}\n")
	field := freshField(t, s)
	l := plainLink(t, s)
	l.hold(s, field)
	s.Reload(t, global+
		"http://a.example:{$HTTP}, http://:{$HTTP} {\n\tbind 127.0.0.1\n"+open+"\n\trespond /who one\n}\n"+
		"http://b.example:{$HTTP}, http://127.0.0.2:{$HTTP} {\n\tbind 127.0.0.2\n"+open+"\n\trespond /who two\n}\n")
	l.wake(s, field, "1")
	l.get("/who")
	if a := l.answer(); a.Body != "one" {
		t.Errorf("a connection to 127.0.0.1 is answered %q; want one", a.Body)
	}
}

func TestAHeaderThatAHandlerMadeForgesNothingInTheLineOfAParkedRequest(t *testing.T) {
	t.Parallel()
	s := comettest.Start(t, comettest.Global("")+"http://127.0.0.1:{$HTTP} {\n\tlog\n\trequest_header X-Q {query.q}\n"+open+"\n}\n")
	field := freshField(t, s)
	l := plainLink(t, s)
	for _, q := range []string{"forged%0d%0aX-Forged:%20yes", "gone%0d%0aNo%20Colon"} {
		l.get(holdOn(field) + "&q=" + q)
		comettest.WaitSubscribers(t, s, field, 1)
		l.wake(s, field, "1")
		comettest.Eventually(t, comettest.Deadline, func() bool { return strings.Contains(s.Logs(), "q="+q) }, "no line is written")
	}
	if strings.Contains(s.Logs(), `"X-Forged"`) {
		t.Error("the line has a header that was not sent")
	}
}
