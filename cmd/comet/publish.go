package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// publishTimeout is how long a publication may take: far longer than any does.
const publishTimeout = 30 * time.Second

func cmdPublish(cmd *cobra.Command, args []string) error {
	to, _ := cmd.Flags().GetString("to")
	token, _ := cmd.Flags().GetString("token")
	event, _ := cmd.Flags().GetString("event")
	contentType, _ := cmd.Flags().GetString("type")
	bump, _ := cmd.Flags().GetStringArray("bump")
	remove, _ := cmd.Flags().GetStringArray("delete")
	asJSON, _ := cmd.Flags().GetBool("json")

	address, err := parseAddress(to, "/config")
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	given := 0
	for _, some := range [][]string{args, bump, remove} {
		if len(some) > 0 {
			given++
		}
	}
	switch {
	case given == 0:
		return errors.New("nothing to publish: give NAME=VALUE, such as id=123")
	case given > 1:
		return errors.New("give one of NAME=VALUE, --bump and --delete at a time")
	case len(args) == 0 && contentType != "":
		return errors.New("--type is of use with NAME=VALUE alone")
	case len(remove) > 0 && event != "":
		return errors.New("--event is of no use with --delete")
	}

	query := address.Query()
	query["bump"] = append(query["bump"], bump...)
	query["field"] = append(query["field"], remove...)
	if event != "" {
		query.Set("event", event)
	}
	address.RawQuery = query.Encode()
	method, header, body := http.MethodPost, "", []byte(nil)
	if len(remove) > 0 {
		method = http.MethodDelete
	}
	if len(args) > 0 {
		values, err := readValues(args, cmd.InOrStdin())
		if err != nil {
			return err
		}
		if contentType == "" {
			header, body = encodeForm(values)
		} else if header, body, err = encodeMultipart(values, contentType); err != nil {
			return err
		}
	}

	req, err := http.NewRequestWithContext(cmd.Context(), method, address.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	if header != "" {
		req.Header.Set("Content-Type", header)
	}
	if token == "" {
		token = os.Getenv("COMET_TOKEN")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if asJSON {
		req.Header.Set("Accept", "application/json")
	}
	client := newClient()
	client.Timeout = publishTimeout
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w (is comet running, with a route to publish to at this address? --to names another)", shorter(err))
	}
	defer res.Body.Close()
	if err := checkAnswer(res, "publish "+address.Path, "--to"); err != nil {
		return err
	}
	if asJSON {
		_, err = io.Copy(cmd.OutOrStdout(), res.Body)
	}
	return err
}

// fieldValue is a value to publish.
type fieldValue struct{ name, value string }

// readValues returns what the arguments NAME=VALUE, NAME=@FILE and NAME=- stand for.
func readValues(args []string, stdin io.Reader) ([]fieldValue, error) {
	values := make([]fieldValue, len(args))
	consumed := ""
	for i, arg := range args {
		name, value, assigned := strings.Cut(arg, "=")
		if !assigned || name == "" {
			return nil, fmt.Errorf("%q is not NAME=VALUE, such as id=123", arg)
		}
		switch {
		case value == "-" && consumed != "":
			return nil, fmt.Errorf("both %s and %s are to come from the standard input, which there is once", consumed, name)
		case value == "-":
			consumed = name
			text, err := io.ReadAll(stdin)
			if err != nil {
				return nil, fmt.Errorf("reading the standard input for %s: %w", name, err)
			}
			value = string(text)
		case strings.HasPrefix(value, "@"):
			text, err := os.ReadFile(value[1:])
			if err != nil {
				return nil, fmt.Errorf("reading the value of %s: %w (a value that begins with @ itself can come from the standard input: %s=-)", name, err, name)
			}
			value = string(text)
		}
		values[i] = fieldValue{name, value}
	}
	return values, nil
}

// encodeForm returns values as an HTML form, in their order.
func encodeForm(values []fieldValue) (contentType string, body []byte) {
	pairs := make([]string, len(values))
	for i, v := range values {
		pairs[i] = url.QueryEscape(v.name) + "=" + url.QueryEscape(v.value)
	}
	return "application/x-www-form-urlencoded", []byte(strings.Join(pairs, "&"))
}

// encodeMultipart returns values as a form in which each has that type.
func encodeMultipart(values []fieldValue, valueType string) (contentType string, body []byte, err error) {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	for _, v := range values {
		part, err := form.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {mime.FormatMediaType("form-data", map[string]string{"name": v.name})},
			"Content-Type":        {valueType},
		})
		if err != nil {
			return "", nil, err
		}
		if _, err := io.WriteString(part, v.value); err != nil {
			return "", nil, err
		}
	}
	err = form.Close()
	return form.FormDataContentType(), b.Bytes(), err
}

// shorter returns an error of a request without its method and query.
func shorter(err error) error {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return err
	}
	address, _, _ := strings.Cut(failed.URL, "?")
	return fmt.Errorf("%s: %w", address, failed.Err)
}
