package ca

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// expectOpenSSL has a program that others wrote verify an account's Secret, as strictly
// as it can. Where it is absent the test is skipped, unless the lab's tests run, which
// install it.
func expectOpenSSL(t testing.TB, s *corev1.Secret, now time.Time) {
	t.Helper()
	if err := opensslVerify(t, s.Data[mesh.CertChain], s.Data[mesh.CertRoot], now); err != nil {
		t.Error(err)
	}
}

func opensslVerify(t testing.TB, chain, roots []byte, now time.Time) error {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil && os.Getenv("GARRISON_CLUSTER_BIN") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("chains were not verified by another program: %v", err)
	}
	certs, err := parseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"verify", "-x509_strict", "-check_ss_sig", "-attime", strconv.FormatInt(now.Unix(), 10)}
	write := func(name string, text []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	leaf := write("leaf.pem", encodeCertificate(certs[0]))
	args = append(args, "-CAfile", write("roots.pem", roots))
	if len(certs) > 1 {
		args = append(args, "-untrusted", write("between.pem", encodeCertificates(certs[1:])))
	}
	for _, purpose := range []string{"sslclient", "sslserver"} {
		out, err := exec.Command(openssl, append(args, "-purpose", purpose, leaf)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("openssl: %s: %s", purpose, out)
		}
	}
	return nil
}
