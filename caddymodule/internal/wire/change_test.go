package wire

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
)

func TestReadChange(t *testing.T) {
	route := HoldRoute{Allows: func(name string) bool { return !strings.HasPrefix(name, "secret") }}
	cursor := store.Cursor{Epoch: "abcdefgh", Position: 7}
	many := make([]string, MaxFields+1)
	for i := range many {
		many[i] = fmt.Sprintf("%q", fmt.Sprint("f", i))
	}
	for _, test := range []struct {
		body           string
		watch, unwatch []string
		after          bool
		status         int
		detail         string
	}{
		{body: `{}`},
		{body: `{"watch":["a","b","a"],"unwatch":["c"]}`, watch: []string{"a", "b"}, unwatch: []string{"c"}},
		{body: `{"watch":["a"],"after":"` + cursor.String() + `"}`, watch: []string{"a"}, after: true},
		{body: `{"unwatch":["secret"]}`, unwatch: []string{"secret"}},
		{body: `{"after":null}`},
		{body: ``, status: http.StatusBadRequest, detail: "the body is not as in"},
		{body: `[]`, status: http.StatusBadRequest, detail: "the body is not as in"},
		{body: `{"wach":["a"]}`, status: http.StatusBadRequest, detail: "wach"},
		{body: `{} {}`, status: http.StatusBadRequest, detail: "after the object"},
		{body: `{"watch":[""]}`, status: http.StatusBadRequest, detail: "is empty"},
		{body: `{"watch":["a"],"after":"yesterday"}`, status: http.StatusBadRequest, detail: "is not a cursor"},
		{body: `{"watch":["secret/1"]}`, status: http.StatusForbidden, detail: "add `field secret/1`"},
		{body: `{"watch":[` + strings.Join(many, ",") + `]}`, status: http.StatusBadRequest, detail: "at most 64"},
	} {
		c, e := ReadChange(route, test.body)
		if test.status != 0 {
			if e == nil || e.Status != test.status || !strings.Contains(e.Detail, test.detail) {
				t.Errorf("%s: got the error %v", test.body, e)
			}
			continue
		}
		if e != nil || !slices.Equal(c.Watch, test.watch) || !slices.Equal(c.Unwatch, test.unwatch) {
			t.Errorf("%s: got %+v and the error %v", test.body, c, e)
		}
		if test.after != (c.After != nil) || test.after && *c.After != cursor {
			t.Errorf("%s: got after %v", test.body, c.After)
		}
	}
}

func TestAChangeIsApplied(t *testing.T) {
	c := Change{Watch: []string{"b", "c"}, Unwatch: []string{"a", "c"}}
	fields, e := c.Apply([]string{"a", "b", "d"})
	if want := []string{"b", "d", "c"}; e != nil || !slices.Equal(fields, want) {
		t.Errorf("got %v and the error %v, want %v", fields, e, want)
	}
	var all []string
	for i := range MaxFields {
		all = append(all, fmt.Sprint("f", i))
	}
	more := Change{Watch: []string{"one more"}}
	if _, e := more.Apply(all); e == nil || e.Status != http.StatusBadRequest {
		t.Errorf("got the error %v", e)
	}
	instead := Change{Watch: []string{"one more"}, Unwatch: []string{"f0"}}
	if fields, e := instead.Apply(all); e != nil || len(fields) != MaxFields {
		t.Errorf("got %d fields and the error %v", len(fields), e)
	}
}
