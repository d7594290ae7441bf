package inject

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/garrison-mesh/garrison/internal/admission"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

type webhook struct {
	handler http.Handler
	log     *bytes.Buffer
	metrics *prometheus.Registry
}

func newWebhook(t testing.TB) webhook {
	w := webhook{log: &bytes.Buffer{}, metrics: prometheus.NewRegistry()}
	i := newInjector(settings(t), slog.New(slog.NewTextHandler(w.log, nil)), w.metrics)
	w.handler = i.Handler(admission.Limits{})
	return w
}

// newInjector returns an injector in a cluster of one unlabelled namespace.
func newInjector(s Settings, log *slog.Logger, metrics prometheus.Registerer) *Injector {
	return NewInjector(Config{Settings: s, Log: log, Metrics: metrics, Namespace: func(_ context.Context, name string) (mesh.Namespace, error) {
		if name == "gone" {
			return mesh.Namespace{}, errors.New("not found")
		}
		return mesh.Namespace{Name: name}, nil
	}})
}

func (w webhook) post(body []byte) *httptest.ResponseRecorder { return w.postTo(mesh.InjectPath, body) }

func (w webhook) postTo(path string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	out := httptest.NewRecorder()
	w.handler.ServeHTTP(out, r)
	return out
}

func (w webhook) review(t *testing.T, request string) *admissionv1.AdmissionResponse {
	t.Helper()
	return w.reviewAt(t, mesh.InjectPath, request)
}

func (w webhook) reviewAt(t *testing.T, path, request string) *admissionv1.AdmissionResponse {
	t.Helper()
	out := w.postTo(path, reviewOf(request))
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(out.Body.Bytes(), &review); err != nil {
		t.Fatalf("%d %s", out.Code, out.Body)
	}
	return review.Response
}

func reviewOf(request string) []byte {
	return fmt.Appendf(nil, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","namespace":"shop",%s}}`, request)
}

const bare = `{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`

const creation = `"operation":"CREATE","resource":{"group":"","version":"v1","resource":"pods"},"object":`

func TestAdmit(t *testing.T) {
	cases := map[string]struct {
		request string
		allowed bool
		patched bool
		outcome string
		reason  Reason
		says    string
	}{
		"injected":  {creation + bare, true, true, "injected", Selected, ""},
		"opted out": {creation + `{"metadata":{"labels":{"sidecar.istio.io/inject":"false"}},"spec":{"containers":[{"name":"a"}]}}`, true, false, "skipped", LabelFalse, ""},
		"warned":    {creation + `{"metadata":{"annotations":{"sidecar.istio.io/bootstrapOverride":""}},"spec":{"containers":[{"name":"a"}]}}`, true, true, "injected", Selected, "annotation sidecar.istio.io/bootstrapOverride is not known"},
		"refused": {creation + `{"metadata":{"annotations":{"sidecar.istio.io/proxyCPU":"x","sidecar.istio.io/proxyMemory":"y"}},"spec":{"containers":[{"name":"a"}]}}`,
			false, false, "refused", BadAnnotation, `metadata.annotations[sidecar.istio.io/proxyCPU]: "x" is not a quantity, such as 100m or 128Mi; metadata.annotations[sidecar.istio.io/proxyMemory]`},
		"no pod":       {creation + `7`, false, false, "refused", Malformed, "pod: "},
		"no namespace": {`"namespace":"gone",` + creation + bare, false, false, "refused", NoNamespace, `namespace "gone": cannot be read now: not found`},
		"no object":    {creation + `null`, false, false, "refused", Malformed, "metadata: missing"},
		"an update":    {strings.Replace(creation, "CREATE", "UPDATE", 1) + `{}`, true, false, "skipped", NotPodCreation, ""},
		"another kind": {strings.Replace(creation, "pods", "nodes", 1) + `{}`, true, false, "skipped", NotPodCreation, ""},
		"an exec":      {`"subResource":"exec",` + creation + `{}`, true, false, "skipped", NotPodCreation, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWebhook(t)
			got := w.review(t, c.request)
			said := strings.Join(got.Warnings, "\n")
			if got.Result != nil {
				said = got.Result.Message
			}
			if got.Allowed != c.allowed || got.Patch != nil != c.patched || !strings.Contains(said, c.says) || strings.Contains(said, "\n") {
				t.Errorf("allowed %v, patch %s, said %q", got.Allowed, got.Patch, said)
			}
			if outcome, reason := got.AuditAnnotations["outcome"], got.AuditAnnotations["reason"]; outcome != c.outcome || reason != string(c.reason) {
				t.Errorf("%q for %q, want %q for %q", outcome, reason, c.outcome, c.reason)
			}
			w.expectCounted(t, c.outcome, c.reason)
			want := histogram{sum: float64(len(got.Patch)), first: 1 << 10}
			if c.patched {
				want.count = 1
			}
			if patches := w.histograms(t, "sidecar_injection_patch_bytes")[""]; patches != want {
				t.Errorf("patches counted: %+v, want %+v", patches, want)
			}
			if decisions := w.histograms(t, "sidecar_injection_time_seconds")[""]; decisions.count != 1 {
				t.Errorf("%+v decisions counted", decisions)
			}
		})
	}
}

