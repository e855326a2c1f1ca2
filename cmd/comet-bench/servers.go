package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// kind is a kind of server that compare starts.
type kind struct {
	name  string
	about string // for the report
	start starter
}

// starter starts a server in a folder of its own.
type starter func(ctx context.Context, b *binaries, dir string) (*server, error)

// kinds are all of them, in the order of the report.
var kinds = []kind{
	{"yardstick", "the bare epoll loop that others are measured by (`--yardstick`)", startYardstick},
	{"floor", "the bare epoll loop of `comet-bench floor`", startFloor},
	{"comet", "Comet as it is by default", cometWith("")},
	{"comet-sse", "Comet as it is by default, to clients that hold a stream of SSE", speaking("comet-sse", cometWith(""))},
	{"comet-forward", "Comet with `forward` and `pace 64`: an application answers each of those who are woken", forwarding("pace 64")},
	{"comet-share", "Comet with `forward` and `share`: it answers all of them at once", forwarding("share")},
	{"comet-trim", "Comet with `parking trim_tls`", cometWith("parking trim_tls")},
	{"comet-off", "Comet with `parking off`: a goroutine for each held request", cometWith("parking off")},
	{"nchan", "Nchan in nginx, with one worker", startNchan},
	{"nchan-sse", "Nchan likewise, to clients that hold a stream of SSE", speaking("nchan-sse", startNchan)},
	{"lua", "nginx and Lua, the recipe that Comet began as, with one worker", startLua},
}

// speaking makes of how a server is started that of one whose clients have another
// dialect.
func speaking(dialect string, start starter) starter {
	return func(ctx context.Context, b *binaries, dir string) (*server, error) {
		s, err := start(ctx, b, dir)
		if err == nil {
			s.dialect = dialect
		}
		return s, err
	}
}

// binaries are what the servers are started from.
type binaries struct {
	self      string // this program
	comet     string
	yardstick string // "" when no source was given
	nginx     string // "" when it is not installed
	modules   string // the folder of nginx's modules
}

// server is a server that runs.
type server struct {
	dialect string
	publish string
	gc      string
	metrics string
	urls    map[string]string // where clients hold, by protocol

	cmd   *exec.Cmd
	ended chan struct{}
	log   string // the file that it writes to

	application *http.Server // behind it, in this process; nil where there is none
}

// errSkip is returned for a server that is not there to be measured.
var errSkip = errors.New("not measured")

// launch starts a program and waits until it serves all its addresses.
func (s *server) launch(ctx context.Context, dir, program string, args ...string) error {
	s.log = filepath.Join(dir, "log")
	out, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer out.Close()
	s.cmd = exec.CommandContext(ctx, program, args...)
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.Dir = dir
	s.cmd.Env = append(os.Environ(), "HOME="+dir,
		"XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CONFIG_HOME="+filepath.Join(dir, "settings"))
	s.cmd.Stdout, s.cmd.Stderr = out, out
	endWithUs(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.ended = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ended is of no interest: that it did is
		close(s.ended)
	}()
	for _, address := range s.urls {
		if err := s.ready(ctx, address); err != nil {
			s.stop()
			return fmt.Errorf("%w: %s", err, s.said())
		}
	}
	return nil
}

// ready waits until an address is served.
func (s *server) ready(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	var dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = new(net.Dialer)
	if u.Scheme == "https" {
		dialer = &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a server of ours
	}
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := dialer.DialContext(ctx, "tcp", u.Host)
		if err == nil {
			return c.Close()
		}
		select {
		case <-s.ended:
			return errors.New("it has ended")
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("it does not serve %s: %w", address, err)
		}
	}
}

// said returns the last line that the server wrote.
func (s *server) said() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// stop ends the server, and what is behind it.
func (s *server) stop() {
	if s.application != nil {
		defer s.application.Close()
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-s.ended:
	case <-time.After(15 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// freePort finds a port of this machine that is free, below those that the kernel
// gives to outgoing connections.
func freePort(ctx context.Context) (string, error) {
	var listen net.ListenConfig
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)) //nolint:gosec // any will do
		l, err := listen.Listen(ctx, "tcp", address)
		if err != nil {
			continue
		}
		_, port, err := net.SplitHostPort(address)
		return port, errors.Join(err, l.Close())
	}
	return "", errors.New("no port is free")
}

