package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-comet/caddy-comet/caddymodule/internal/wire"
)

// parseGlobalOption parses the comet global option. Syntax:
//
//	comet [<store>] {
//	    history             <count> [<age>]
//	    field_idle          <duration>
//	    max_fields          <count>
//	    max_memory          <size>
//	    max_held            <count>
//	    max_held_per_client <count>
//	    drain               <duration>
//	    parking             on|off|trim_tls
//	}
//
// It may be repeated, once a store. Without a name it is about the store of the
// sites that name none, and only there may parking stand, which is about all.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := &App{Stores: make(map[string]*StoreConfig)}
	if previous, ok := existing.(httpcaddyfile.App); ok {
		// what was parsed before can only be had back as JSON
		if err := caddy.StrictUnmarshalJSON(previous.Value, app); err != nil {
			return nil, err
		}
	}
	for d.Next() {
		name, unnamed := DefaultStore, true
		if d.NextArg() {
			name, unnamed = d.Val(), false
		}
		if d.NextArg() {
			return nil, d.ArgErr()
		}
		if !storeName.MatchString(name) {
			return nil, d.Errf("the store name %q is not up to 64 letters, digits, hyphens and underscores", name)
		}
		if app.Stores[name] != nil {
			return nil, d.Errf("the store %s is configured twice", name)
		}
		config, err := parseStore(d, app, unnamed)
		if err != nil {
			return nil, err
		}
		if unnamed && app.Parking != "" && *config == (StoreConfig{}) {
			continue // it is about parking alone, and the store may not even be used
		}
		app.Stores[name] = config
	}
	return httpcaddyfile.App{Name: "comet", Value: caddyconfig.JSON(app, nil)}, nil
}

// parseStore parses the block of a store. With unnamed it may have the options of
// app itself.
func parseStore(d *caddyfile.Dispenser, app *App, unnamed bool) (*StoreConfig, error) {
	c := new(StoreConfig)
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] {
			return nil, d.Errf("%s is given twice", option)
		}
		seen[option] = true
		args := d.RemainingArgs()
		if len(args) == 0 || len(args) > 1 && (option != "history" || len(args) > 2) {
			return nil, d.ArgErr()
		}
		var err error
		switch option {
		case "history":
			var n int
			if n, err = parseCount(args[0]); err == nil {
				c.History = &n
			}
			if err == nil && len(args) == 2 {
				c.HistoryAge, err = parsePositive(args[1])
			}
		case "field_idle":
			c.FieldIdle, err = parsePositive(args[0])
		case "max_fields":
			c.MaxFields, err = parseAtLeastOne(args[0])
		case "max_memory":
			c.MaxMemory, err = parseSize(args[0])
		case "max_held":
			c.MaxHeld, err = parseAtLeastOne(args[0])
		case "max_held_per_client":
			c.MaxHeldPerClient, err = parseAtLeastOne(args[0])
		case "drain":
			var drain time.Duration
			drain, err = parseDuration(args[0])
			over := caddy.Duration(drain)
			c.Drain = &over
		case "parking":
			if !unnamed {
				return nil, d.Err("parking is not of one store: it goes into the comet block without a name")
			}
			app.Parking, err = parseParking(args[0])
		default:
			return nil, d.Errf("there is no comet option %q; there are history, field_idle, max_fields, max_memory, max_held, max_held_per_client, drain and parking", option)
		}
		if err != nil {
			return nil, d.WrapErr(fmt.Errorf("%s: %w", option, err))
		}
	}
	return c, nil
}

func parseParking(s string) (string, error) {
	if s != parkingOn && s != parkingOff && s != parkingTrim {
		return "", fmt.Errorf("%q is not one of %s, %s and %s", s, parkingOn, parkingOff, parkingTrim)
	}
	return s, nil
}

