package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dialect is how clients of a kind of server hold, publish, and carry what they have
// seen from one request to the next.
type dialect struct {
	// holdPath and publishPath complete an address that has no {field} in it.
	holdPath, publishPath string

	// hold returns the request of a client that has seen everything up to a position,
	// which is opaque; "" is that of a client that has seen nothing.
	hold func(path, position string) *request

	// publish returns the request that publishes a message, which is a number.
	publish func(path, field string, message int) *request

	// published returns the position after a publication, from its answer.
	published func(a *answer, message int) (string, error)

	// position returns the position after an answer to a hold. The message is the last
	// one that was published to the field.
	position func(a *answer, message int) string

	// woken says whether an answer to a hold is that of a wake, and not of a timeout.
	woken func(a *answer) bool

	// messages returns the numbers in an answer, and whether the server says that some
	// are missing. It is nil where answers carry none.
	messages func(a *answer) (numbers []int, gap bool, err error)

	// cut cuts the streams that clients hold into their parts, which then are what is an
	// answer above. It is nil where they hold by long-poll.
	cut cutter

	// subscribers returns the request that asks how many are held on a field, and
	// count reads its answer. They are nil where it cannot be asked.
	subscribers func(path string) *request
	count       func(a *answer, field string) (int, error)
}

// firstMessage is the number of the first message. All that are published have as
// many digits, so that all answers have the same size and none is part of another.
const firstMessage = 1_000_000_000

// expand puts a field into the path of an address.
func expand(template, otherwise, field string) string {
	if otherwise != "" && !strings.Contains(template, "{field}") {
		path, query, has := strings.Cut(template, "?")
		switch {
		case strings.HasPrefix(otherwise, "/"):
			template = strings.TrimSuffix(path, "/") + otherwise
			if has {
				template += "?" + query
			}
		case has:
			template += "&" + otherwise
		default:
			template += "?" + otherwise
		}
	}
	return strings.ReplaceAll(template, "{field}", (&url.URL{Path: field}).EscapedPath())
}

// dialects are those that --dialect knows.
var dialects = map[string]*dialect{
	"comet":         &comet,
	"comet-sse":     cometSSE(),
	"comet-forward": cometForward(),
	"nchan":         &nchan,
	"nchan-sse":     nchanSSE(),
	"lua": {
		holdPath: "field={field}", publishPath: "",
		hold: func(path, position string) *request {
			if position == "" {
				position = "0"
			}
			return &request{method: "GET", path: path + "&id=" + position}
		},
		publish: func(path, field string, message int) *request {
			return &request{
				method: "POST", path: path, body: url.QueryEscape(field) + "=" + strconv.Itoa(message),
				header: []string{"Content-Type", "application/x-www-form-urlencoded"},
			}
		},
		published: func(_ *answer, message int) (string, error) { return strconv.Itoa(message), nil },
		// The recipe tells that there is something, not what: clients ask elsewhere.
		position: func(_ *answer, message int) string { return strconv.Itoa(message) },
		woken:    func(a *answer) bool { return bytes.HasPrefix(a.body, []byte("YES")) },
	},
	"floor": {
		holdPath: "/{field}", publishPath: "/{field}",
		hold: func(path, _ string) *request { return &request{method: "GET", path: path} },
		publish: func(path, _ string, message int) *request {
			return &request{method: "POST", path: path, body: strconv.Itoa(message)}
		},
		published: func(*answer, int) (string, error) { return "", nil },
		position:  func(*answer, int) string { return "" },
		woken:     func(*answer) bool { return true },
	},
}

// comet is how clients of Comet hold by long-poll.
var comet = dialect{
	holdPath: "field={field}&format=json", publishPath: "field={field}",
	hold: func(path, position string) *request {
		if position == "" {
			position = "now"
		}
		return &request{method: "GET", path: path + "&after=" + position}
	},
	publish: func(path, _ string, message int) *request {
		return &request{
			method: "POST", path: path, body: strconv.Itoa(message),
			header: []string{"Content-Type", "text/plain"},
		}
	},
	published: func(a *answer, _ int) (string, error) {
		cursor := a.get("Comet-Cursor")
		if cursor == "" {
			return "", errors.New("the answer has no Comet-Cursor")
		}
		return cursor, nil
	},
	position: func(a *answer, _ int) string { return a.get("Comet-Cursor") },
	woken:    func(a *answer) bool { return !bytes.Contains(a.body, []byte(`"messages":[]`)) },
	messages: cometMessages,
	subscribers: func(path string) *request {
		return &request{method: "GET", path: path, accept: "application/json"}
	},
	count: func(a *answer, field string) (int, error) {
		var body struct {
			Fields map[string]struct {
				Subscribers int `json:"subscribers"`
			} `json:"fields"`
		}
		err := json.Unmarshal(a.body, &body)
		return body.Fields[field].Subscribers, err
	},
}