// freePorts finds several.
func freePorts(ctx context.Context, n int) ([]string, error) {
	var ports []string
	for range n {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

func startFloor(ctx context.Context, b *binaries, dir string) (*server, error) {
	return startLoop(ctx, dir, b.self, "floor", "--addr")
}

func startYardstick(ctx context.Context, b *binaries, dir string) (*server, error) {
	if b.yardstick == "" {
		return nil, fmt.Errorf("%w: no --yardstick is given", errSkip)
	}
	return startLoop(ctx, dir, b.yardstick, "--addr")
}

// startLoop starts a bare loop, whose last argument is its address.
func startLoop(ctx context.Context, dir, program string, args ...string) (*server, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	at := "127.0.0.1:" + port
	s := &server{dialect: "floor", publish: "http://" + at, urls: map[string]string{protocolH1: "http://" + at}}
	return s, s.launch(ctx, dir, program, append(args, at)...)
}

// cometfile is the Caddyfile of a Comet that is measured. The second TLS site has what
// many sites have around it.
const cometfile = `{
	admin 127.0.0.1:ADMIN
	persist_config off
	skip_install_trust
	auto_https disable_redirects
	http_port HTTP
	https_port HTTPS
	comet {
		history 200k 1h
		OPTION
	}
}
(held) {
	bind 127.0.0.1
	comet {
		publish /config
		hold /push {
			timeout 10m-12m
			HOLD
		}
	}
	BEHIND
}
http://127.0.0.1:HTTP {
	import held
}
https://localhost:HTTPS {
	tls internal
	import held
}
https://localhost:SITE {
	tls internal
	encode
	header X-Frame-Options DENY
	import held
}
`

// cometWith starts Comet with an option in its global block.
func cometWith(option string) starter {
	return func(ctx context.Context, b *binaries, dir string) (*server, error) {
		return startComet(ctx, b, dir, cometOptions{global: option, hold: "field bench bench/*"})
	}
}

// forwarding starts Comet with a route that forwards, with an option, before an
// application that has an answer ready.
func forwarding(option string) starter {
	return func(ctx context.Context, b *binaries, dir string) (*server, error) {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		app := &http.Server{ //nolint:gosec // of this machine
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "what there is\n")
			}),
		}
		go func() { _ = app.Serve(l) }() // until it is closed
		s, err := startComet(ctx, b, dir, cometOptions{
			hold: "field bench\nforward\n" + option, behind: "reverse_proxy " + l.Addr().String(),
		})
		if err != nil {
			return nil, errors.Join(err, app.Close())
		}
		s.dialect, s.application = "comet-forward", app
		return s, nil
	}
}

// cometOptions are lines of its Caddyfile.
type cometOptions struct{ global, hold, behind string }

func startComet(ctx context.Context, b *binaries, dir string, with cometOptions) (*server, error) {
	ports, err := freePorts(ctx, 4)
	if err != nil {
		return nil, err
	}
	text := strings.NewReplacer("ADMIN", ports[0], "HTTPS", ports[2], "HTTP", ports[1], "SITE", ports[3],
		"OPTION", with.global, "HOLD", with.hold, "BEHIND", with.behind).Replace(cometfile)
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	secure := "https://localhost:" + ports[2] + "/push"
	s := &server{
		dialect: "comet",
		publish: "http://127.0.0.1:" + ports[1] + "/config",
		gc:      "http://127.0.0.1:" + ports[0] + "/debug/pprof/heap?gc=1",
		metrics: "http://127.0.0.1:" + ports[0] + "/metrics",
		urls: map[string]string{
			protocolH1: "http://127.0.0.1:" + ports[1] + "/push", protocolTLS: secure, protocolH2: secure,
			protocolH2Many: "https://localhost:" + ports[3] + "/push",
		},
	}
	return s, s.launch(ctx, dir, b.comet, "run", "--config", "Caddyfile", "--adapter", "caddyfile")
}

