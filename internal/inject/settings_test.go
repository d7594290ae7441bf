package inject

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestVocabulary holds the parsers to the documented annotations, both ways, and what
// is built in to the documented defaults.
func TestVocabulary(t *testing.T) {
	good := map[string]string{
		mesh.ProxyConfig: "concurrency: 1", mesh.ProxyImage: "registry.example/proxy:v1", mesh.Templates: "sidecar", mesh.NativeSidecar: "true",
		mesh.UserVolume: `{"a":{"emptyDir":{}}}`, mesh.UserVolumeMount: `[{"name":"a","mountPath":"/a"}]`,
		mesh.InterceptionMode: "TPROXY", mesh.ScrapeTargets: "8080:/metrics", mesh.MergeMetrics: "true",
		mesh.IncludeOutboundIPRanges: "10.0.0.0/8", mesh.ExcludeOutboundIPRanges: "10.0.0.0/8",
	}
	readElsewhere := []string{mesh.InjectLabel, mesh.PrometheusScrape, mesh.PrometheusPort, mesh.PrometheusPath}
	documented := map[string]bool{}
	for _, a := range mesh.Annotations() {
		if a.Written {
			continue
		}
		documented[a.Name] = true
		p, ok := parsers[a.Name]
		if ok == slices.Contains(readElsewhere, a.Name) {
			t.Errorf("%s is documented, but read by nothing or by two", a.Name)
		}
		if !ok {
			continue
		}
		if err := p.set(new(options), "£\x00"); err == nil {
			t.Errorf("%s takes anything", a.Name)
		}
		value := good[a.Name]
		if value == "" {
			value = map[string]string{"true or false": "true", "quantity": a.Default, "port": "8080", "seconds": "1", "count": "1"}[a.Value]
		}
		if value == "" {
			value = "8080,9090"
		}
		if err := p.set(new(options), value); err != nil {
			t.Errorf("%s does not take %q: %v", a.Name, value, err)
		}
		if a.Default == "" || a.Name == mesh.ProxyImage || a.Name == mesh.MergeMetrics { // these have no value of their own
			continue
		}
		if was, is := builtin(), builtin(); p.set(&is, a.Default) != nil || withStatus(was) != withStatus(is) {
			t.Errorf("%s: default %q is not what is built in", a.Name, a.Default)
		}
	}
	for name := range parsers {
		if !documented[name] {
			t.Errorf("%s is read, but not documented", name)
		}
	}
}

// withStatus spells options so that equal ones are equal text.
func withStatus(o options) string {
	o.status = o.statusPort()
	r := o.resources
	o.resources = resources{}
	return fmt.Sprintf("%+v %s %s %s %s", o, &r.cpu, &r.cpuLimit, &r.memory, &r.memoryLimit)
}

