package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/store"
	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// Admin adds Comet to Caddy's admin API, under /comet/: what the stores hold, who
// is held, and what somebody on call may do about it. See docs/admin.md.
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.comet",
		New: func() caddy.Module { return new(Admin) },
	}
}

// Routes implements caddy.AdminRouter.
func (a Admin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/comet/", Handler: caddy.AdminHandlerFunc(a.serve)}}
}

// The answers. Times are RFC 3339, durations as Go writes them.
type (
	adminStore struct {
		Store             string      `json:"store"`
		Limits            adminLimits `json:"limits"`
		Cursor            string      `json:"cursor"`
		Held              int         `json:"held"`
		Fields            int         `json:"fields"`
		Messages          int         `json:"messages"`
		Memory            int64       `json:"memory"`
		PublishedMessages uint64      `json:"published_messages"`
		PublishedBytes    uint64      `json:"published_bytes"`
		EvictedMessages   uint64      `json:"evicted_messages"`
		EvictedFields     uint64      `json:"evicted_fields"`
	}
	adminLimits struct {
		History          int    `json:"history"`
		HistoryAge       string `json:"history_age"`
		FieldIdle        string `json:"field_idle"`
		MaxFields        int    `json:"max_fields"`
		MaxMemory        int64  `json:"max_memory"`
		MaxHeld          int    `json:"max_held"`
		MaxHeldPerClient int    `json:"max_held_per_client"`
		Drain            string `json:"drain"`
	}
	adminField struct {
		Field    string            `json:"field"`
		Watchers int               `json:"watchers"`
		Messages int               `json:"messages"` // that are kept
		Bytes    int64             `json:"bytes"`
		Rate     float64           `json:"rate"` // messages a second, over the last minute
		Last     *time.Time        `json:"last,omitempty"`
		Kept     []json.RawMessage `json:"kept,omitempty"`
	}
	adminHeld struct {
		ID       uint64    `json:"id"`
		Site     string    `json:"site"`
		Route    string    `json:"route"`
		Remote   string    `json:"remote_addr"`
		ClientIP string    `json:"client_ip,omitempty"`
		Protocol string    `json:"protocol"`
		Format   string    `json:"format"`
		Since    time.Time `json:"since"`
		Held     string    `json:"held"`
		Fields   []string  `json:"fields"`
	}
)

func adminError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

func (a Admin) serve(w http.ResponseWriter, r *http.Request) error {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/comet/"), "/")
	if name == "" {
		return a.answer(w, r, map[string]func() (any, error){http.MethodGet: allStores})
	}
	p := findPool(name)
	if p == nil {
		return adminError(http.StatusNotFound, "there is no store %q; GET /comet/ lists them", name)
	}
	query := adminQuery{r}
	switch rest {
	case "":
		return a.answer(w, r, map[string]func() (any, error){
			http.MethodGet: func() (any, error) { return p.describe(), nil },
		})
	case "fields":
		return a.answer(w, r, map[string]func() (any, error){
			http.MethodGet:    func() (any, error) { return listFields(p, query) },
			http.MethodDelete: func() (any, error) { return deleteField(p, query) },
		})
	case "held":
		return a.answer(w, r, map[string]func() (any, error){
			http.MethodGet:    func() (any, error) { return listHeld(p, query) },
			http.MethodDelete: func() (any, error) { return endHeld(p, query) },
		})
	}
	return adminError(http.StatusNotFound, "there is no %q in a store; there are fields and held", rest)
}

// answer calls what the method asks for and writes what it returns as JSON.
func (Admin) answer(w http.ResponseWriter, r *http.Request, methods map[string]func() (any, error)) error {
	do := methods[r.Method]
	if do == nil {
		w.Header().Set("Allow", strings.Join(sortedKeys(methods), ", "))
		return adminError(http.StatusMethodNotAllowed, "the method %s is not one of %s", r.Method, strings.Join(sortedKeys(methods), ", "))
	}
	value, err := do()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(value)
}

// adminQuery reads the query of a request.
type adminQuery struct{ *http.Request }

// number returns a whole number of the query, from 0 to most.
func (q adminQuery) number(name string, otherwise, most int) (int, error) {
	text := q.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, adminError(http.StatusBadRequest, "%s=%s is not a number from 0 to %d", name, text, most)
	}
	return n, nil
}

// The bounds of a page.
const (
	defaultPage = 100
	maxPage     = 1000
	maxOffset   = 1 << 30
)

// page returns the part of all that limit and offset of the query ask for.
func page[T any](q adminQuery, all []T) ([]T, error) {
	limit, err := q.number("limit", defaultPage, maxPage)
	if err != nil {
		return nil, err
	}
	offset, err := q.number("offset", 0, maxOffset)
	if err != nil {
		return nil, err
	}
	all = all[min(offset, len(all)):]
	return all[:min(limit, len(all))], nil
}

func findPool(name string) *pool {
	var found *pool
	pools.Range(func(key, value any) bool {
		if key == name {
			found = value.(*pool)
		}
		return found == nil
	})
	return found
}

func allStores() (any, error) {
	stores := []adminStore{}
	pools.Range(func(_, value any) bool {
		stores = append(stores, value.(*pool).describe())
		return true
	})
	slices.SortFunc(stores, func(a, b adminStore) int { return strings.Compare(a.Store, b.Store) })
	return map[string]any{"stores": stores}, nil
}

