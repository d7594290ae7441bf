package main

import (
	"bytes"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// secrets are Citadel's of a few CAs, by serial number.
type secrets map[int64]*corev1.Secret

func issuedSecrets(t *testing.T, count int64) secrets {
	t.Helper()
	s := secrets{}
	for serial := int64(1); serial <= count; serial++ {
		s[serial] = issued(t, serial)
	}
	return s
}

// expect compares what is served and published, by serial numbers.
func (s secrets) expect(t *testing.T, own *credentials, served int64, published ...int64) {
	t.Helper()
	synctest.Wait()
	if got := own.certificate.Leaf().SerialNumber.Int64(); got != served || !bytes.Equal(own.chain(), s[served].Data[mesh.CertChain]) {
		t.Errorf("certificate %d is served, want %d", got, served)
	}
	var want []byte
	for _, serial := range published {
		want = slices.Concat(want, s[serial].Data[mesh.CertRoot])
	}
	if got := own.bundle(); !bytes.Equal(got, want) {
		var serials []int64
		for _, serial := range slices.Sorted(maps.Keys(s)) {
			if bytes.Contains(got, s[serial].Data[mesh.CertRoot]) {
				serials = append(serials, serial)
			}
		}
		t.Errorf("published, in some order: %d, want %d", serials, published)
	}
}

func (s secrets) told(t *testing.T, own *credentials, want bool) {
	t.Helper()
	synctest.Wait()
	select {
	case <-own.changed:
		if !want {
			t.Error("a word without news")
		}
	default:
		if want {
			t.Error("no word of the news")
		}
	}
}

// TestCASwap holds that a new CA is published before anything is served that only it
// can prove, and the old one until no replica serves what only that can.
func TestCASwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := issuedSecrets(t, 3)
		own := newCredentials(dnsName, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		own.update(s[1])
		s.expect(t, own, 1, 1)
		s.told(t, own, true)
		time.Sleep(time.Minute)
		own.update(s[1]) // the watch begins again
		s.expect(t, own, 1, 1)

		swapped := time.Now()
		own.update(s[2])
		s.told(t, own, true)
		s.expect(t, own, 1, 2, 1)
		time.Sleep(settle - time.Second)
		own.update(s[2]) // waits no longer for that
		s.expect(t, own, 1, 2, 1)
		time.Sleep(time.Second)
		s.expect(t, own, 2, 2, 1)

		time.Sleep(5 * time.Minute)
		own.update(s[3])
		s.expect(t, own, 2, 3, 2, 1)
		time.Sleep(time.Second)
		own.update(s[2]) // which is published and was served all the time
		s.expect(t, own, 2, 2, 3, 1)
		time.Sleep(settle)
		s.expect(t, own, 2, 2, 3, 1)

		s.told(t, own, true)
		time.Sleep(time.Until(swapped.Add(overlap - time.Second)))
		s.told(t, own, false)
		s.expect(t, own, 2, 2, 3, 1)
		time.Sleep(time.Second)
		s.told(t, own, true)
		s.expect(t, own, 2, 2, 3)
		time.Sleep(overlap)
		s.told(t, own, true)
		s.expect(t, own, 2, 2)
	})
}

// A certificate that is about to end cannot stand in for long.
func TestCASwapAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := newCredentials(dnsName, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		s := issuedSecrets(t, 1)
		own.update(s[1])
		ends := own.certificate.Leaf().NotAfter
		time.Sleep(time.Until(ends) - 10*time.Second)
		s[2] = issued(t, 2)
		own.update(s[2])
		s.expect(t, own, 1, 2, 1)
		time.Sleep(10 * time.Second)
		s.expect(t, own, 2, 2, 1)
	})
}

// A root that comes back after its overlap is as new to the API server as any other.
func TestCASwapBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := newCredentials(dnsName, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		s := issuedSecrets(t, 2)
		own.update(s[1])
		own.update(s[2])
		time.Sleep(overlap)
		s.expect(t, own, 2, 2)
		own.update(s[1])
		s.expect(t, own, 2, 1, 2)
		time.Sleep(settle)
		s.expect(t, own, 1, 1, 2)
	})
}