// TestAdmitAgain: a sidecar of today is left alone; another is replaced.
func TestAdmitAgain(t *testing.T) {
	var ops []Operation
	if err := json.Unmarshal(newWebhook(t).review(t, creation+bare).Patch, &ops); err != nil {
		t.Fatal(err)
	}
	injected, err := Apply([]byte(bare), ops)
	if err != nil {
		t.Fatal(err)
	}
	w := newWebhook(t)
	if got := w.review(t, creation+string(injected)); !got.Allowed || got.Patch != nil {
		t.Errorf("injected before: %+v", got)
	}
	w.expectCounted(t, "skipped", AlreadyInjected)
	w = newWebhook(t)
	old := strings.ReplaceAll(string(injected), settings(t).Hash(), "0123456789abcdef")
	if got := w.review(t, creation+old); !got.Allowed || got.Patch == nil {
		t.Errorf("injected by another configuration: %+v", got)
	}
	w.expectCounted(t, "injected", Reinjected)
}

// TestPathsReachTheSidecar: what a webhook's URL says, its pods get.
func TestPathsReachTheSidecar(t *testing.T) {
	w := newWebhook(t)
	got := w.reviewAt(t, mesh.InjectPath+"/cluster/east/net/n1", creation+bare)
	for _, want := range []string{`{"name":"ISTIO_META_CLUSTER_ID","value":"east"}`, `{"name":"ISTIO_META_NETWORK","value":"n1"}`,
		`{"op":"add","path":"/metadata/labels/topology.istio.io~1network","value":"n1"}`} {
		if !strings.Contains(string(got.Patch), want) {
			t.Errorf("patch %s\nhas no %s", got.Patch, want)
		}
	}
	w = newWebhook(t)
	got = w.reviewAt(t, mesh.InjectPath+"/cluster", creation+bare)
	if got.Allowed || got.Patch != nil || got.Result == nil || got.Result.Message != `path of the webhook: "cluster" has no value` {
		t.Errorf("a path that ends early: %+v", got)
	}
	w.expectCounted(t, "refused", Malformed)
}

// TestHostilePodsAreCheap: whoever may create pods, or reach the port, sends what
// the API server lets through, and it must not cost what would end the injector.
func TestHostilePodsAreCheap(t *testing.T) {
	fill := func(begin, element, end string, size int) string {
		return begin + strings.TrimSuffix(strings.Repeat(element+",", size/(len(element)+1)), ",") + end
	}
	const most = 3<<20 - 1<<10
	for name, pod := range map[string]string{
		"containers":       fill(`{"metadata":{},"spec":{"containers":[`, "{}", `]}}`, most),
		"null containers":  fill(`{"metadata":{},"spec":{"containers":[`, "null", `]}}`, most),
		"ports":            fill(`{"metadata":{},"spec":{"containers":[{"name":"a","ports":[`, "{}", `]}]}}`, most),
		"just few enough":  fill(`{"metadata":{},"spec":{"containers":[`, "{}", `]}}`, 3*maxValues-100),
		"probes":           fill(`{"metadata":{},"spec":{"containers":[`, `{"livenessProbe":{"tcpSocket":{"port":1}}}`, `]}}`, 1<<20),
		"more probes":      fill(`{"metadata":{},"spec":{"containers":[`, `{"livenessProbe":{"tcpSocket":{"port":1}}}`, `]}}`, most),
		"reserved names":   fill(`{"metadata":{},"spec":{"containers":[`, `{"name":"istio-proxy"}`, `]}}`, most),
		"reserved volumes": fill(`{"metadata":{},"spec":{"containers":[{}],"volumes":[`, `{"name":"istio-certs"}`, `]}}`, 1<<20),
		"a long number":    `{"metadata":{},"spec":{"securityContext":{"runAsUser":` + strings.Repeat("9", 1<<20) + `},"containers":[{}]}}`,
		"a long port":      `{"metadata":{},"spec":{"containers":[{"readinessProbe":{"httpGet":{"port":` + strings.Repeat("9", 1<<20) + `}}}]}}`,
		"a long name":      fill(`{"metadata":{"annotations":{"sidecar.istio.io/inject":"x"},"name":"`, "a", `"},"spec":{"containers":[{}]}}`, 1<<17),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWebhook(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			out := w.post(reviewOf(creation + pod))
			runtime.ReadMemStats(&after)
			if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 100 {
				t.Errorf("%d MiB allocated", mib)
			}
			if out.Code != http.StatusOK || out.Body.Len() > 8<<20 || w.log.Len() > 4<<10 || strings.Contains(out.Body.String(), strings.Repeat("9", 1000)) {
				t.Errorf("%d, answer of %d bytes, log of %d", out.Code, out.Body.Len(), w.log.Len())
			}
		})
	}
}

func TestAdmitAfterTheDeadlineSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := webhook{metrics: prometheus.NewRegistry()}
	i := newInjector(settings(t), slog.New(slog.DiscardHandler), w.metrics)
	if got := i.Admit(ctx, &admission.Request{}); got.Allowed || got.Message != "the time for an answer was up" || got.Audit["reason"] != string(Overload) {
		t.Errorf("%+v", got)
	}
	w.expectCounted(t, "late", Overload)
}

// FuzzReview: whatever the object, the handler answers, and what it answers can be
// read.
func FuzzReview(f *testing.F) {
	for _, c := range cases(f) {
		f.Add(reviewOf(creation + string(c.pod)))
	}
	f.Add([]byte(`{}`))
	w := newWebhook(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		w.log.Reset()
		out := w.post(body)
		switch out.Code {
		case http.StatusOK:
			var review admissionv1.AdmissionReview
			if err := json.Unmarshal(out.Body.Bytes(), &review); err != nil || review.Response == nil || review.Response.UID == "" {
				t.Fatalf("%s: %v", out.Body, err)
			}
			if !review.Response.Allowed && review.Response.Result.Message == "" {
				t.Errorf("denied without a word: %s", body)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		default:
			t.Errorf("%d %s", out.Code, out.Body)
		}
	})
}
