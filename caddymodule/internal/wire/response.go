package wire

import (
	"net/http"
	"strings"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

// MaxResponse is how many bytes of Comet-Publish a response may have.
const MaxResponse = 8 << 10

// ReadResponse reads the values of Comet-Publish in the header of a response. Each
// is a form of fields and values, at most MaxFields in all.
func ReadResponse(said []string) ([]store.Publication, *Error) {
	size := 0
	for _, form := range said {
		size += len(form)
	}
	if size > MaxResponse {
		return nil, Errorf(http.StatusRequestEntityTooLarge, "Comet-Publish has %d bytes, and at most %d are allowed", size, MaxResponse)
	}
	var batch []store.Publication
	for _, form := range said {
		pairs, err := parseQuery(form)
		if err != nil {
			return nil, badRequest("Comet-Publish cannot be read: %v", err)
		}
		for _, p := range pairs {
			if !p.assigned {
				return nil, badRequest("Comet-Publish has %.80q without a \"=\"; send NAME=VALUE", p.name)
			}
			if e := checkName("field", p.name); e != nil {
				return nil, e
			}
			// cloned, else it keeps the whole header
			batch = append(batch, store.Publication{Field: p.name, Data: strings.Clone(p.value)})
		}
	}
	switch {
	case len(batch) == 0:
		return nil, badRequest("Comet-Publish names no field; send NAME=VALUE")
	case len(batch) > MaxFields:
		return nil, Errorf(http.StatusRequestEntityTooLarge, "Comet-Publish has %d fields, and at most %d are allowed", len(batch), MaxFields)
	}
	return batch, nil
}
