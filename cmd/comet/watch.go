package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

func cmdWatch(cmd *cobra.Command, args []string) error {
	from, _ := cmd.Flags().GetString("from")
	after, _ := cmd.Flags().GetString("after")
	count, _ := cmd.Flags().GetInt("count")
	asJSON, _ := cmd.Flags().GetBool("json")

	address, err := parseAddress(from, "/push")
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	if count < 0 {
		return fmt.Errorf("--count %d: give a number of messages", count)
	}
	for _, name := range args {
		if strings.Contains(name, "*") {
			return fmt.Errorf("%q is no name of a field: globs stand in the configuration, and clients name fields, such as board/7", name)
		}
	}
	query := address.Query()
	query.Set("format", "json")
	query["field"] = append(query["field"], args...)

	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w := &watch{
		client: newClient(), address: address, query: query, after: after, left: count,
		out: cmd.OutOrStdout(), log: cmd.ErrOrStderr(), print: printLine,
		retry: 2 * time.Second,
	}
	if asJSON {
		w.print = printJSON
	}
	return w.run(ctx)
}

// watch follows fields by long polling.
type watch struct {
	client   *http.Client
	address  *url.URL
	query    url.Values
	after    string // where to go on from
	left     int    // how many messages to print; 0: without end
	out, log io.Writer
	print    func(io.Writer, json.RawMessage) error

	retry time.Duration // after how long to come back when something failed
}

// heldAnswer is an answer of a hold route.
type heldAnswer struct {
	Cursor       string            `json:"cursor"`
	Messages     []json.RawMessage `json:"messages"`
	Missed       bool              `json:"missed"`
	MissedFields []string          `json:"missed_fields"`
	Retry        int               `json:"retry"`
}

// refusal is an answer that another request would get as well.
type refusal struct{ error }

// tooSoon is how soon an answer with nothing in it is not a timeout of any use:
// coming back at once for the next would be a busy loop.
const tooSoon = 50 * time.Millisecond

// run prints messages until ctx ends or enough are printed, which is no error.
func (w *watch) run(ctx context.Context) error {
	away := false
	for {
		begun := time.Now()
		answer, wait, err := w.ask(ctx)
		var refused refusal
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &refused):
			return refused.error
		case err != nil:
			if !away {
				fmt.Fprintf(w.log, "%v; it is asked again until it answers\n", err)
			}
			away = true
		default:
			away = false
			done, err := w.tell(answer)
			if done || err != nil {
				return err
			}
			useful := len(answer.Messages) > 0 || answer.Missed || w.after == "now" || time.Since(begun) > tooSoon
			w.after = answer.Cursor
			if useful {
				continue
			}
		}
		// Not all at the same moment, when many were cut off at the same moment.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(wait, w.retry/2+rand.N(w.retry))): //nolint:gosec // nothing is to be kept secret
		}
	}
}

// ask sends one request. When it fails, wait is how long the server asks to be
// left alone.
func (w *watch) ask(ctx context.Context) (answer *heldAnswer, wait time.Duration, err error) {
	query := w.query
	query.Del("after")
	query.Del("wait")
	if w.after != "" {
		query.Set("after", w.after)
	}
	if w.after == "now" {
		// A cursor first: a request that is held "from now on" and cut off would lose
		// what comes until the next.
		query.Set("wait", "0")
	}
	address := *w.address
	address.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, 0, refusal{err}
	}
	res, err := w.client.Do(req)
	if err != nil {
		return nil, 0, shorter(err)
	}
	defer res.Body.Close()
	if err := checkAnswer(res, "hold "+address.Path, "--from"); err != nil {
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		wait = min(time.Duration(seconds)*time.Second, time.Minute)
		switch {
		case res.StatusCode >= 500,
			res.StatusCode == http.StatusRequestTimeout,
			res.StatusCode == http.StatusTooEarly,
			res.StatusCode == http.StatusTooManyRequests:
			return nil, wait, err
		}
		return nil, 0, refusal{err}
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, 0, fmt.Errorf("the answer was cut off: %w", err)
	}
	answer = new(heldAnswer)
	if err := json.Unmarshal(body, answer); err != nil || answer.Cursor == "" {
		return nil, 0, refusal{fmt.Errorf("%s answers what is not JSON: does the route have the format json?", w.address.Redacted())}
	}
	return answer, 0, nil
}

// tell prints what is in an answer, and reports whether that was enough.
func (w *watch) tell(answer *heldAnswer) (done bool, err error) {
	if answer.Retry > 0 {
		w.retry = time.Duration(answer.Retry) * time.Millisecond
	}
	if answer.Missed {
		fmt.Fprintf(w.log, "a gap: messages of %s cannot be had any more\n", printable(strings.Join(answer.MissedFields, ", ")))
	}
	out := bufio.NewWriter(w.out)
	for _, message := range answer.Messages {
		if err := w.print(out, message); err != nil {
			return false, err
		}
		if w.left > 0 {
			if w.left--; w.left == 0 {
				return true, out.Flush()
			}
		}
	}
	return false, out.Flush()
}

// printJSON prints a message as an object on a line.
func printJSON(out io.Writer, message json.RawMessage) error {
	var line bytes.Buffer
	if err := json.Compact(&line, message); err != nil {
		return err
	}
	line.WriteByte('\n')
	_, err := line.WriteTo(out)
	return err
}

// printLine prints a message as its field and its value, on a line.
func printLine(out io.Writer, message json.RawMessage) error {
	var m struct {
		Field string
		Data  json.RawMessage
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return err
	}
	var text string
	if bytes.HasPrefix(m.Data, []byte(`"`)) {
		_ = json.Unmarshal(m.Data, &text) // it was decoded, so it is valid
	} else {
		var compact bytes.Buffer
		_ = json.Compact(&compact, m.Data)
		text = compact.String()
	}
	_, err := fmt.Fprintln(out, printable(m.Field), printable(text))
	return err
}

// printable returns text for one line of a terminal: quoted, when it has control
// characters in it.
func printable(text string) string {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return strconv.Quote(text)
	}
	return text
}
