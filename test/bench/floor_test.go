package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// What is compared must do the same job: every webhook answers every pod with a
// patch, and the floors with one of the size that they promise.
func TestWebhooksAnswerEveryPodWithAPatch(t *testing.T) {
	mix, err := reviews()
	if err != nil {
		t.Fatal(err)
	}
	injector, err := injectorHandler(discard())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		role string
		h    http.Handler
		size int // of the patch; 0: any
	}{{roleDecode, floorWebhook(false), 7600}, {roleTyped, floorWebhook(true), 7600}, {roleInjector, injector, 0}} {
		for _, r := range mix {
			var body bytes.Buffer
			uid := r.body(&body, 1, 2)
			request := httptest.NewRequest(http.MethodPost, mesh.InjectPath, &body)
			request.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			c.h.ServeHTTP(w, request)
			answer, err := io.ReadAll(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			patch, err := readPatch(answer)
			if err != nil {
				t.Errorf("%s, pod %s: %v", c.role, r.name, err)
				continue
			}
			if !bytes.Contains(answer, []byte(uid)) {
				t.Errorf("%s, pod %s: answer without uid %s", c.role, r.name, uid)
			}
			if c.size != 0 && len(patch) != c.size {
				t.Errorf("%s, pod %s: patch of %d bytes, want %d", c.role, r.name, len(patch), c.size)
			}
		}
	}
}

func TestAuthoritiesCertifyTheKeyOfTheRequest(t *testing.T) {
	requests, err := newRequests(cartURI())
	if err != nil {
		t.Fatal(err)
	}
	floor, err := newFloorCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	citadel, err := newCitadel(discard(), anybody, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+caToken))
	for role, service := range map[string]securityapi.IstioCertificateServiceServer{roleFloorCA: floor, roleCitadel: citadel} {
		answer, err := service.CreateCertificate(ctx, requests[0].message())
		if err != nil {
			t.Errorf("%s: %v", role, err)
			continue
		}
		if err := checkChain(requests[0], answer.GetCertChain()); err != nil {
			t.Errorf("%s: %v", role, err)
		}
		if checkChain(requests[1], answer.GetCertChain()) == nil {
			t.Errorf("%s: the certificate passes for another key", role)
		}
	}
}

func TestUnknownSectionIsRefused(t *testing.T) {
	b := bench{report: func(...figure) {}}
	if err := b.all(context.Background(), "webhok"); err == nil {
		t.Error("a section that does not exist was measured")
	}
}
