package inject

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestVocabulary holds the parsers to the documented annotations, both ways.
func TestVocabulary(t *testing.T) {
	documented := map[string]bool{}
	for _, a := range mesh.Annotations() {
		if a.Written {
			continue
		}
		documented[a.Name] = true
		parse, ok := parsers[a.Name]
		if !ok {
			t.Errorf("%s is documented, but nothing reads it", a.Name)
			continue
		}
		if err := parse(new(options), "£"); err == nil {
			t.Errorf("%s takes anything", a.Name)
		}
		good := map[string]string{"true or false": "true", "quantity": a.Default}[a.Value]
		if err := parse(new(options), good); err != nil {
			t.Errorf("%s does not take %q: %v", a.Name, good, err)
		}
	}
	for name := range parsers {
		if !documented[name] {
			t.Errorf("%s is read, but not documented", name)
		}
	}
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
		Image: "a b", PullPolicy: "Sometimes", CAAddress: "ca.example.com", Revision: "-", CPU: "lots", Memory: "0",
	})
	for _, want := range []string{
		`image "a b"`, `pull policy "Sometimes"`, `CA address "ca.example.com": not of the form`, `revision "-"`,
		`CPU request of the sidecar: "lots" is not a quantity`, `memory request of the sidecar: "0" is not more than zero`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
	for want, o := range map[string]Options{
		"image: missing": {},
		"CPU request of the sidecar: 3 is more than the CPU limit, 2": {Image: "i", CPU: "3"},
		"the port is not a number":                                    {Image: "i", CAAddress: "ca:grpc"},
		"no digest follows":                                           {Image: "i@sha256:0", Privileged: true},
	} {
		if _, err := NewSettings(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestDebugImage(t *testing.T) {
	for image, want := range map[string]string{
		"garrison/proxy:v1":           "garrison/proxy-debug:v1",
		"localhost:5000/proxy":        "localhost:5000/proxy-debug",
		"localhost:5000/proxy:v1.2.3": "localhost:5000/proxy-debug:v1.2.3",
	} {
		if s, err := NewSettings(Options{Image: image, Privileged: true}); err != nil || s.image != want {
			t.Errorf("%s: %s, %v; want %s", image, s.image, err, want)
		}
	}
}

func TestHashTellsConfigurationsApart(t *testing.T) {
	seen := map[string]Options{}
	for _, o := range []Options{
		{}, {PullPolicy: corev1.PullAlways}, {Privileged: true}, {CAAddress: "ca:1"}, {Revision: "canary"},
		{CPU: "1m"}, {CPULimit: "1"}, {Memory: "1Mi"}, {MemoryLimit: "1Ti"},
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
	same, err := NewSettings(Options{Image: "garrison/proxy:v1", CPU: "0.1", Revision: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := seen[same.Hash()]; !ok {
		t.Error("defaults that are written out change the hash")
	}
}

// TestVolumesAreReserved: a volume that is injected may not be the user's.
func TestVolumesAreReserved(t *testing.T) {
	for _, v := range sidecarVolumes() {
		p := pod(t, "{metadata: {}, spec: {containers: [{name: web}], volumes: [{name: "+v.Name+"}]}}")
		if _, err := Edit(p, settings(t)); err == nil || !strings.Contains(err.Error(), "spec.volumes[0].name: "+v.Name) {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}
