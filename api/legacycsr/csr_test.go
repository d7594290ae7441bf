package legacycsr

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// described lists what a file of messages and methods puts on the wire.
func described(file protoreflect.FileDescriptor) (lines []string) {
	messages := file.Messages()
	for i := range messages.Len() {
		fields := messages.Get(i).Fields()
		for j := range fields.Len() {
			f := fields.Get(j)
			kind := f.Kind().String()
			if m := f.Message(); m != nil {
				kind = string(m.FullName())
			}
			lines = append(lines, fmt.Sprintf("%s %s %s = %d", messages.Get(i).Name(), kind, f.Name(), f.Number()))
		}
	}
	services := file.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			lines = append(lines, fmt.Sprintf("%s(%s) %s", m.FullName(), m.Input().FullName(), m.Output().FullName()))
		}
	}
	return lines
}

// What Istio 1.1's clients put on the wire, which neither the code nor csr.proto may
// depart from.
func TestWire(t *testing.T) {
	want := []string{
		"CsrRequest bytes csr_pem = 1",
		"CsrRequest bytes node_agent_credential = 2",
		"CsrRequest string credential_type = 3",
		"CsrRequest int32 requested_ttl_minutes = 4",
		"CsrResponse bool is_approved = 1",
		"CsrResponse google.rpc.Status status = 2",
		"CsrResponse bytes signed_cert = 3",
		"CsrResponse bytes cert_chain = 4",
		"istio.v1.auth.IstioCAService.HandleCSR(istio.v1.auth.CsrRequest) istio.v1.auth.CsrResponse",
	}
	if got := described(File_legacycsr_csr_proto); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if IstioCAService_HandleCSR_FullMethodName != "/istio.v1.auth.IstioCAService/HandleCSR" {
		t.Error(IstioCAService_HandleCSR_FullMethodName)
	}
}

// The code is that of csr.proto: whoever changes the one and forgets the other is told.
func TestCodeIsOfTheFile(t *testing.T) {
	text, err := os.ReadFile("csr.proto")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	message := ""
	line := regexp.MustCompile(`(?m)^message (\w+) |^  ([\w.]+) (\w+) = (\d+);|^  rpc (\w+)\((\w+)\) returns \((\w+)\)`)
	for _, m := range line.FindAllStringSubmatch(string(text), -1) {
		switch {
		case m[1] != "":
			message = m[1]
		case m[2] != "":
			lines = append(lines, fmt.Sprintf("%s %s %s = %s", message, m[2], m[3], m[4]))
		default:
			lines = append(lines, fmt.Sprintf("istio.v1.auth.IstioCAService.%s(istio.v1.auth.%s) istio.v1.auth.%s", m[5], m[6], m[7]))
		}
	}
	slices.Sort(lines)
	got := described(File_legacycsr_csr_proto)
	slices.Sort(got)
	if !slices.Equal(got, lines) {
		t.Errorf("code: %q\nfile: %q", got, lines)
	}
}
