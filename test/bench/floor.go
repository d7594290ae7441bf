package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
)

// floorPatchSize is the size of the patch that the webhook floors answer with,
// about what a sidecar takes.
const floorPatchSize = 7600

// floorWebhook is the least that any injector does: read the review, and answer
// with a patch, here always the same one. Where typed is set it also reads the
// object as a Pod, as whoever decides by the pod must.
func floorWebhook(typed bool) http.Handler {
	const op = `[{"op":"add","path":"/metadata/annotations","value":{"filler":"%s"}}]`
	patch := fmt.Appendf(nil, op, strings.Repeat("x", floorPatchSize-len(op)+len("%s")))
	patchType := admissionv1.PatchTypeJSONPatch
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		if _, err := body.ReadFrom(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var review admissionv1.AdmissionReview
		if err := json.Unmarshal(body.Bytes(), &review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if typed {
			var pod corev1.Pod
			if err := json.Unmarshal(review.Request.Object.Raw, &pod); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		answer, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: review.TypeMeta,
			Response: &admissionv1.AdmissionResponse{
				UID: review.Request.UID, Allowed: true, Patch: patch, PatchType: &patchType,
			},
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(answer) //nolint:errcheck // the client has gone; nobody else is to be told
	})
}

// floorCA is the least that any CA with this API does: read the request, check its
// signature, sign a certificate with a P-256 root. It asks nobody who is calling.
type floorCA struct {
	securityapi.UnimplementedIstioCertificateServiceServer
	root    *x509.Certificate
	rootPEM string
	key     crypto.Signer
}

func newFloorCA(now time.Time) (*floorCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    now.Add(-time.Minute), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &floorCA{root: root, rootPEM: certificatePEM(der), key: key}, nil
}

func (f *floorCA) CreateCertificate(_ context.Context, r *securityapi.IstioCertificateRequest) (*securityapi.IstioCertificateResponse, error) {
	der, err := f.issue([]byte(r.GetCsr()), time.Duration(r.GetValidityDuration())*time.Second)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &securityapi.IstioCertificateResponse{CertChain: []string{certificatePEM(der), f.rootPEM}}, nil
}

func (f *floorCA) issue(csrPEM []byte, ttl time.Duration) ([]byte, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil {
		return nil, errors.New("csr: not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	now := time.Now()
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(ttl),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{cartURI()},
	}, f.root, csr.PublicKey, f.key)
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