// parseDirective parses the comet directive. Syntax:
//
//	comet {
//	    store <name>
//	    publish <matcher> {
//	        allow    <addresses...>
//	        token    <token>
//	        max_body <size>
//	    }
//	    hold <matcher> {
//	        field       <names...>
//	        signed      <keys...>
//	        ask         <uri> [for <duration>]
//	        forward
//	        seen        <placeholders...>
//	        on_timeout  forward|204|304
//	        share       [public] [by <headers...>]
//	        pace        [<requests>/s|m|h] [<requests at once>]
//	        timeout     <duration>[-<duration>]
//	        formats     <formats...>
//	        retry       <duration>[-<duration>]
//	        raw_timeout 200|204|304|408
//	        heartbeat   <duration>
//	        stream_max  <duration>[-<duration>]
//	        buffer      <messages> [<size>]
//	        cors {
//	            origins <origins...>
//	            credentials
//	            max_age <duration>
//	            private_network
//	        }
//	    }
//	    client <matcher>
//	    touch <matcher> <fields...>
//	    from_responses
//	}
//
// Without a block it is `publish /config`, `hold /push` and `client /comet.js`.
// With one, only what it lists exists; all but store and from_responses may be
// repeated.
//
// A path after publish, hold, client or touch matches the path as the client sent it
// or as it now is. The directive becomes a route for each: of paths the more specific
// one first, what matches all last, and others where they are listed. Those of touch
// come after these, which answer what they match, and that of from_responses after
// them; they pass requests on. With a hold comes a last one, which tells what all
// other requests go on to, and its pages, the cursor of that moment.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next()
	if h.NextArg() {
		return nil, h.Errf("comet takes no matcher or other argument here, but %q: it goes inside, as in hold %[1]s on a line of the block", h.Val())
	}
	p := directive{Helper: h, taken: takenPaths(h)}
	for nesting := h.Nesting(); h.NextBlock(nesting); {
		if err := p.parseOption(); err != nil {
			return nil, err
		}
	}
	if hasBlock := h.Val() == "}"; !hasBlock {
		for _, d := range []struct {
			option, path string
			handler      caddyhttp.MiddlewareHandler
		}{
			{"publish", "/config", new(Publish)},
			{"hold", "/push", new(Hold)},
			{"client", "/comet.js", new(Client)},
		} {
			matcher := caddy.ModuleMap{"path": caddyconfig.JSON(caddyhttp.MatchPath{d.path}, nil)}
			if err := errors.Join(p.take(d.option, d.path, matcher), p.add(matcher, d.handler)); err != nil {
				return nil, err
			}
		}
	}
	if len(p.found)+len(p.touches)+len(p.responses) == 0 {
		return nil, h.Err("this comet block lists none of publish, hold, client, touch and from_responses, so it would do nothing: add one, or write comet without a block to have the first three")
	}
	return p.routes(), nil
}

// directive is a comet directive as far as it was parsed.
type directive struct {
	httpcaddyfile.Helper
	store     string
	found     []directiveRoute  // that answer
	touches   []directiveRoute  // that pass requests on
	responses []directiveRoute  // likewise: of from_responses
	taken     map[string]string // which option has a path, or another matcher, already
}

// takenPaths returns what the comet directives of the block that h stands in have
// taken: those of one site, outside of handle and the like, are one list of
// routes.
func takenPaths(h httpcaddyfile.Helper) map[string]string {
	type block struct {
		state map[string]any // is one for the sites, and else one for each block
		site  string
		taken map[string]string
	}
	const key = "comet.taken"
	blocks, _ := h.State[key].([]block)
	site := siteKeys(h)
	for _, b := range blocks {
		if b.site == site && reflect.ValueOf(b.state).Pointer() == reflect.ValueOf(h.BlockState).Pointer() {
			return b.taken
		}
	}
	b := block{h.BlockState, site, make(map[string]string)}
	h.State[key] = append(blocks, b)
	return b.taken
}

// siteKeys returns the addresses of the site that h stands in. Nothing public
// tells. Where nothing else tells either, each directive is looked at alone.
func siteKeys(h httpcaddyfile.Helper) string {
	block := reflect.ValueOf(h).FieldByName("parentBlock")
	if block.Kind() == reflect.Struct {
		if keys := block.FieldByName("Keys"); keys.Kind() == reflect.Slice {
			var texts []string
			for i := range keys.Len() {
				if key := keys.Index(i); key.Kind() == reflect.Struct && key.FieldByName("Text").Kind() == reflect.String {
					texts = append(texts, key.FieldByName("Text").String())
				}
			}
			return strings.Join(texts, " ")
		}
	}
	return fmt.Sprintf("%s:%d", h.File(), h.Line())
}

