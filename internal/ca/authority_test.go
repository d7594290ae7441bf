package ca

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestReplaceWhileIssuing holds that an answer is always of one piece: the leaf
// verifies by the roots that came with it, whichever issuer was in use.
func TestReplaceWhileIssuing(t *testing.T) {
	a, first := open(t, time.Now(), Options{})
	_, second := open(t, time.Now(), Options{})
	service := NewService(a, asSleep, ServiceOptions{})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	request := &securityapi.IstioCertificateRequest{Csr: csrFor(t)}
	stop := make(chan struct{})
	var swapping, issuing sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			next := first
			if i%2 == 0 {
				next = second
			}
			if changed, err := a.Replace(Material{Root: next, Direct: true}, time.Now()); err != nil || !changed {
				t.Errorf("Replace = %t, %v", changed, err)
				return
			}
		}
	})
	serials := make(chan string, 400)
	for range 4 {
		issuing.Go(func() {
			for range 50 {
				out, err := service.CreateCertificate(ctx, request)
				if err != nil {
					t.Error(err)
					return
				}
				serials <- expectChain(t, out.CertChain, sleepID, time.Now()).SerialNumber.String()
				s, err := a.NewSecret(sleep, time.Now())
				if err != nil {
					t.Error(err)
					return
				}
				leaf := parseLeaf(t, string(s.Data[mesh.CertChain]))
				expectLeaf(t, leaf, string(s.Data[mesh.CertRoot]), sleepID, nil, time.Now())
				serials <- leaf.SerialNumber.String()
			}
		})
	}
	issuing.Wait()
	close(stop)
	swapping.Wait()
	close(serials)
	seen := map[string]bool{}
	for serial := range serials {
		if seen[serial] {
			t.Errorf("serial %s twice", serial)
		}
		seen[serial] = true
	}
	if len(seen) != 400 {
		t.Errorf("%d certificates, want 400", len(seen))
	}
}

func TestReplaceKeepsTheIssuerOnError(t *testing.T) {
	a, secret := open(t, time.Now(), Options{})
	before := a.Bundle()
	spoilt := secret.DeepCopy()
	spoilt.Data[mesh.CAKeyKey] = nil
	if _, err := a.Replace(Material{Root: spoilt, Direct: true}, time.Now()); err == nil {
		t.Error("took a Secret without key")
	}
	if !bytes.Equal(a.Bundle(), before) || a.Ready(time.Now()) != nil {
		t.Error("the issuer is gone")
	}
	if changed, err := a.Replace(Material{Root: secret, Direct: true}, time.Now()); changed || err != nil {
		t.Errorf("the same Secret again: %t, %v", changed, err)
	}
}

// An issuer that cannot sign now does not take the place of one that can. Where
// none can, the Secret is followed all the same.
func TestReplaceTakesNoExpiredIssuer(t *testing.T) {
	a, _ := open(t, noon, Options{})
	before := a.Bundle()
	_, later := open(t, noon.Add(48*time.Hour), Options{})
	_, err := a.Replace(Material{Root: later, Direct: true}, noon)
	wantError(t, err, "not valid before")
	if !bytes.Equal(a.Bundle(), before) || a.Ready(noon) != nil {
		t.Error("the issuer is gone")
	}
	ended := noon.Add(DefaultRootTTL + 72*time.Hour)
	if changed, err := a.Replace(Material{Root: later, Direct: true}, ended); !changed || err != nil {
		t.Errorf("after the end of both: %t, %v", changed, err)
	}
}

// What signs has changed where all that is handed out besides is the same.
func TestReplaceTellsAnotherSigner(t *testing.T) {
	a, one := open(t, noon, Options{})
	_, two := open(t, noon, Options{})
	both := slices.Concat(one.Data[mesh.CACertKey], two.Data[mesh.CACertKey])
	one.Data[mesh.RootKey], two.Data[mesh.RootKey] = both, both
	for n, secret := range []*corev1.Secret{one, two, one} {
		if changed, err := a.Replace(Material{Root: secret, Direct: true}, noon); !changed || err != nil {
			t.Errorf("step %d: %t, %v", n, changed, err)
		}
	}
}
