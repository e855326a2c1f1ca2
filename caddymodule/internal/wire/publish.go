package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// Publish is what a request to a publish route asks for: one of its parts.
type Publish struct {
	Batch  []store.Publication // to publish
	Read   []string            // fields to read
	Delete []string            // fields to delete
}

// PublishMethods are the methods of a publish route, as Allow names them.
const PublishMethods = "GET, HEAD, POST, PUT, DELETE"

// maxType bounds the Content-Type that is kept with a message.
const maxType = 255

// PublishRequest is what ReadPublish reads.
type PublishRequest struct {
	Method      string
	Query       string // as it was sent
	ContentType string
	Body        func() (string, *Error) // reads the body; called at most once
}

// ReadPublish reads a request to a publish route.
func ReadPublish(r PublishRequest) (Publish, *Error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
	default:
		return Publish{}, Errorf(http.StatusMethodNotAllowed, "the method %.20q is not one of %s", r.Method, PublishMethods)
	}
	query, err := parseQuery(r.Query)
	if err != nil {
		return Publish{}, badRequest("the query cannot be read: %v", err)
	}
	fields := all(query, "field")
	for _, name := range fields {
		if e := checkName("field", name); e != nil {
			return Publish{}, e
		}
	}
	event := first(query, "event")
	if event != "" {
		if e := checkName("event", event); e != nil {
			return Publish{}, e
		}
	}
	switch r.Method {
	case http.MethodPost:
		var batch []store.Publication
		var e *Error
		switch bump := all(query, "bump"); {
		case len(fields) > 0:
			batch, e = readData(r, fields)
		case len(bump) > 0:
			batch, e = readBump(bump)
		default:
			batch, e = readBody(r)
		}
		if e != nil {
			return Publish{}, e
		}
		for i := range batch {
			if batch[i].Event == "" {
				batch[i].Event = event
			}
		}
		return Publish{Batch: batch}, nil
	case http.MethodPut:
		if len(fields) == 0 {
			return Publish{}, badRequest("say which field to put the body on: PUT ?field=NAME")
		}
		batch, e := readData(r, fields)
		for i := range batch {
			batch[i].Event = event
		}
		return Publish{Batch: batch}, e
	}
	if len(fields) == 0 {
		return Publish{}, badRequest("say which field: ?field=NAME")
	}
	if r.Method == http.MethodDelete {
		return Publish{Delete: fields}, nil
	}
	return Publish{Read: fields}, nil
}

// readData reads a body that is the data for each of the fields.
func readData(r PublishRequest, fields []string) ([]store.Publication, *Error) {
	body, e := r.Body()
	if e != nil {
		return nil, e
	}
	contentType := r.ContentType
	if contentType != "" && (mediaType(contentType) == "" || len(contentType) > maxType) {
		contentType = "application/octet-stream" // what nobody can read is not passed on
	}
	if isJSON(mediaType(contentType)) && !validJSON(body) {
		return nil, badRequest("the body is not JSON, though its Content-Type is %s", contentType)
	}
	batch := make([]store.Publication, len(fields))
	for i, name := range fields {
		batch[i] = store.Publication{Field: name, Data: body, Type: contentType}
	}
	return batch, nil
}

func readBump(fields []string) ([]store.Publication, *Error) {
	batch := make([]store.Publication, len(fields))
	for i, name := range fields {
		if e := checkName("field", name); e != nil {
			return nil, e
		}
		batch[i] = store.Publication{Field: name, Bump: true}
	}
	return batch, nil
}