// nginxConf is what both kinds of nginx have in common.
const nginxConf = `daemon off;
USER
worker_processes 1;
worker_rlimit_nofile 20000;
pid DIR/pid;
error_log DIR/error.log;
LOAD
events {
	worker_connections 20000;
}
http {
	access_log off;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	SHARED
	server {
		listen 127.0.0.1:HTTP backlog=4096;
		listen 127.0.0.1:HTTPS ssl http2 backlog=4096;
		ssl_certificate DIR/certificate.pem;
		ssl_certificate_key DIR/key.pem;
		SITE
	}
}
`

// startNginx starts nginx with some modules and a site.
func startNginx(ctx context.Context, b *binaries, dir string, s *server, modules []string, shared, site string) (*server, error) {
	if b.nginx == "" {
		return nil, fmt.Errorf("%w: nginx is not installed (testdata/setup bench)", errSkip)
	}
	var load strings.Builder
	for _, module := range modules {
		path := filepath.Join(b.modules, module)
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("%w: nginx has no %s (testdata/setup bench)", errSkip, module)
		}
		fmt.Fprintf(&load, "load_module %s;\n", path)
	}
	ports, err := freePorts(ctx, 2)
	if err != nil {
		return nil, err
	}
	if err := writeCertificate(dir); err != nil {
		return nil, err
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // or its worker cannot reach the folder
	}
	text := strings.NewReplacer("USER", user, "LOAD", load.String(), "SHARED", shared, "SITE", site,
		"DIR", dir, "HTTPS", ports[1], "HTTP", ports[0]).Replace(nginxConf)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	at := "http://127.0.0.1:" + ports[0]
	s.publish = at + s.publish
	for protocol, path := range s.urls {
		if protocol == protocolH1 {
			s.urls[protocol] = at + path
		} else {
			s.urls[protocol] = "https://127.0.0.1:" + ports[1] + path
		}
	}
	return s, s.launch(ctx, dir, b.nginx, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
}

func startNchan(ctx context.Context, b *binaries, dir string) (*server, error) {
	s := &server{dialect: "nchan", publish: "/pub", urls: map[string]string{
		protocolH1: "/sub", protocolTLS: "/sub", protocolH2: "/sub", protocolH2Many: "/sub",
	}}
	return startNginx(ctx, b, dir, s, []string{"ngx_nchan_module.so"}, "nchan_shared_memory_size 512m;", `
		location ~ ^/sub/(.+)$ {
			nchan_subscriber longpoll eventsource;
			nchan_channel_id $1;
		}
		location ~ ^/pub/(.+)$ {
			nchan_publisher;
			nchan_channel_id $1;
			nchan_message_buffer_length 200000;
			nchan_message_timeout 1h;
		}`)
}

// luaSite is the recipe that Comet began as.
const luaSite = `
		location = /config {
			content_by_lua_block {
				ngx.req.read_body()
				for name, value in pairs(ngx.req.get_post_args()) do
					ngx.shared.config:set(name, value)
				end
				ngx.say("OK")
			}
		}
		location = /push {
			content_by_lua_block {
				local field, id = ngx.var.arg_field, tonumber(ngx.var.arg_id) or 0
				local deadline = ngx.now() + math.random(90, 110)
				while id >= tonumber(ngx.shared.config:get(field) or 0) do
					if ngx.now() > deadline then return ngx.say("NO") end
					ngx.sleep(1)
				end
				ngx.say("YES")
			}
		}`

func startLua(ctx context.Context, b *binaries, dir string) (*server, error) {
	s := &server{dialect: "lua", publish: "/config", urls: map[string]string{protocolH1: "/push"}}
	modules := []string{"ndk_http_module.so", "ngx_http_lua_module.so"}
	return startNginx(ctx, b, dir, s, modules, "lua_shared_dict config 16m;", luaSite)
}

// measured returns the options of a case for this server.
func (s *server) options(protocol string, log io.Writer) *options {
	o := newOptions(log)
	o.url, o.publish, o.gc, o.metrics, o.pid = s.urls[protocol], s.publish, s.gc, s.metrics, s.cmd.Process.Pid
	o.dialect, o.protocol = s.dialect, protocol
	return o
}
