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
	"leaf":       leaf,
	"tamper":     tamper,
	"forge":      forge,
	"steadily":   steadily,
	"rights":     rights,
	"flood":      flood,
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

// namespace VAR [LABEL=VALUE…] makes a namespace of its own for the script, waits
// for its default service account and puts its name into $VAR. It is gone when
// the script ends.
func namespace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: namespace VAR [label=value...]")
	}
	manifest := "apiVersion: v1\nkind: Namespace\nmetadata:\n  generateName: e2e-\n  labels: {e2e: \"true\""
	for _, label := range args[1:] {
		key, value, _ := strings.Cut(label, "=")
		manifest += fmt.Sprintf(", %q: %q", key, value)
	}
	out, err := run(ts, []byte(manifest+"}\n"), "kubectl", "create", "-f", "-", "-o", "jsonpath={.metadata.name}")
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
	root := kubectl(ts, "-n", "istio-system", "get", "configmap", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
	rootFile := filepath.Join(ts.Getenv("WORK"), "citadel-root.pem")
	ts.Check(os.WriteFile(rootFile, []byte(root), 0o600))
	addr := kubectl(ts, "-n", "istio-system", "get", "service", "istio-citadel", "-o", "jsonpath={.spec.clusterIP}") + ":8060"
	request, err := json.Marshal(map[string]any{"csr": ts.ReadFile(args[1]), "validity_duration": 3600})
	ts.Check(err)
	proto := ts.Getenv("PROTO")
	grpcurl := []string{
		"-cacert", rootFile, "-authority", "istio-citadel.istio-system.svc", "-max-time", "20",
		"-import-path", filepath.Dir(filepath.Dir(filepath.Dir(proto))), "-proto", "security/v1alpha1/ca.proto", "-d", "@",
	}
	if args[0] != "none" {
		grpcurl = append(grpcurl, "-H", "authorization: Bearer "+strings.TrimSpace(ts.ReadFile(args[0])))
	}
	grpcurl = append(grpcurl, addr, "istio.v1.auth.IstioCertificateService/CreateCertificate")
	out, err := run(ts, request, "grpcurl", grpcurl...)
	if neg {
		if err == nil {
			ts.Fatalf("signed what should have been refused:\n%s", out)
		}
		fmt.Fprintln(ts.Stderr(), err)
		return
	}
	ts.Check(err)
	var answer struct{ CertChain []string }
	ts.Check(json.Unmarshal([]byte(out), &answer))
	fmt.Fprint(ts.Stdout(), strings.Join(answer.CertChain, ""))
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
