package wire

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

func TestReadResponse(t *testing.T) {
	many := strings.Repeat("a=&", MaxFields)
	for name, c := range map[string]struct {
		said   []string
		want   []store.Publication
		status int // 0: it is read
	}{
		"in order":        {[]string{"id=1&news=a+b%26", "id=2"}, []store.Publication{{Field: "id", Data: "1"}, {Field: "news", Data: "a b&"}, {Field: "id", Data: "2"}}, 0},
		"an empty one":    {[]string{"", "id=1&"}, []store.Publication{{Field: "id", Data: "1"}}, 0},
		"an empty value":  {[]string{"id="}, []store.Publication{{Field: "id"}}, 0},
		"a placeholder":   {[]string{"id={env.HOME}"}, []store.Publication{{Field: "id", Data: "{env.HOME}"}}, 0},
		"nothing":         {[]string{"", "&"}, nil, http.StatusBadRequest},
		"no value":        {[]string{"id=1", "id"}, nil, http.StatusBadRequest},
		"no name":         {[]string{"=1"}, nil, http.StatusBadRequest},
		"a control":       {[]string{"a%0Ab=1"}, nil, http.StatusBadRequest},
		"not UTF-8":       {[]string{"\xff=1"}, nil, http.StatusBadRequest},
		"no escape":       {[]string{"id=%z"}, nil, http.StatusBadRequest},
		"a field more":    {[]string{many, "b=1"}, nil, http.StatusRequestEntityTooLarge},
		"a byte more":     {[]string{"a=" + strings.Repeat("x", MaxResponse-5), "b=1", "&"}, nil, http.StatusRequestEntityTooLarge},
		"a long name":     {[]string{strings.Repeat("x", MaxName+1) + "=1"}, nil, http.StatusBadRequest},
		"all that may be": {[]string{many}, slices.Repeat([]store.Publication{{Field: "a"}}, MaxFields), 0},
	} {
		got, e := ReadResponse(c.said)
		if status := statusOf(e); status != c.status {
			t.Errorf("%s: %v; want status %d", name, e, c.status)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func statusOf(e *Error) int {
	if e == nil {
		return 0
	}
	return e.Status
}

func FuzzReadResponse(f *testing.F) {
	f.Add("id=124&news=hi", "id=125")
	f.Add("a%0Ab=1", "&&=")
	f.Fuzz(func(t *testing.T, first, second string) {
		batch, e := ReadResponse([]string{first, second})
		if (e == nil) != (len(batch) > 0) || len(batch) > MaxFields {
			t.Fatalf("%d publications, and %v", len(batch), e)
		}
		for _, p := range batch {
			if err := CheckName(p.Field); err != nil || p.Bump || p.Type != "" || p.Event != "" {
				t.Fatalf("%+v: %v", p, err)
			}
		}
	})
}