// cometSSE returns how they hold a stream of SSE.
func cometSSE() *dialect {
	d := comet
	d.holdPath = "field={field}&format=sse"
	return sse(d)
}

// cometForward returns how they hold what the application answers: what is published is
// in its answer or not.
func cometForward() *dialect {
	d := comet
	d.holdPath = ""
	d.hold = func(path, position string) *request {
		return &request{method: "GET", path: path, header: []string{"Comet-Cursor", position}}
	}
	d.woken = func(a *answer) bool { return a.status == http.StatusOK }
	d.messages = nil
	return &d
}

// nchan is how clients of Nchan hold by long-poll.
var nchan = dialect{
	holdPath: "/{field}", publishPath: "/{field}",
	hold: func(path, position string) *request {
		r := &request{method: "GET", path: path}
		if date, tag, ok := strings.Cut(position, "|"); ok {
			r.header = []string{"If-Modified-Since", date, "If-None-Match", tag}
		}
		return r
	},
	publish: func(path, _ string, message int) *request {
		return &request{method: "POST", path: path, body: strconv.Itoa(message)}
	},
	published: nchanPublished,
	position:  func(a *answer, _ int) string { return a.get("Last-Modified") + "|" + a.get("Etag") },
	woken:     func(a *answer) bool { return a.status == 200 },
	messages: func(a *answer) ([]int, bool, error) {
		number, err := strconv.Atoi(string(a.body))
		return []int{number}, false, err
	},
	subscribers: func(path string) *request {
		return &request{method: "GET", path: path, accept: "text/json"}
	},
	count: func(a *answer, _ string) (int, error) {
		var body struct {
			Subscribers int `json:"subscribers"`
		}
		err := json.Unmarshal(a.body, &body)
		return body.Subscribers, err
	},
}

// nchanSSE returns how they hold a stream of SSE.
func nchanSSE() *dialect {
	d := nchan
	d.hold = func(path, position string) *request {
		r := &request{method: "GET", path: path, accept: "text/event-stream"}
		if position != "" {
			r.header = []string{"Last-Event-ID", position}
		}
		return r
	}
	d.published = func(a *answer, _ int) (string, error) { return nchanID(a) }
	return sse(d)
}

// dialectNames are the names of the dialects.
func dialectNames() string { return strings.Join(slices.Sorted(maps.Keys(dialects)), ", ") }

func cometMessages(a *answer) (numbers []int, gap bool, err error) {
	var body struct {
		Messages []struct {
			Data json.Number `json:"data"`
		} `json:"messages"`
		Missed bool `json:"missed"`
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		return nil, false, err
	}
	for _, m := range body.Messages {
		number, err := strconv.Atoi(m.Data.String())
		if err != nil {
			return nil, false, err
		}
		numbers = append(numbers, number)
	}
	return numbers, body.Missed, nil
}

// nchanPublished makes of the id of a message what a subscriber would have been given
// in its header.
func nchanPublished(a *answer, _ int) (string, error) {
	id, err := nchanID(a)
	if err != nil {
		return "", err
	}
	seconds, tag, _ := strings.Cut(id, ":")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return "", err
	}
	return time.Unix(unix, 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "|" + tag, nil
}

// nchanID returns 1795291705:0 of "last message id: 1795291705:0", in what Nchan tells
// a publisher.
func nchanID(a *answer) (string, error) {
	_, rest, ok := strings.Cut(string(a.body), "last message id: ")
	id, _, _ := strings.Cut(rest, "\r\n")
	if !ok || !strings.Contains(id, ":") {
		return "", fmt.Errorf("the answer has no last message id: %.80q", a.body)
	}
	return id, nil
}