// takes returns what a matcher takes: its paths when it has nothing else, else
// itself.
func takes(token string, matcher caddy.ModuleMap) []string {
	var paths []string
	if len(matcher) == 1 && json.Unmarshal(matcher["path"], &paths) == nil {
		for i := range paths {
			paths[i] = strings.ToLower(paths[i]) // as Caddy matches them
		}
		return paths
	}
	return []string{token}
}

type directiveRoute struct {
	matcher caddy.ModuleMap // nil matches all
	paths   MatchPath
	handler caddyhttp.MiddlewareHandler
}

// add adds a route that answers.
func (p *directive) add(matcher caddy.ModuleMap, handler caddyhttp.MiddlewareHandler) error {
	r, err := newDirectiveRoute(matcher, handler)
	p.found = append(p.found, r)
	return err
}

// newDirectiveRoute makes a route. Its paths match the path as the client sent it,
// too.
func newDirectiveRoute(matcher caddy.ModuleMap, handler caddyhttp.MiddlewareHandler) (directiveRoute, error) {
	r := directiveRoute{matcher: matcher, handler: handler}
	if paths, ok := matcher["path"]; ok {
		if err := json.Unmarshal(paths, &r.paths); err != nil {
			return r, err
		}
		r.matcher = maps.Clone(matcher)
		delete(r.matcher, "path")
		r.matcher["comet_path"] = paths
	}
	return r, nil
}

// specificity orders routes by their longest path, an exact one before a prefix.
func (r *directiveRoute) specificity() int {
	longest := 0
	for _, path := range r.paths {
		prefix, isPrefix := strings.CutSuffix(path, "*")
		n := 2 * len(prefix)
		if !isPrefix {
			n++
		}
		longest = max(longest, n)
	}
	return longest
}

// sortRoutes orders routes as Caddy does those of one directive: what matches all
// comes last, the more specific path first, and others keep their place.
func sortRoutes(routes []directiveRoute) {
	slices.SortStableFunc(routes, func(a, b directiveRoute) int {
		switch {
		case a.matcher == nil && b.matcher != nil:
			return 1
		case a.matcher != nil && b.matcher == nil:
			return -1
		}
		return 0
	})
	var places []int
	var byPath []directiveRoute
	for i, r := range routes {
		if len(r.paths) > 0 {
			places = append(places, i)
			byPath = append(byPath, r)
		}
	}
	slices.SortStableFunc(byPath, func(a, b directiveRoute) int { return b.specificity() - a.specificity() })
	for i, place := range places {
		routes[place] = byPath[i]
	}
}

func (p *directive) parseOption() error {
	switch option := p.Val(); option {
	case "store":
		if p.store != "" {
			return p.Err("store is given twice")
		}
		if !p.AllArgs(&p.store) {
			return p.ArgErr()
		}
		if !storeName.MatchString(p.store) {
			return p.Errf("the store name %q is not up to 64 letters, digits, hyphens and underscores", p.store)
		}
		return nil
	case "publish":
		return p.parseRoute(option, p.parsePublish)
	case "hold":
		return p.parseRoute(option, p.parseHold)
	case "client":
		return p.parseRoute(option, p.parseClient)
	case "touch":
		return p.parseTouch()
	case "from_responses":
		return p.parseFromResponses()
	default:
		return p.Errf("there is no comet option %q; there are store, publish, hold, client, touch and from_responses", option)
	}
}

// parseRoute parses an option that begins with a matcher.
func (p *directive) parseRoute(option string, parse func() (caddyhttp.MiddlewareHandler, error)) error {
	matcher, err := p.parseMatcher(option, "such as publish /config, hold /push or client /comet.js")
	if err != nil {
		return err
	}
	if err := p.take(option, p.Val(), matcher); err != nil {
		return err
	}
	if p.NextArg() {
		return p.Errf("%s takes one matcher, and %q is one too many", option, p.Val())
	}
	handler, err := parse()
	if err != nil {
		return err
	}
	return p.add(matcher, handler)
}

// parseMatcher parses the matcher that an option begins with.
func (p *directive) parseMatcher(option, example string) (caddy.ModuleMap, error) {
	matcher, ok, err := p.MatcherToken()
	switch token := p.Val(); {
	case err != nil:
		return nil, p.WrapErr(err)
	case !ok && token == option:
		return nil, p.Errf("%s wants a path or another matcher, %s", option, example)
	case !ok:
		return nil, p.Errf("%s wants a path or another matcher, and %q is none; did you mean /%[2]s?", option, token)
	}
	return matcher, nil
}

