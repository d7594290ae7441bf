package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience bounds every wait for the cluster; nothing here asserts a speed.
const patience = 4 * time.Minute

// commands are the verbs that scripts have beside testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"namespace":  namespace,
	"ready":      ready,
	"eventually": eventually,
	"sign":       sign,
	"handle":     handle,
	"leaf":       leaf,
	"tamper":     tamper,
	"forge":      forge,
	"steadily":   steadily,
	"rights":     rights,
	"flood":      flood,
	"runbook":    runbook,
}

// kubectl runs kubectl for a command and returns its standard output.
func kubectl(ts *testscript.TestScript, args ...string) string {
	out, err := run(ts, nil, "kubectl", args...)
	ts.Check(err)
	return out
}

func run(ts *testscript.TestScript, stdin []byte, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+ts.Getenv("KUBECONFIG"), "REPO="+ts.Getenv("REPO"))
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), nil
}

// namespace VAR [LABEL=VALUE…] [@ANNOTATION=VALUE…] makes a namespace of its own for the
// script, waits for its default service account and puts its name into $VAR. It is gone
// when the script ends.
func namespace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: namespace VAR [label=value...] [@annotation=value...]")
	}
	labels, annotations := map[string]string{"e2e": "true"}, map[string]string{}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		if annotation, ok := strings.CutPrefix(key, "@"); ok {
			annotations[annotation] = value
		} else {
			labels[key] = value
		}
	}
	manifest, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
		"generateName": "e2e-", "labels": labels, "annotations": annotations,
	}})
	ts.Check(err)
	out, err := run(ts, manifest, "kubectl", "create", "-f", "-", "-o", "jsonpath={.metadata.name}")
	ts.Check(err)
	name := strings.TrimSpace(out)
	ts.Defer(func() { _, _ = run(ts, nil, "kubectl", "delete", "namespace", name, "--wait=false") })
	ts.Setenv(args[0], name)
	await(ts, "serviceaccount default in "+name, func() (string, bool) {
		out, err := run(ts, nil, "kubectl", "-n", name, "get", "serviceaccount", "default")
		return out + fmt.Sprint(err), err == nil
	})
}

// ready NAMESPACE DEPLOYMENT… waits until each deployment is rolled out, and says
// what its pods are waiting for when it is not.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: ready namespace deployment...")
	}
	for _, name := range args[1:] {
		_, err := run(ts, nil, "kubectl", "-n", args[0], "rollout", "status", "deployment/"+name, "--timeout="+patience.String())
		if err != nil {
			out, _ := run(ts, nil, "kubectl", "-n", args[0], "describe", "pods")
			ts.Fatalf("%v\n%s", err, out)
		}
	}
}

// eventually DURATION REGEXP PROGRAM [ARG…] runs the program until what it prints,
// on either output, matches. The duration is the least that is granted.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: eventually duration regexp program [arg...]")
	}
	if _, err := time.ParseDuration(args[0]); err != nil {
		ts.Fatalf("eventually: %v", err)
	}
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	await(ts, strings.Join(args[1:], " "), func() (string, bool) {
		out, err := run(ts, nil, args[2], args[3:]...)
		if err != nil {
			out += err.Error()
		}
		return out, want.MatchString(out)
	})
}

func await(ts *testscript.TestScript, what string, done func() (string, bool)) {
	deadline := time.Now().Add(patience)
	for {
		last, ok := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %v: %s\nlast: %s", patience, what, last)
		}
		<-time.After(200 * time.Millisecond)
	}
}

// sign TOKENFILE|none CSRFILE asks Citadel for a certificate with grpcurl, a
// client that shares no code with Garrison, and prints the chain it answers.
func sign(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] sign tokenfile|none csrfile")
	}
	proto := ts.Getenv("PROTO")
	out, err := call{
		method: "istio.v1.auth.IstioCertificateService/CreateCertificate",
		flags:  []string{"-import-path", filepath.Dir(filepath.Dir(filepath.Dir(proto))), "-proto", "security/v1alpha1/ca.proto"},
		token:  args[0],
		body:   map[string]any{"csr": ts.ReadFile(args[1]), "validity_duration": 3600},
	}.send(ts)
	var answer struct{ CertChain []string }
	if answered(ts, neg, err) {
		ts.Check(json.Unmarshal([]byte(out), &answer))
		fmt.Fprint(ts.Stdout(), strings.Join(answer.CertChain, ""))
	}
}

// handle TOKENFILE|none CSRFILE asks as sign does, by the protocol of Istio 1.1 and the
// .proto that we give to users. What that imports, the script has to bring.
func handle(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] handle tokenfile|none csrfile")
	}
	out, err := call{
		method: "istio.v1.auth.IstioCAService/HandleCSR",
		flags:  []string{"-import-path", filepath.Dir(ts.Getenv("LEGACY_PROTO")), "-import-path", ts.Getenv("WORK"), "-proto", "csr.proto"},
		token:  args[0],
		body:   map[string]any{"csr_pem": []byte(ts.ReadFile(args[1])), "requested_ttl_minutes": 60},
	}.send(ts)
	var answer struct{ SignedCert, CertChain []byte }
	if answered(ts, neg, err) {
		ts.Check(json.Unmarshal([]byte(out), &answer))
		fmt.Fprintf(ts.Stdout(), "%s%s", answer.SignedCert, answer.CertChain)
	}
}

// call is a request to Citadel's CSR API.
type call struct {
	method string
	flags  []string
	token  string // a file, or "none"
	body   map[string]any
}

func (c call) send(ts *testscript.TestScript) (string, error) {
	root := kubectl(ts, "-n", "istio-system", "get", "configmap", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
	rootFile := filepath.Join(ts.Getenv("WORK"), "citadel-root.pem")
	ts.Check(os.WriteFile(rootFile, []byte(root), 0o600))
	addr := kubectl(ts, "-n", "istio-system", "get", "service", "istio-citadel", "-o", "jsonpath={.spec.clusterIP}") + ":8060"
	body, err := json.Marshal(c.body)
	ts.Check(err)
	args := append([]string{"-cacert", rootFile, "-authority", "istio-citadel.istio-system.svc", "-max-time", "20", "-d", "@"}, c.flags...)
	if c.token != "none" {
		args = append(args, "-H", "authorization: Bearer "+strings.TrimSpace(ts.ReadFile(c.token)))
	}
	return run(ts, body, "grpcurl", append(args, addr, c.method)...)
}

// answered reports whether a call that should have been answered was, or prints why not
// where it should not.
func answered(ts *testscript.TestScript, neg bool, err error) bool {
	if !neg {
		ts.Check(err)
		return true
	}
	if err == nil {
		ts.Fatalf("signed what should have been refused")
	}
	fmt.Fprintln(ts.Stderr(), err)
	return false
}

// leaf FROM TO writes the first certificate of a chain.
func leaf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: leaf from to")
	}
	block, _ := pem.Decode([]byte(ts.ReadFile(args[0])))
	if block == nil {
		ts.Fatalf("leaf: %s holds no PEM block", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(block), 0o600))
}

// tamper FROM TO writes a PEM block with a bit of its signature, which is its end,
// turned over.
func tamper(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tamper from to")
	}
	block, _ := pem.Decode([]byte(ts.ReadFile(args[0])))
	if block == nil {
		ts.Fatalf("tamper: %s holds no PEM block", args[0])
	}
	block.Bytes[len(block.Bytes)-1] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(block), 0o600))
}
