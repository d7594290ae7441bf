package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// citadels is as much of an API server as reading the logs of Citadel's pods takes.
type citadels struct {
	pods      []corev1.Pod
	logs      map[string]string // by pod; of containers that went before, with "-" behind it
	published map[string]string
}

func (c citadels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const base = "/api/v1/namespaces/" + mesh.SystemNamespace
	answer := func(object any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object)
	}
	switch path := strings.TrimPrefix(r.URL.Path, base); {
	case path == "/configmaps/"+mesh.IssuanceLogConfigMap && c.published != nil:
		answer(corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, Data: c.published})
	case path == "/pods" && r.URL.Query().Get("labelSelector") == citadelSelector:
		answer(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: c.pods})
	case strings.HasSuffix(path, "/log") && r.URL.Query().Get("container") == citadelContainer:
		name := strings.TrimSuffix(strings.TrimPrefix(path, "/pods/"), "/log")
		if r.URL.Query().Get("previous") == "true" {
			name += "-"
		}
		if text, ok := c.logs[name]; ok {
			_, _ = w.Write([]byte(text))
			return
		}
		http.Error(w, "no such container", http.StatusBadRequest)
	default:
		http.NotFound(w, r)
	}
}

// run runs a command against it.
func (c citadels) run(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	server := httptest.NewServer(c)
	defer server.Close()
	config := writeFile(t, `{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: x, cluster: {server: "`+server.URL+
		`"}}], contexts: [{name: x, context: {cluster: x, namespace: elsewhere}}]}`)
	var out, notes bytes.Buffer
	err = Run(t.Context(), Env{Out: &out, Err: &notes, Kubeconfig: config}, args...)
	return out.String() + notes.String(), err
}

func TestLogsOfPods(t *testing.T) {
	archive, err := txtar.ParseFile(filepath.Join("testdata", "calog.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	const first, second = "citadel-5d9c7b9c4-x2x8p", "citadel-5d9c7b9c4-zzzzz"
	key, err := ledger.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ledger.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l, err := ledger.New(&log, ledger.Options{Replica: second, Key: signer})
	if err == nil {
		err = l.Append(ledger.Entry{Event: ledger.Refused, Request: "HERE", Rule: "busy", Code: "ResourceExhausted"})
	}
	for i, counted := range []int{4, 37} {
		if err == nil {
			err = l.Append(ledger.Entry{
				Time: time.Date(2000, 1, 1, 0, i, 0, 0, time.UTC), Event: ledger.Refused, ID: "spiffe://cluster.local/ns/shop/sa/cart",
				Rule: "busy", Code: "ResourceExhausted", Reason: "more", Count: counted,
			})
		}
	}
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	newest, _ := l.Newest()
	published, err := json.Marshal(newest)
	if err != nil {
		t.Fatal(err)
	}
	pod := func(name string, restarts int32) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: mesh.SystemNamespace},
			Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: citadelContainer, RestartCount: restarts}}},
		}
	}
	whole := func() citadels {
		lines := strings.SplitAfter(files["citadel.log"], "\n")
		return citadels{
			pods: []corev1.Pod{pod(first, 1), pod(second, 3)},
			// Of the first, the kubelet has only the end; the second has only begun again.
			logs:      map[string]string{first: strings.Join(lines[2:], ""), second: log.String()},
			published: map[string]string{first: strings.TrimSpace(files["checkpoint.json"]), second: string(published), "gone": ""},
		}
	}
	c := whole()
	out, err := c.run(t, "ca", "log", "verify")
	if err == nil || !strings.Contains(err.Error(), "configmap istio-system/garrison-issuance-log: gone: ") {
		t.Errorf("a checkpoint that is none: %v\n%s", err, out)
	}
	delete(c.published, "gone")
	out, err = c.run(t, "ca", "log", "verify")
	if err != nil || strings.Count(out, "published: up to record") != 2 || !strings.Contains(out, "\nwhole\n") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = c.run(t, "ca", "why", "HERE")
	if err != nil || !strings.Contains(out, "replica:   "+second) || !strings.Contains(out, "the client comes back") {
		t.Errorf("%v\n%s", err, out)
	}
	// What is counted is told where it is looked for, and where somebody looks for one of it.
	out, err = c.run(t, "ca", "log", "search", "--pod", second, "--event", "refused")
	if err != nil || !strings.Contains(out, "  37 refused  spiffe://cluster.local/ns/shop/sa/cart  ") || strings.Count(out, "\n") != 4 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = c.run(t, "ca", "log", "verify", "--pod", second); err != nil || !strings.Contains(out, "0 issued, 42 refused") {
		t.Errorf("%v\n%s", err, out)
	}
	_, err = c.run(t, "ca", "why", "GONE")
	if err == nil || !strings.Contains(err.Error(), "or one of the 41 refusals that are there by number alone, as 37 of "+
		"spiffe://cluster.local/ns/shop/sa/cart by rule busy up to 2000-01-01T00:01:00Z") {
		t.Errorf("%v", err)
	}
	if _, err = c.run(t, "ca", "why", "GONE", "--pod", first); err == nil || strings.Contains(err.Error(), "number") {
		t.Errorf("%v", err)
	}
	out, err = c.run(t, "ca", "log", "search", "--pod", first)
	if err != nil || strings.Contains(out, "HERE") || !strings.Contains(out, "WQ7T3N5KD2YFMA6C") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := c.run(t, "ca", "log", "verify", "--pod", "other"); err == nil || !strings.Contains(err.Error(), "no such pod of Citadel") {
		t.Errorf("%v\n%s", err, out)
	}
	c.logs[first+"-"], c.logs[first] = c.logs[first], "other text\n"
	if out, err := c.run(t, "ca", "log", "verify"); err != nil {
		t.Errorf("the checkpoint is of the container before: %v\n%s", err, out)
	}
	for what, spoil := range map[string]func(citadels){
		"truncated": func(c citadels) {
			c.logs[first] = c.logs[first][:strings.LastIndex(strings.TrimSpace(c.logs[first]), "\n")+1]
		},
		"missing: no record":   func(c citadels) { c.logs[second] = "started\n" },
		"key: its checkpoints": func(c citadels) { delete(c.published, second) },
	} {
		c := whole()
		delete(c.published, "gone")
		spoil(c)
		out, err := c.run(t, "ca", "log", "verify")
		if ExitCode(err) != exitFound || !strings.Contains(out, what) {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	c.published = nil
	if _, err := c.run(t, "ca", "log", "verify"); ExitCode(err) != exitError {
		t.Errorf("nothing published: %v", err)
	}
}

// A result that cannot be written is an error here as well.
func TestLogOutputFails(t *testing.T) {
	archive, err := os.ReadFile(filepath.Join("testdata", "calog.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	log := writeFile(t, string(archive)) // a log with other text around it
	for _, args := range [][]string{{"ca", "log", "search"}, {"ca", "log", "search", "-o=json"}, {"ca", "why", "WQ7T3N5KD2YFMA6C"}} {
		if err := Run(t.Context(), Env{Out: full{}, Err: &bytes.Buffer{}}, append(args, "-f", log)...); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