// readBody reads a body that names the fields itself.
func readBody(r PublishRequest) ([]store.Publication, *Error) {
	const want = "application/x-www-form-urlencoded, multipart/form-data or application/json; or name the field by ?field=NAME"
	if r.ContentType == "" {
		return nil, Errorf(http.StatusUnsupportedMediaType, "the request has no Content-Type; send %s", want)
	}
	contentType, params, err := mime.ParseMediaType(r.ContentType)
	if err != nil {
		return nil, Errorf(http.StatusUnsupportedMediaType, "the Content-Type cannot be read (%v); send %s", err, want)
	}
	var read func(body string) ([]store.Publication, *Error)
	switch contentType {
	case "application/x-www-form-urlencoded":
		read = readForm
	case "multipart/form-data":
		read = func(body string) ([]store.Publication, *Error) { return readMultipart(body, params["boundary"]) }
	case "application/json":
		read = readJSON
	default:
		return nil, Errorf(http.StatusUnsupportedMediaType, "a Content-Type of %.80q says nothing of fields; send %s", contentType, want)
	}
	body, e := r.Body()
	if e != nil {
		return nil, e
	}
	batch, e := read(body)
	if e != nil {
		return nil, e
	}
	if len(batch) == 0 {
		return nil, badRequest("the body names no field, so there is nothing to publish; send NAME=VALUE")
	}
	for i := range batch {
		if e := checkName("field", batch[i].Field); e != nil {
			return nil, e
		}
	}
	return batch, nil
}

func readForm(body string) ([]store.Publication, *Error) {
	pairs, err := parseQuery(body)
	if err != nil {
		return nil, badRequest("the form cannot be read: %v", err)
	}
	batch := make([]store.Publication, len(pairs))
	for i, p := range pairs {
		if !p.assigned {
			return nil, badRequest("the form has %.80q without a \"=\"; send NAME=VALUE, or name the field by ?field=NAME", p.name)
		}
		batch[i] = store.Publication{Field: p.name, Data: p.value}
	}
	return batch, nil
}

func readMultipart(body, boundary string) ([]store.Publication, *Error) {
	if boundary == "" {
		return nil, badRequest("the Content-Type multipart/form-data has no boundary")
	}
	var batch []store.Publication
	parts := multipart.NewReader(strings.NewReader(body), boundary)
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) && strings.Contains(body, "--"+boundary+"--") {
			return batch, nil
		}
		if err != nil {
			return nil, badRequest("the multipart body cannot be read: %v", err)
		}
		data, err := io.ReadAll(part)
		if err != nil {
			return nil, badRequest("the multipart body cannot be read: %v", err)
		}
		contentType := part.Header.Get("Content-Type")
		if mediaType(contentType) == "" || len(contentType) > maxType {
			contentType = ""
		}
		if isJSON(mediaType(contentType)) && !validJSON(string(data)) {
			return nil, badRequest("the part %.80q is not JSON, though its Content-Type is %s", part.FormName(), contentType)
		}
		batch = append(batch, store.Publication{Field: part.FormName(), Data: string(data), Type: contentType})
	}
}

func validJSON(s string) bool { return utf8.ValidString(s) && json.Valid([]byte(s)) }

// readJSON reads an object of fields and values, or an array of publications.
func readJSON(body string) ([]store.Publication, *Error) {
	if !utf8.ValidString(body) {
		return nil, badRequest("the JSON is not UTF-8")
	}
	decoder := json.NewDecoder(strings.NewReader(body))
	var batch []store.Publication
	var e *Error
	switch start, err := decoder.Token(); {
	case err != nil:
		return nil, badJSON(err)
	case start == json.Delim('{'):
		batch, e = readObject(decoder)
	case start == json.Delim('['):
		batch, e = readArray(decoder)
	default:
		return nil, badRequest("the JSON is neither an object of fields nor an array of publications; name the field by ?field=NAME to publish it as it is")
	}
	if e != nil {
		return nil, e
	}
	if _, err := decoder.Token(); err != nil { // the closing delimiter
		return nil, badJSON(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, badRequest("there is more after the end of the JSON")
	}
	return batch, nil
}

func badJSON(err error) *Error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badRequest("the JSON is cut off")
	}
	return badRequest("the JSON cannot be read: %v", err)
}

