package ca

import (
	"context"
	"slices"
	"strings"

	"github.com/garrison-mesh/garrison/api/legacycsr"
)

// Legacy returns the service that agents of Istio up to 1.1 call,
// istio.v1.auth.IstioCAService. It is the same service in another dress: what is true
// of [Service.CreateCertificate] is true of it.
func (s *Service) Legacy() legacycsr.IstioCAServiceServer { return legacy{service: s} }

type legacy struct {
	legacycsr.UnimplementedIstioCAServiceServer
	service *Service
}

// HandleCSR answers with the leaf, and with what lies between it and the root, but not
// the root, which these clients have in a file. The credential in the request is not
// read, as it proves nothing that the connection or a token does not.
func (l legacy) HandleCSR(ctx context.Context, in *legacycsr.CsrRequest) (*legacycsr.CsrResponse, error) {
	cert, err := l.service.answer(ctx, asked{
		csr: string(in.GetCsrPem()), seconds: int64(in.GetRequestedTtlMinutes()) * 60, field: "requested_ttl_minutes",
	})
	if err != nil {
		return nil, err
	}
	return &legacycsr.CsrResponse{
		IsApproved: true, SignedCert: slices.Clone(cert.pem), CertChain: []byte(strings.Join(cert.between, "")),
	}, nil
}
