package ca

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	securityapi "istio.io/api/security/v1alpha1"
)

// rawBytes sends and receives messages as they are on the wire.
type rawBytes struct{}

func (rawBytes) Name() string { return "proto" }

func (rawBytes) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return nil, fmt.Errorf("%T", v)
}

func (rawBytes) Unmarshal(data []byte, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T", v)
	}
	*p = bytes.Clone(data)
	return nil
}

// TestIstioAgent replays what Istio's agent was recorded to send, byte for byte,
// over TLS under the name that it expects.
func TestIstioAgent(t *testing.T) {
	text, err := os.ReadFile("testdata/istio-agent.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded map[string]struct {
		Method   string
		Headers  map[string][]string
		Request  []byte `json:"request_base64"`
		Validity int64  `json:"validity_duration"`
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	if len(recorded) != 3 {
		t.Fatalf("%d recordings, want 3", len(recorded))
	}
	a, _ := open(t, time.Now(), Options{})
	for name, r := range recorded {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, a, NewService(a, asSleep, ServiceOptions{}), r.Headers[":authority"][0])
			ctx := t.Context()
			for header, values := range r.Headers {
				if strings.HasPrefix(header, ":") || header == "content-type" || header == "user-agent" {
					continue // the client's transport writes these
				}
				for _, value := range values {
					ctx = metadata.AppendToOutgoingContext(ctx, header, value)
				}
			}
			var answer []byte
			if err := conn.Invoke(ctx, r.Method, r.Request, &answer, grpc.ForceCodec(rawBytes{})); err != nil {
				t.Fatal(err)
			}
			var out securityapi.IstioCertificateResponse
			if err := proto.Unmarshal(answer, &out); err != nil {
				t.Fatal(err)
			}
			leaf := expectChain(t, out.CertChain, sleepID, time.Now())
			if life := leaf.NotAfter.Sub(leaf.NotBefore); life != time.Duration(r.Validity)*time.Second+2*time.Minute {
				t.Errorf("lives %v", life)
			}
		})
	}
}