// take notes what an option takes, unless another has it.
func (p *directive) take(option, token string, matcher caddy.ModuleMap) error {
	for _, key := range takes(token, matcher) {
		if by := p.taken[key]; by != "" {
			return p.Errf("%s %s would never be reached: this site has %s already", option, token, by)
		}
		p.taken[key] = option + " " + token
	}
	return nil
}

func (p *directive) parsePublish() (caddyhttp.MiddlewareHandler, error) {
	handler := new(Publish)
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		option := p.Val()
		args := p.RemainingArgs()
		if len(args) == 0 {
			return nil, p.ArgErr()
		}
		var err error
		switch option {
		case "allow":
			for _, entry := range args {
				if err == nil {
					err = checkAllow(entry)
				}
			}
			handler.Allow = append(handler.Allow, args...)
		case "token":
			if slices.Contains(args, "") {
				err = errors.New("a token is empty")
			}
			handler.Tokens = append(handler.Tokens, args...)
		case "max_body":
			if len(args) > 1 {
				return nil, p.ArgErr()
			}
			handler.MaxBody, err = parseSize(args[0])
		default:
			return nil, p.Errf("there is no publish option %q; there are allow, token and max_body", option)
		}
		if err != nil {
			return nil, p.WrapErr(fmt.Errorf("%s: %w", option, err))
		}
	}
	return handler, nil
}

func (p *directive) parseHold() (caddyhttp.MiddlewareHandler, error) {
	handler, forward, forwards := new(Hold), Forward{}, false
	seen := make(map[string]bool)
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		option := p.Val()
		args := p.RemainingArgs()
		if option == "cors" && len(args) > 0 {
			return nil, p.Errf("cors takes a block, with origins %s on a line of it", strings.Join(args, " "))
		}
		if len(args) == 0 && !slices.Contains([]string{"cors", "forward", "share"}, option) {
			return nil, p.ArgErr()
		}
		most := map[string]int{"ask": 3, "timeout": 1, "retry": 1, "raw_timeout": 1, "heartbeat": 1, "stream_max": 1, "buffer": 2, "forward": 0, "on_timeout": 1, "pace": 2}
		if n, ok := most[option]; ok && len(args) > n {
			return nil, p.ArgErr()
		}
		if seen[option] && option != "field" {
			return nil, p.Errf("%s is given twice", option)
		}
		seen[option] = true
		var err error
		switch option {
		case "field":
			for _, name := range args {
				if _, e := parsePattern(name); err == nil {
					err = e
				}
				if err == nil && slices.Contains(handler.Fields, name) {
					err = fmt.Errorf("%s is given twice", name)
				}
				handler.Fields = append(handler.Fields, name)
			}
		case "signed":
			if slices.Contains(args, "") {
				err = errors.New("a key is empty")
			}
			handler.Signed = args
		case "ask":
			handler.Ask, err = parseAsk(args)
		case "timeout":
			handler.Timeout, err = parsePositiveRange(args[0])
		case "formats":
			for _, name := range args {
				if err == nil {
					err = checkFormat(name)
				}
				if format := wire.Format(name); err == nil && slices.Contains(handler.Formats, format) {
					err = fmt.Errorf("the format %s is given twice", name)
				}
				handler.Formats = append(handler.Formats, wire.Format(name))
			}
		case "retry":
			handler.Retry, err = parsePositiveRange(args[0])
		case "raw_timeout":
			handler.RawTimeout, err = parseRawTimeout(args[0])
		case "heartbeat":
			handler.Heartbeat, err = parsePositive(args[0])
		case "stream_max":
			handler.StreamMax, err = parsePositiveRange(args[0])
		case "buffer":
			handler.BufferMessages, err = parseAtLeastOne(args[0])
			if err == nil && len(args) > 1 {
				handler.BufferBytes, err = parseSize(args[1])
			}
		case "forward":
			forwards = true
		case "seen":
			forward.Seen = args
		case "on_timeout":
			forward.OnTimeout, err = parseOnTimeout(args[0])
		case "share":
			forward.Share, err = parseShare(args)
		case "pace":
			forward.Pace, err = parsePace(args)
		case "cors":
			if handler.CORS, err = p.parseCORS(); err != nil {
				return nil, err // it says where
			}
		default:
			return nil, p.Errf("there is no hold option %q; there are field, signed, ask, timeout, formats, retry, raw_timeout, heartbeat, stream_max, buffer, cors, forward, seen, on_timeout, share and pace", option)
		}
		if err != nil {
			return nil, p.WrapErr(fmt.Errorf("%s: %w", option, err))
		}
	}
	for _, option := range sortedKeys(seen) {
		switch with := slices.Contains(forwardOptions, option); {
		case with && !forwards:
			return nil, p.Errf("%s goes with forward, and there is none in this hold block", option)
		case forwards && slices.Contains(answerOptions, option):
			return nil, p.Errf("%s is about answers of Comet, and with forward the application answers", option)
		}
	}
	if forwards {
		handler.Forward = &forward
		fields := handler.Fields
		if len(fields) == 0 {
			fields = defaultFields
		}
		if err := forward.check(fields, handler.Ask != nil); err != nil {
			return nil, p.WrapErr(err)
		}
	}
	return handler, nil
}

