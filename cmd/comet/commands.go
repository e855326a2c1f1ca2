package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "publish",
		Usage: "[--to <url>] [--token <token>] [--event <name>] [--type <type>] [--json] <name>=<value>... | --bump <name> | --delete <name>",
		Short: "Publishes to fields of a running server",
		Long: `
Publishes each value to its field, in the order given. They are there all at
once: when anything is wrong with one of them, none is published.

A value of @file is the content of that file, and one of - is what comes on the
standard input; a value that begins with @ itself can be given that way.

--to is the address of a publish route, by default that of the door. The path
/config may be left out. --token is for a route that asks for one; the
environment variable COMET_TOKEN is the better place, because others on the
machine see the command line.

Success prints nothing, or with --json what the server answers: the cursor, and
the value and the number of subscribers of each field. Any failure is a line on
the standard error and the exit code 1.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  $ comet publish id=123
  $ comet publish id=123 news='It is Friday'
  $ comet publish --type application/json news=@news.json
  $ date | comet publish --event tick clock=-
  $ comet publish --bump list
  $ comet publish --to https://app.example.com id=123`
			cmd.Flags().String("to", "http://127.0.0.1:2080/config", "The publish route")
			cmd.Flags().String("token", "", "The token that the route asks for (default $COMET_TOKEN)")
			cmd.Flags().String("event", "", "The name of the event")
			cmd.Flags().String("type", "", "The content type of the values")
			cmd.Flags().StringArray("bump", nil, "Set the field to the next whole number after its value; may be repeated")
			cmd.Flags().StringArray("delete", nil, "Delete the field and its messages; may be repeated")
			cmd.Flags().Bool("json", false, "Print the answer as JSON")
			cmd.RunE = cmdPublish
		},
	})

	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "watch",
		Usage: "[--from <url>] [--json] [--after <cursor>|now|first] [--count <n>] [<name>...]",
		Short: "Prints the messages of fields as they come",
		Long: `
Prints the value of each field and then each message as it comes, until it is
interrupted or has printed --count messages. Without a name it watches what the
route holds requests on that name none.

A message is a line: the name and the value, which is quoted when it has line
breaks or other control characters in it. With --json it is an object on a line,
as the server gives it, with its cursor.

--from is the address of a hold route. The path /push may be left out. --after
begins later or earlier: with the messages after a cursor, from "now" on, or with
the "first" of those that are kept.

No message is lost between two requests. When the server is away, it is asked
again until it is back. Where messages can no longer be had there is a gap, which
is a line on the standard error.

The exit code is 0 after an interruption (SIGINT, SIGTERM) and after --count
messages, and 1 when the server refuses the request.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  $ comet watch id news
  $ comet watch --after now --count 1 id
  $ comet watch --json --from https://app.example.com 'board/7' | jq .data`
			cmd.Flags().String("from", "http://localhost:8080/push", "The hold route")
			cmd.Flags().String("after", "", `A cursor, "now" or "first"`)
			cmd.Flags().Int("count", 0, "Exit after so many messages")
			cmd.Flags().Bool("json", false, "Print each message as JSON")
			cmd.RunE = cmdWatch
		},
	})

	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "status",
		Usage: "[--address <interface>] [--config <path> [--adapter <name>]] [--json]",
		Short: "Prints what the stores of a running server hold",
		Long: `
Asks the admin API of a running server for its stores, and prints for each how
many requests are held, and what is in it, with the limits in force.

If --address is not given, the admin address is that of the config file, and
without one the default.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  $ comet status
  $ comet status --address localhost:2019 --json`
			cmd.Flags().String("address", "", "Address of the administration listener, if different from config")
			cmd.Flags().StringP("config", "c", "", "Configuration file")
			cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
			cmd.Flags().Bool("json", false, "Print the answer as JSON")
			cmd.RunE = cmdStatus
		},
	})
}

// parseAddress returns the URL of a route as it is given on the command line:
// without a scheme it is http, without a path it has the usual one.
func parseAddress(address, path string) (*url.URL, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s is not an address such as http://127.0.0.1:2080%s", u.Redacted(), path)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = path
	}
	return u, nil
}

// newClient returns a client that follows no redirects: a publication that is sent
// on as something else must not look like a success.
func newClient() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// checkAnswer returns why an answer is not one to the request, in a line that
// says what to do; nil when it is. directive is what stands in a Caddyfile for
// such a route, and flag the one that names its address.
func checkAnswer(res *http.Response, directive, flag string) error {
	address := *res.Request.URL
	address.RawQuery = ""
	said := address.Redacted() + " answers " + res.Status
	_, comet := res.Header["Comet-Cursor"]
	switch {
	case res.StatusCode == http.StatusOK && comet:
		return nil
	case res.StatusCode == http.StatusOK:
		return fmt.Errorf("%s, but not as Comet does: is there %q for this path? %s names another address", said, directive, flag)
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return fmt.Errorf("%s, to %s: give the address that serves the route, with %s", said, res.Header.Get("Location"), flag)
	}
	if detail := readDetail(res); detail != "" {
		said += ": " + detail
	}
	switch res.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("%s (give the token with --token or in COMET_TOKEN)", said)
	case http.StatusForbidden:
		if strings.HasPrefix(directive, "publish ") {
			return fmt.Errorf("%s (a name that is not the site's is refused, too; %s names another address, such as the door's)", said, flag)
		}
	case http.StatusBadRequest:
		if strings.Contains(said, "HTTP request to an HTTPS server") {
			return fmt.Errorf("%s (give the address with https://, with %s)", said, flag)
		}
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("%s (is there %q for this path? %s names another address)", said, directive, flag)
	}
	return fmt.Errorf("%s", said)
}

// readDetail returns the line with which the server says what was wrong, "" when
// there is none that is for people at a terminal.
func readDetail(res *http.Response) string {
	body := io.LimitReader(res.Body, 16<<10)
	switch mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); mediaType {
	case "application/problem+json":
		var problem struct{ Detail string }
		if json.NewDecoder(body).Decode(&problem) == nil {
			return printable(problem.Detail)
		}
	case "application/json": // as errors of Caddy's admin API are
		var failed struct{ Error string }
		if json.NewDecoder(body).Decode(&failed) == nil {
			return printable(failed.Error)
		}
	case "text/plain", "": // without a type net/http says that it speaks HTTPS
		lines := bufio.NewScanner(body)
		if lines.Scan() {
			return printable(lines.Text())
		}
	}
	return ""
}