func (p *pool) describe() adminStore {
	p.mu.Lock()
	l, held := p.limits, p.held.len
	p.mu.Unlock()
	stats := p.store.Stats()
	return adminStore{
		Store: p.name,
		Limits: adminLimits{
			History:          l.History,
			HistoryAge:       l.HistoryAge.String(),
			FieldIdle:        l.FieldIdle.String(),
			MaxFields:        l.MaxFields,
			MaxMemory:        l.MaxMemory,
			MaxHeld:          l.maxHeld,
			MaxHeldPerClient: l.maxHeldPerClient,
			Drain:            l.drain.String(),
		},
		Cursor:            p.store.Cursor().String(),
		Held:              held,
		Fields:            stats.Fields,
		Messages:          stats.Messages,
		Memory:            stats.Memory,
		PublishedMessages: stats.PublishedMessages,
		PublishedBytes:    stats.PublishedBytes,
		EvictedMessages:   stats.EvictedMessages,
		EvictedFields:     stats.EvictedFields,
	}
}

func newAdminField(info store.FieldInfo) adminField {
	f := adminField{
		Field:    info.Field,
		Watchers: info.Watchers,
		Messages: info.Messages,
		Bytes:    info.Bytes,
		Rate:     info.Rate,
	}
	if !info.Last.IsZero() {
		last := info.Last.UTC()
		f.Last = &last
	}
	return f
}

// listFields returns a page of the fields or, when one is named, that field with
// its last messages.
func listFields(p *pool, q adminQuery) (any, error) {
	if name := q.URL.Query().Get("field"); name != "" {
		last, err := q.number("last", 10, maxPage)
		if err != nil {
			return nil, err
		}
		infos := p.store.Describe([]string{name})
		if len(infos) == 0 {
			return nil, adminError(http.StatusNotFound, "there is no field %q", name)
		}
		f := newAdminField(infos[0])
		f.Kept = []json.RawMessage{}
		kept := p.store.Read(store.Query{Fields: []string{name}, Since: store.SinceLast(last)})
		for _, m := range kept.Messages {
			f.Kept = append(f.Kept, wire.MessageObject(m, kept.Cursor.Epoch))
		}
		return f, nil
	}
	var less func(a, b adminField) int
	switch by := cmp.Or(q.URL.Query().Get("sort"), "watchers"); by {
	case "watchers":
		less = func(a, b adminField) int { return cmp.Compare(b.Watchers, a.Watchers) }
	case "rate":
		less = func(a, b adminField) int { return cmp.Compare(b.Rate, a.Rate) }
	case "name":
		less = func(_, _ adminField) int { return 0 }
	default:
		return nil, adminError(http.StatusBadRequest, "sort=%s is not one of watchers, rate and name", by)
	}
	names := p.store.Names()
	all := make([]adminField, 0, len(names))
	for chunk := range slices.Chunk(names, maxPage) { // the store is locked for one at a time
		for _, info := range p.store.Describe(chunk) {
			all = append(all, newAdminField(info))
		}
	}
	slices.SortFunc(all, func(a, b adminField) int {
		return cmp.Or(less(a, b), strings.Compare(a.Field, b.Field))
	})
	fields, err := page(q, all)
	return map[string]any{"total": len(all), "fields": fields}, err
}

func deleteField(p *pool, q adminQuery) (any, error) {
	name := q.URL.Query().Get("field")
	if name == "" {
		return nil, adminError(http.StatusBadRequest, "say which field: ?field=NAME")
	}
	_, cursor := p.store.Delete([]string{name})
	return map[string]string{"cursor": cursor.String()}, nil
}

func listHeld(p *pool, q adminQuery) (any, error) {
	field := q.URL.Query().Get("field")
	p.mu.Lock()
	all := p.held.all(func(h *held) bool { return field == "" || slices.Contains(h.waiter.fields(), field) })
	p.mu.Unlock()
	wanted, err := page(q, all)
	if err != nil {
		return nil, err
	}
	list := make([]adminHeld, 0, len(wanted))
	for _, h := range wanted {
		list = append(list, h.describe())
	}
	return map[string]any{"total": len(all), "held": list}, nil
}

// describe returns what there is to know of a held request.
func (h *held) describe() adminHeld {
	route := h.holding()
	d := adminHeld{
		ID:       h.id,
		Remote:   h.waiter.remote(),
		Protocol: h.waiter.protocol(),
		Format:   string(h.style.Value().Format),
		Since:    h.since.time().UTC(),
		Held:     h.since.elapsed().Round(time.Millisecond).String(),
		Fields:   h.waiter.fields(),
	}
	if client := h.client(); client.IsValid() {
		d.ClientIP = client.String()
	}
	for _, rt := range route.app.routes() {
		if rt.handler == route {
			d.Site, d.Route = rt.site(), rt.paths()
		}
	}
	return d
}

// endHeld has a held request answered as on a timeout.
func endHeld(p *pool, q adminQuery) (any, error) {
	text := q.URL.Query().Get("id")
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, "say which request: ?id=NUMBER, as GET lists it")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.held.all(func(h *held) bool { return h.id == id }) {
		h.waiter.end(outcomeEnded)
		return map[string]uint64{"id": id}, nil
	}
	return nil, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("no request with the id " + text + " is held")}
}

var _ caddy.AdminRouter = Admin{}
