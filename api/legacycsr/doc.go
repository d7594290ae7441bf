// Package legacycsr is the certificate service of Istio up to 1.1,
// istio.v1.auth.IstioCAService, which no module carries any more. It is generated
// from csr.proto; istio.io/api has the service that followed, in the same protobuf
// package.
package legacycsr

//go:generate go -C ../../hack run ./protogen ../api legacycsr/csr.proto