// members calls f with each member of the object that decoder has entered.
func members(decoder *json.Decoder, f func(key string, value json.RawMessage) *Error) *Error {
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return badJSON(err)
		}
		key, _ := token.(string) // a decoder lets nothing else be a key
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return badJSON(err)
		}
		if seen[key] {
			return badRequest("the JSON has the key %.80q twice", key)
		}
		seen[key] = true
		if string(value) == "null" {
			return badRequest("the JSON has null for %.80q; DELETE ?field=NAME deletes a field", key)
		}
		if e := f(key, value); e != nil {
			return e
		}
	}
	return nil
}

func readObject(decoder *json.Decoder) ([]store.Publication, *Error) {
	var batch []store.Publication
	e := members(decoder, func(key string, value json.RawMessage) *Error {
		p := store.Publication{Field: key}
		p.Data, p.Type = jsonData(value)
		batch = append(batch, p)
		return nil
	})
	return batch, e
}

// jsonData returns a string as its text, and anything else as its JSON.
func jsonData(value json.RawMessage) (data, contentType string) {
	var s string
	if json.Unmarshal(value, &s) == nil {
		return s, ""
	}
	var compact bytes.Buffer
	_ = json.Compact(&compact, value) // it was decoded, so it is valid
	return compact.String(), "application/json"
}

func readArray(decoder *json.Decoder) ([]store.Publication, *Error) {
	var batch []store.Publication
	for n := 1; decoder.More(); n++ {
		start, err := decoder.Token()
		if err != nil {
			return nil, badJSON(err)
		}
		if start != json.Delim('{') {
			return nil, badRequest("item %d of the JSON array is not an object with \"field\" and \"data\"", n)
		}
		item, e := readItem(decoder, n)
		if e != nil {
			return nil, e
		}
		if _, err := decoder.Token(); err != nil { // the closing brace
			return nil, badJSON(err)
		}
		batch = append(batch, item...)
	}
	return batch, nil
}

// readItem reads one publication of a JSON array, to one field or several.
func readItem(decoder *json.Decoder, n int) ([]store.Publication, *Error) {
	var (
		fields  []string
		p       store.Publication
		hasData bool
		typed   string
	)
	e := members(decoder, func(key string, value json.RawMessage) *Error {
		var err error
		switch key {
		case "field", "fields":
			if fields != nil {
				return badRequest("item %d of the JSON array has both \"field\" and \"fields\"", n)
			}
			if key == "fields" {
				err = json.Unmarshal(value, &fields)
				if err == nil && len(fields) == 0 {
					return badRequest("item %d of the JSON array names no field", n)
				}
			} else {
				fields = make([]string, 1)
				err = json.Unmarshal(value, &fields[0])
			}
		case "data":
			p.Data, p.Type = jsonData(value)
			hasData = true
		case "event":
			err = json.Unmarshal(value, &p.Event)
		case "type":
			err = json.Unmarshal(value, &typed)
		default:
			return badRequest("item %d of the JSON array has %.80q; known are field, fields, data, event and type", n, key)
		}
		if err != nil {
			return badRequest("item %d of the JSON array has a %q of the wrong type: %v", n, key, err)
		}
		return nil
	})
	if e != nil {
		return nil, e
	}
	if fields == nil || !hasData {
		return nil, badRequest("item %d of the JSON array wants \"field\" (or \"fields\") and \"data\"", n)
	}
	if p.Event != "" {
		if e := checkName("event", p.Event); e != nil {
			return nil, e
		}
	}
	if typed != "" {
		if mediaType(typed) == "" || len(typed) > maxType || strings.ContainsFunc(typed, isNotPrintable) {
			return nil, badRequest("item %d of the JSON array has a type that cannot be read: %.80q", n, typed)
		}
		if isJSON(mediaType(typed)) && !validJSON(p.Data) {
			return nil, badRequest("item %d of the JSON array has data that is not JSON, though its type is %s", n, typed)
		}
		p.Type = typed
	}
	batch := make([]store.Publication, len(fields))
	for i, name := range fields {
		batch[i] = p
		batch[i].Field = name
	}
	return batch, nil
}

// isNotPrintable reports what must not stand in a header.
func isNotPrintable(r rune) bool { return r < ' ' || r > '~' }