// TestQuantitiesTakeNoTime: the Kubernetes parser alone needs minutes and
// gigabytes for what is refused here.
func TestQuantitiesTakeNoTime(t *testing.T) {
	for _, value := range []string{
		"1e1000000000", "1e-1000000000", "1E+999999999", "1e100", strings.Repeat("9", 1<<20), "0." + strings.Repeat("1", 1<<20), "", "e9", "1e", "1KiB", "1 Gi",
	} {
		if q, err := parseQuantity(value); err == nil {
			t.Errorf("%.20q is taken for %s", value, q.String())
		}
	}
	for _, value := range []string{"100m", "2", "1.5", "128Mi", "1e3", "1E3", "1E", "+1", ".5", "5.", "100n", "1e-3"} {
		if _, err := parseQuantity(value); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestNewSettingsReportsEveryMistake(t *testing.T) {
	_, err := NewSettings(Options{
		Image: "a b", ImagePullPolicy: "Sometimes", CAAddress: "ca.example.com", Revision: "-", TrustDomain: "No", Policy: "maybe",
		ImagePullSecrets: []string{"A"}, ProbeFrom: "everywhere",
		NeverInject: []metav1.LabelSelector{{}},
		Defaults: map[string]string{
			mesh.ProxyCPU: "lots", mesh.ProxyMemory: "0", mesh.Status: "{}", mesh.UserVolume: "{}", "example.com/a": "b",
		},
		TemplateAliases: map[string][]string{"sidecar": {"a"}},
		Trust:           []TrustRule{{Images: &[]string{"a*b"}}},
	})
	for _, want := range []string{
		`image "a b"`, `imagePullPolicy "Sometimes"`, `caAddress "ca.example.com": not of the form`, `revision "-"`, `trustDomain: `, `policy "maybe"`,
		`imagePullSecrets "A"`, `probeFrom: neither`, `neverInject[0]: empty`,
		`defaults[sidecar.istio.io/proxyCPU]: "lots" is not a quantity`, `defaults[sidecar.istio.io/proxyMemory]: "0" is not more than zero`,
		`defaults[sidecar.istio.io/status]: no annotation`, `defaults[sidecar.istio.io/userVolume]: means something on a pod only`, `defaults[example.com/a]`,
		`templateAliases[sidecar]`, `trust[0].images: "a*b"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
	for want, o := range map[string]Options{
		"image: missing": {},
		"the sidecar would ask for 3 (sidecar.istio.io/proxyCPU) and be limited to 2": {Image: "i", Defaults: map[string]string{mesh.ProxyCPU: "3"}},
		"the port is not a number": {Image: "i", CAAddress: "ca:grpc"},
		"no digest follows":        {Image: "i@sha256:0", Privileged: true},
	} {
		if _, err := NewSettings(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := ParseOptions([]byte("image: a\nimages: b\n")); err == nil || !strings.Contains(err.Error(), `unknown field "images"`) {
		t.Errorf("misspelt: %v", err)
	}
}

func TestImages(t *testing.T) {
	for _, c := range []struct{ image, wants, want string }{
		{"garrison/proxy:v1", "", "garrison/proxy:v1"},
		{"garrison/proxy:v1", "proxy-debug", "garrison/proxy-debug:v1"},
		{"garrison/proxy:v1", "proxy:v2", "garrison/proxy:v2"},
		{"garrison/proxy:v1", "other.example/proxy", "other.example/proxy"},
		{"localhost:5000/proxy", "mine", "localhost:5000/mine"},
		{"garrison/proxy@sha256:aa", "mine", "garrison/mine"},
		{"proxy:v1", "mine", "mine:v1"},
	} {
		s, err := NewSettings(Options{Image: c.image})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.imageFor(options{image: c.wants}); got != c.want {
			t.Errorf("%s of %s: %s, want %s", c.wants, c.image, got, c.want)
		}
	}
}

func TestDebugImage(t *testing.T) {
	for image, want := range map[string]string{
		"garrison/proxy:v1":           "garrison/proxy-debug:v1",
		"localhost:5000/proxy":        "localhost:5000/proxy-debug",
		"localhost:5000/proxy:v1.2.3": "localhost:5000/proxy-debug:v1.2.3",
	} {
		if s, err := NewSettings(Options{Image: image, Privileged: true}); err != nil || s.imageFor(options{}) != want {
			t.Errorf("%s: %s, %v; want %s", image, s.debugImage, err, want)
		}
	}
}

func TestHashTellsConfigurationsApart(t *testing.T) {
	seen := map[string]Options{}
	for _, o := range []Options{
		{}, {ImagePullPolicy: corev1.PullAlways}, {Privileged: true}, {CAAddress: "ca:1"}, {Revision: "canary"}, {TrustDomain: "example.com"},
		{ImagePullSecrets: []string{"a"}}, {ProbeFrom: "any"}, {ProbeFrom: "10.0.0.0/8"},
		with(mesh.ProxyCPU, "1m"), with(mesh.ProxyCPULimit, "1"), with(mesh.ProxyMemory, "1Mi"), with(mesh.ProxyMemoryLimit, "1Ti"),
		with(mesh.ExcludeInboundPorts, "80"), with(mesh.InterceptionMode, "TPROXY"), with(mesh.InterceptionMode, "NONE"),
		with(mesh.StatusPort, "15999"), with(mesh.StatusPort, "0"), with(mesh.ReadinessPeriod, "2"), with(mesh.ProxyConfig, "concurrency: 4"),
		with(mesh.ProxyConfig, "drainDuration: 9s"), with(mesh.ProxyImage, "other"),
	} {
		o.Image = "garrison/proxy:v1"
		s, err := NewSettings(o)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[s.Hash()]; ok {
			t.Errorf("%+v and %+v share the hash %s", o, other, s.Hash())
		}
		seen[s.Hash()] = o
	}
	same, err := NewSettings(Options{Image: "garrison/proxy:v1", Revision: "default", Defaults: map[string]string{mesh.ProxyCPU: "0.1", mesh.StatusPort: "15020"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := seen[same.Hash()]; !ok {
		t.Error("defaults that are written out change the hash")
	}
}

func with(annotation, value string) Options {
	return Options{Defaults: map[string]string{annotation: value}}
}

// TestVolumesAreReserved: a volume that is injected may not be the user's.
func TestVolumesAreReserved(t *testing.T) {
	for _, v := range sidecarVolumes() {
		p := pod(t, "{metadata: {}, spec: {containers: [{name: web}], volumes: [{name: "+v.Name+"}]}}")
		if _, err := Edit(p, Situation{}, settings(t)); err == nil || !strings.Contains(err.Error(), "spec.volumes[0].name: "+v.Name) {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}
