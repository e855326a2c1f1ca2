package caddymodule

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/caddyserver/caddy/v2"
)

// askClient returns the answer to a request for comet.js, with headers given as
// names and values in turn.
func askClient(t *testing.T, method, url string, headers ...string) *http.Response {
	t.Helper()
	handler := new(Client)
	if err := handler.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	recorder := httptest.NewRecorder()
	if err := handler.ServeHTTP(recorder, request, nil); err != nil {
		t.Fatal(err)
	}
	return recorder.Result()
}

func bodyOf(t *testing.T, response *http.Response) []byte {
	t.Helper()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestTheClientIsServedAsScriptAndAsModule(t *testing.T) {
	classic := askClient(t, "GET", "/comet.js")
	for name, want := range map[string]string{
		"Content-Type":                "text/javascript; charset=utf-8",
		"X-Content-Type-Options":      "nosniff",
		"Cache-Control":               "max-age=3600",
		"Vary":                        "Accept-Encoding",
		"Content-Encoding":            "",
		"Access-Control-Allow-Origin": "*",
	} {
		if got := classic.Header.Get(name); got != want {
			t.Errorf("%s is %q; want %q", name, got, want)
		}
	}
	if body := string(bodyOf(t, classic)); !strings.Contains(body, "globalThis.Comet = Comet;") || strings.Contains(body, "export ") {
		t.Errorf("the classic script is\n%s", body)
	}
	for _, url := range []string{"/comet.js?module", "/comet.js?v=2&module=1"} {
		if body := string(bodyOf(t, askClient(t, "GET", url))); !strings.HasSuffix(body, clientExport) || strings.Contains(body, "globalThis.Comet =") {
			t.Errorf("%s is\n%s", url, body)
		}
	}
	head := askClient(t, "HEAD", "/comet.js")
	if head.StatusCode != 200 || head.Header.Get("Content-Length") != classic.Header.Get("Content-Length") || len(bodyOf(t, head)) != 0 {
		t.Errorf("HEAD is answered %d with %v", head.StatusCode, head.Header)
	}
	post := askClient(t, "POST", "/comet.js")
	if post.StatusCode != 405 || post.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST is answered %d with %v", post.StatusCode, post.Header)
	}
}

func TestTheClientIsServedCompressedToThoseWhoAcceptIt(t *testing.T) {
	plain := bodyOf(t, askClient(t, "GET", "/comet.js"))
	etags := map[string]bool{}
	for accept, want := range map[string]string{
		"":                          "",
		"gzip":                      "gzip",
		"gzip, deflate, br, zstd":   "zstd",
		"zstd;q=0.5, gzip":          "gzip",
		"zstd;q=0, gzip;q=0":        "",
		"br":                        "",
		"identity, gzip;q=0, zstd ": "zstd",
	} {
		response := askClient(t, "GET", "/comet.js", "Accept-Encoding", accept)
		body := bodyOf(t, response)
		if got := response.Header.Get("Content-Encoding"); got != want {
			t.Errorf("%q is answered in %q; want %q", accept, got, want)
		}
		var unpacked []byte
		var err error
		switch want {
		case "gzip":
			var reader *gzip.Reader
			if reader, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
				unpacked, err = io.ReadAll(reader)
			}
		case "zstd":
			var decoder *zstd.Decoder
			if decoder, err = zstd.NewReader(nil); err == nil {
				unpacked, err = decoder.DecodeAll(body, nil)
			}
		default:
			unpacked = body
		}
		if err != nil || !bytes.Equal(unpacked, plain) {
			t.Errorf("%q is answered something else (%v)", accept, err)
		}
		etag := response.Header.Get("Etag")
		etags[etag] = true

		again := askClient(t, "GET", "/comet.js", "Accept-Encoding", accept, "If-None-Match", etag)
		if again.StatusCode != http.StatusNotModified || len(bodyOf(t, again)) != 0 {
			t.Errorf("with the ETag %s it is answered %d", etag, again.StatusCode)
		}
		if again.Header.Get("Etag") != etag || again.Header.Get("Cache-Control") == "" || again.Header.Get("Vary") == "" {
			t.Errorf("304 has the headers %v", again.Header)
		}
		if other := askClient(t, "GET", "/comet.js?module", "Accept-Encoding", accept, "If-None-Match", etag); other.StatusCode != 200 {
			t.Errorf("the module has the ETag %s of the script", etag)
		}
	}
	if len(etags) != 3 {
		t.Errorf("the ETags are %v", etags)
	}
}

// TestTheClientIsSmall keeps what a page has to load below 5 KB.
func TestTheClientIsSmall(t *testing.T) {
	for _, url := range []string{"/comet.js", "/comet.js?module"} {
		for _, encoding := range clientEncodings {
			body := bodyOf(t, askClient(t, "GET", url, "Accept-Encoding", encoding))
			t.Logf("%s in %s has %d bytes", url, encoding, len(body))
			if len(body) >= 5000 {
				t.Errorf("%s in %s has %d bytes", url, encoding, len(body))
			}
		}
	}
}

func TestCommentsAndIndentationAreStripped(t *testing.T) {
	for source, want := range map[string]string{
		"// why\n\nlet a;\n":                       "let a;\n",
		"\tif (a) {\n\t\tb(); // and so on\n\t}\n": "if (a) {\nb();\n}\n",
		"\t// why\n\tfetch('http://a//b');\n":      "fetch('http://a//b');\n",
		"let a; // one // two\n":                   "let a;\n",
	} {
		if got := strip(source); got != want {
			t.Errorf("%q is stripped to %q; want %q", source, got, want)
		}
	}
	if !strings.HasSuffix(clientSource, "\n"+clientExport) {
		t.Errorf("comet.js does not end by %q", clientExport)
	}
}

// TestTheClientInNode runs the tests of comet.js against what is served of it.
func TestTheClientInNode(t *testing.T) {
	var node string
	for _, name := range []string{"node", "nodejs"} {
		if path, err := exec.LookPath(name); err == nil {
			node = path
			break
		}
	}
	if node == "" {
		t.Skip("no node here; testdata/setup installs it on Debian")
	}
	dir := t.TempDir()
	environ := os.Environ()
	for name, url := range map[string]string{"CLASSIC": "/comet.js", "MODULE": "/comet.js?module"} {
		path := filepath.Join(dir, name+".mjs")
		if err := os.WriteFile(path, bodyOf(t, askClient(t, "GET", url)), 0o600); err != nil {
			t.Fatal(err)
		}
		environ = append(environ, "COMET_"+name+"="+path)
	}
	command := exec.CommandContext(t.Context(), node, "--test-reporter=spec", "client/test/comet.test.mjs")
	command.Env = environ
	output, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	t.Logf("%s", output)
}

func TestThePackageHasTheVersionOfTheModule(t *testing.T) {
	content, err := os.ReadFile("client/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var about struct {
		Version string
		Files   []string
	}
	if err := json.Unmarshal(content, &about); err != nil {
		t.Fatal(err)
	}
	if "v"+about.Version != Version {
		t.Errorf("it is %s, and the module %s", about.Version, Version)
	}
	for _, name := range about.Files {
		if _, err := os.Stat(filepath.Join("client", name)); err != nil {
			t.Error(err)
		}
	}
}
