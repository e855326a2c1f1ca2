package caddymodule

import (
	"net/http"
	"reflect"
	"strings"
	"time"
	"unsafe"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// accessLog writes the lines of a server's access log that Caddy cannot write:
// those of requests that are answered after their handlers have returned. They
// have the fields that Caddy's have (caddyhttp.Server.logRequest), by the rules
// of the site's configuration.
type accessLog struct {
	logger *zap.Logger
	server *caddyhttp.Server
}

// userPlaceholder has the name of the user that a line tells.
const userPlaceholder = "http.auth.user.id"

// newAccessLog returns the access log of a server, which may be nil.
func newAccessLog(ctx caddy.Context, server *caddyhttp.Server) accessLog {
	return accessLog{ctx.Logger(new(caddyhttp.App)).Named("log.access"), server}
}

// wants reports whether a line is to be written for r.
func (l accessLog) wants(r *http.Request) bool {
	if l.server == nil || l.server.Logs == nil {
		return false
	}
	if skip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool); ok && skip {
		return false
	}
	host := hostWithoutPort(r.Host)
	for name := range l.server.Logs.LoggerNames {
		if certmagic.MatchWildcard(host, name) {
			return true
		}
	}
	for _, skipped := range l.server.Logs.SkipHosts {
		if certmagic.MatchWildcard(host, skipped) {
			return false
		}
	}
	return !l.server.Logs.SkipUnmappedHosts
}

// suppress has Caddy write no line for r.
func suppressLog(r *http.Request) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
}

// answeredRequest is what a line of the access log tells of an answer.
type answeredRequest struct {
	request  *http.Request
	header   http.Header // of the answer
	status   int
	size     int
	bodySize int // of the request
	duration time.Duration
	writeErr error
	fields   []zap.Field
}

// write writes the line of a request that was answered.
func (l accessLog) write(a answeredRequest) {
	credentials := l.server.Logs != nil && l.server.Logs.ShouldLogCredentials
	logger := l.logger.With(zap.Object("request", caddyhttp.LoggableHTTPRequest{
		Request:              a.request,
		ShouldLogCredentials: credentials,
	}))
	level := zapcore.InfoLevel
	if name, ok := caddyhttp.GetVar(a.request.Context(), caddyhttp.LogLevelVar).(string); ok {
		if parsed, err := zapcore.ParseLevel(name); err == nil && parsed >= zapcore.DebugLevel && parsed <= zapcore.ErrorLevel {
			level = parsed
		}
	}
	repl := a.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	user, _ := repl.GetString(userPlaceholder)
	fields := append([]zap.Field{
		zap.Int("bytes_read", a.bodySize),
		zap.String("user_id", user),
		zap.Duration("duration", a.duration),
		zap.Int("size", a.size),
		zap.Int("status", a.status),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{
			Header:               a.header,
			ShouldLogCredentials: credentials,
		}),
	}, a.fields...)
	if a.writeErr != nil {
		fields = append(fields, zap.NamedError("write_error", a.writeErr))
	}
	for _, name := range l.names(a.request) {
		named := logger
		if name != "" {
			named = logger.Named(name)
		}
		if c := named.Check(level, "handled request"); c != nil {
			c.Write(fields...)
		}
	}
}

// names returns the names of the loggers that a line of r goes to, below that of
// the access log; an empty one means that itself.
func (l accessLog) names(r *http.Request) []string {
	if given, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		names := make([]string, 0, len(given))
		for _, name := range given {
			text, _ := name.(string)
			names = append(names, text)
		}
		return names
	}
	host := strings.ToLower(hostWithoutPort(r.Host))
	if names, ok := l.server.Logs.LoggerNames[host]; ok {
		return names
	}
	labels := strings.Split(host, ".")
	for i := range labels {
		if labels[i] == "" {
			continue
		}
		labels[i] = "*"
		if names, ok := l.server.Logs.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{l.server.Logs.DefaultLoggerName}
}

// extraLogFields returns what handlers added to the line of r, such as log_append.
// Caddy keeps it to itself: when the field that has it is not there any more, it
// is missing in the line.
func extraLogFields(r *http.Request) []zap.Field {
	extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok || extra == nil {
		return nil
	}
	field := reflect.ValueOf(extra).Elem().FieldByName("fields")
	if !field.IsValid() || field.Type() != reflect.TypeFor[[]zap.Field]() {
		return nil
	}
	return *(*[]zap.Field)(unsafe.Pointer(field.UnsafeAddr()))
}
