package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	securityapi "istio.io/api/security/v1alpha1"
)

// expectOthersServed replays what clients of others' send, with a token of the API
// server's: Istio's agent, as it was recorded, and the node agent of 1.1.
func (r replica) expectOthersServed(t *testing.T, root, token string) {
	t.Helper()
	for _, name := range []string{"istio-agent.json", "other-clients.json"} {
		for name, v := range readVectors(t, name) {
			if len(v.Headers["authorization"]) == 0 || name == "ztunnel" { // whose account nobody listed
				continue
			}
			chain, err := r.replay(t, root, v, token)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			expectSleep(t, strings.Join(chain[:len(chain)-1], ""), root)
		}
	}
}

// vector is a call of others' software.
type vector struct {
	Method, SNI string
	Headers     map[string][]string
	Request     []byte `json:"request_base64"`
}

// readVectors reads a file of internal/ca.
func readVectors(t *testing.T, name string) (vectors map[string]vector) {
	t.Helper()
	text, err := os.ReadFile("../../internal/ca/testdata/" + name)
	if err == nil {
		err = json.Unmarshal(text, &vectors)
	}
	if err != nil {
		t.Fatal(err)
	}
	return vectors
}

// replay makes the call with another token.
func (r replica) replay(t *testing.T, root string, v vector, token string) (chain []string, err error) {
	t.Helper()
	if v.SNI == "" {
		v.SNI = v.Headers[":authority"][0]
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	for _, id := range v.Headers["clusterid"] {
		ctx = metadata.AppendToOutgoingContext(ctx, "clusterid", id)
	}
	var answer []byte
	if err := r.dial(t, root, v.SNI).Invoke(ctx, v.Method, v.Request, &answer, grpc.ForceCodec(asOnTheWire{})); err != nil {
		return nil, err
	}
	var out securityapi.IstioCertificateResponse
	if err := proto.Unmarshal(answer, &out); err != nil {
		t.Fatal(err)
	}
	return out.CertChain, nil
}

// asOnTheWire sends and receives the bytes of messages.
type asOnTheWire struct{}

func (asOnTheWire) Name() string { return "proto" }

func (asOnTheWire) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T", v)
	}
	return b, nil
}

func (asOnTheWire) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T", v)
	}
	*b = bytes.Clone(data)
	return nil
}
