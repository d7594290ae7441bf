package ledger

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"testing"
	"time"
)

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	text, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func entry(n int) Entry {
	return Entry{
		Event: Issued, ID: "spiffe://cluster.local/ns/shop/sa/cart", Serial: fmt.Sprintf("%x", n), Leaf: Hash{byte(n)}.String(),
		Key: Hash{1, byte(n)}.String(), Issuer: Hash{2}.String(), NotAfter: time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC),
		How: "token-local", Pod: "0b7dcb1e-3f0c-4a63-a1f4-4b5f2f1fbb8c", Peer: "10.0.0.7:41234",
		Request: fmt.Sprintf("request-%d", n), Policy: "default",
	}
}

func appendAll(t testing.TB, l *Log, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

// sample returns a closed log of seven records, and its last checkpoint.
func sample(t testing.TB, replica string, key crypto.Signer) ([]byte, Checkpoint) {
	t.Helper()
	var out bytes.Buffer
	l, err := New(&out, Options{Replica: replica, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, entry(1), entry(2))
	if err := l.checkpoint(); err != nil {
		t.Fatal(err)
	}
	refusal := Entry{Event: Refused, Code: "PermissionDenied", Rule: "token", Reason: "no\r\n{\"seq\":1}", Request: "r"}
	appendAll(t, l, refusal, entry(4))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, ok := l.Newest()
	if !ok {
		t.Fatal("closed without a checkpoint")
	}
	return out.Bytes(), c
}

func verify(t testing.TB, o VerifyOptions, texts ...[]byte) Report {
	t.Helper()
	v, err := NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		if err := v.Read(fmt.Sprintf("file-%d", i), bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	return v.Report()
}

func expectWhole(t testing.TB, r Report, chains int) {
	t.Helper()
	for _, b := range r.Breaks {
		t.Errorf("%v", &b)
	}
	if len(r.Chains) != chains {
		t.Errorf("%d chains, want %d", len(r.Chains), chains)
	}
}

func newP256(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