// parseAsk parses what stands after ask.
func parseAsk(args []string) (*Ask, error) {
	a := &Ask{URI: args[0]}
	if len(args) > 1 {
		if args[1] != "for" || len(args) == 2 {
			return nil, fmt.Errorf("after the URI may stand for and a duration, as in ask %s for 10s, and not %s", a.URI, strings.Join(args[1:], " "))
		}
		d, err := parseDuration(args[2])
		if err != nil {
			return nil, err
		}
		lasts := caddy.Duration(d)
		a.For = &lasts
	}
	return a, checkAsk(a.URI)
}

// What goes with forward alone, and what does not go with it.
var (
	forwardOptions = []string{"seen", "on_timeout", "share", "pace"}
	answerOptions  = []string{"signed", "formats", "raw_timeout", "heartbeat", "stream_max", "buffer", "cors"}
)

// parseOnTimeout reads what becomes of a forwarded request on a timeout.
func parseOnTimeout(s string) (status int, err error) {
	if s == "forward" {
		return 0, nil
	}
	if status, err = strconv.Atoi(s); err != nil || status != http.StatusNoContent && status != http.StatusNotModified {
		return 0, fmt.Errorf("it is forward, 204 or 304, not %q", s)
	}
	return status, nil
}

// parseShare reads `share [public] [by <headers...>]`.
func parseShare(args []string) (*Share, error) {
	share := new(Share)
	if len(args) > 0 && args[0] == "public" {
		share.Public, args = true, args[1:]
	}
	if len(args) > 0 {
		if args[0] != "by" || len(args) == 1 {
			return nil, fmt.Errorf("it is share, or share public, and may have by and names of headers behind it, not %q", args)
		}
		share.By = args[1:]
	}
	return share, share.check()
}

// parsePace reads `pace 200/s 50`, of which one may be missing.
func parsePace(args []string) (*Pace, error) {
	pace := new(Pace)
	for _, arg := range args {
		number, unit, isRate := strings.Cut(arg, "/")
		n, err := strconv.ParseFloat(number, 64)
		seconds, known := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
		switch {
		case err != nil || !(n > 0) || n > 1e6 || isRate && !known || !isRate && n != math.Trunc(n):
			return nil, fmt.Errorf("%q is neither a rate, such as 200/s or 30/m, nor a number of requests at once, such as 50", arg)
		case isRate && pace.Rate == 0:
			pace.Rate = n / seconds
		case !isRate && pace.AtOnce == 0:
			pace.AtOnce = int(n)
		default:
			return nil, fmt.Errorf("%q is given beside another of its kind", arg)
		}
	}
	return pace, nil
}

