package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The log is whole, its last checkpoint included, where a later step of the start fails.
func TestFailedStartClosesTheLog(t *testing.T) {
	dir := t.TempDir()
	err := run(t.Context(), []string{
		"--kubeconfig", barelyAllowed(t), "--pod-name", "citadel-a", "--issuance-log", dir, "--issuance-log-sync=false",
	}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), mesh.IntermediateSecret) {
		t.Fatalf("want an error about the intermediate: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "citadel-a.000000000001"+ledger.FileSuffix))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	var last ledger.Record
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil || last.Event != "checkpoint" {
		t.Errorf("ends with %s, %v", lines[len(lines)-1], err)
	}
}

// barelyAllowed returns the kubeconfig of an API server that gives out the key of the
// log, and nothing else.
func barelyAllowed(t *testing.T) string {
	t.Helper()
	key, err := ledger.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/secrets/"+mesh.IssuanceLogSecret) {
			fmt.Fprintf(w, `{"kind":"Secret","apiVersion":"v1","metadata":{"name":%q},"data":{%q:%q}}`,
				mesh.IssuanceLogSecret, mesh.IssuanceLogKey, base64.StdEncoding.EncodeToString(key))
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
	}))
	t.Cleanup(server.Close)
	name := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c"}}]}`, server.URL)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// That the end of the log could not be published is said, and no failure of a process
// that was told to stop; what made it end, or an end that is not in the log, is.
func TestEndOfTheRecord(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		err       error // of the parts
		published bool
	}{
		"published": {nil, true}, "not published": {nil, false}, "a part failed": {broken, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			if !c.published {
				client.PrependReactor("patch", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, nil, errors.New("no API server")
				})
			}
			var log, out bytes.Buffer
			r, err := openRecord(t.Context(), &cluster.API{Client: client}, recordOptions{
				settings: settings{namespace: "istio-system", pod: "citadel-a", issuanceLog: toStdout},
				stdout:   &out, log: slog.New(slog.NewJSONHandler(&log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.close(c.err); !errors.Is(err, c.err) || c.err == nil && err != nil {
				t.Errorf("close(%v) = %v", c.err, err)
			}
			if warned := strings.Contains(log.String(), "was not published"); warned == c.published {
				t.Errorf("log: %s", log.String())
			}
			found, err := client.CoreV1().ConfigMaps("istio-system").Get(t.Context(), mesh.IssuanceLogConfigMap, metav1.GetOptions{})
			if c.published && (err != nil || !strings.Contains(found.Data["citadel-a"], `"seq":2`)) {
				t.Errorf("published %v, %v", found, err)
			}
			if !strings.Contains(out.String(), `"event":"checkpoint"`) {
				t.Errorf("no checkpoint in %s", out.String())
			}
		})
	}
}