func (p *directive) parseCORS() (*CORS, error) {
	c := new(CORS)
	seen := make(map[string]bool)
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		option := p.Val()
		args := p.RemainingArgs()
		if seen[option] && option != "origins" {
			return nil, p.Errf("%s is given twice", option)
		}
		seen[option] = true
		var err error
		switch option {
		case "origins":
			if len(args) == 0 {
				return nil, p.ArgErr()
			}
			c.Origins = append(c.Origins, args...)
		case "credentials":
			if len(args) > 0 {
				return nil, p.ArgErr()
			}
			c.Credentials = true
		case "private_network":
			if len(args) > 0 {
				return nil, p.ArgErr()
			}
			c.PrivateNetwork = true
		case "max_age":
			if len(args) != 1 {
				return nil, p.ArgErr()
			}
			c.MaxAge, err = parsePositive(args[0])
		default:
			return nil, p.Errf("there is no cors option %q; there are origins, credentials, max_age and private_network", option)
		}
		if err == nil {
			err = c.readOrigins()
		}
		if err != nil {
			return nil, p.WrapErr(fmt.Errorf("cors: %s: %w", option, err))
		}
	}
	if len(c.Origins) == 0 {
		return nil, p.WrapErr(fmt.Errorf("cors: %w", errNoOrigins))
	}
	return c, nil
}

func (p *directive) parseClient() (caddyhttp.MiddlewareHandler, error) {
	if p.NextBlock(p.Nesting()) {
		return nil, p.Errf("client has no options, and no %q", p.Val())
	}
	return new(Client), nil
}

func (p *directive) parseTouch() error {
	const example = "touch /save.php list"
	matcher, err := p.parseMatcher("touch", "and then fields, such as "+example)
	if err != nil {
		return err
	}
	handler := &Touch{Fields: p.RemainingArgs()}
	if len(handler.Fields) == 0 {
		return p.Errf("touch wants fields after its matcher, such as %s", example)
	}
	for _, field := range handler.Fields {
		if _, err := parseTouched(field); err != nil {
			return p.WrapErr(fmt.Errorf("touch: %w", err))
		}
	}
	if p.NextBlock(p.Nesting()) {
		return p.Errf("touch has no options, and no %q", p.Val())
	}
	r, err := newDirectiveRoute(matcher, handler)
	p.touches = append(p.touches, r)
	return err
}

func (p *directive) parseFromResponses() error {
	const option = "from_responses"
	if p.taken[option] != "" {
		return p.Errf("%s is given twice", option)
	}
	p.taken[option] = option
	if p.NextArg() {
		return p.Errf("%s is about all responses, and %q is one word too many", option, p.Val())
	}
	if p.NextBlock(p.Nesting()) {
		return p.Errf("%s has no options, and no %q", option, p.Val())
	}
	p.responses = append(p.responses, directiveRoute{handler: new(FromResponses)})
	return nil
}

// routes returns a route for each option, and one for the cursor. Of those that
// answer the more specific path comes first, as Caddy orders the routes of one
// directive.
func (p *directive) routes() []httpcaddyfile.ConfigValue {
	sortRoutes(p.found)
	all := slices.Concat(p.found, p.touches, p.responses)
	if slices.ContainsFunc(p.found, func(r directiveRoute) bool { _, is := r.handler.(*Hold); return is }) {
		all = append(all, directiveRoute{handler: new(Cursor)})
	}
	values := make([]httpcaddyfile.ConfigValue, 0, len(all))
	for _, r := range all {
		switch handler := r.handler.(type) {
		case *Publish:
			handler.Store = p.store
		case *Hold:
			handler.Store = p.store
		case *Touch:
			handler.Store = p.store
		case *FromResponses:
			handler.Store = p.store
		case *Cursor:
			handler.Store = p.store
		}
		values = append(values, p.NewRoute(r.matcher, r.handler)...)
	}
	return values
}

// parsePositive reads a duration that is more than nothing.
func parsePositive(s string) (caddy.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && d == 0 {
		err = errZero
	}
	return caddy.Duration(d), err
}

// parsePositiveRange reads a range of durations that are more than nothing.
func parsePositiveRange(s string) (DurationRange, error) {
	r, err := ParseDurationRange(s)
	if err == nil && r.Min == 0 {
		err = errZero
	}
	return r, err
}

// parseRawTimeout reads the status of a raw answer that has nothing to tell.
func parseRawTimeout(s string) (int, error) {
	status, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a status", s)
	}
	return status, checkRawTimeout(status)
}

// parseAtLeastOne reads a number of things, of which there is at least one.
func parseAtLeastOne(s string) (int, error) {
	n, err := parseCount(s)
	if err == nil && n == 0 {
		err = errZero
	}
	return n, err
}

var errZero = errors.New("zero is not possible")
