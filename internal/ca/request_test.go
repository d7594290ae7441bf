package ca

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// rsaCSR returns a CSR with an RSA key of any numbers and no real signature.
func rsaCSR(t testing.TB, n *big.Int, e int) string {
	t.Helper()
	key, err := asn1.Marshal(struct {
		N *big.Int
		E int
	}{n, e})
	if err != nil {
		t.Fatal(err)
	}
	type request struct {
		TBS struct {
			Version int
			Subject asn1.RawValue
			Key     struct {
				Algorithm pkix.AlgorithmIdentifier
				Key       asn1.BitString
			}
			Attributes asn1.RawValue
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	var r request
	null := asn1.RawValue{Tag: asn1.TagNull}
	r.TBS.Subject = asn1.RawValue{FullBytes: []byte{0x30, 0}}
	r.TBS.Key.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: null}
	r.TBS.Key.Key = asn1.BitString{Bytes: key, BitLength: 8 * len(key)}
	r.TBS.Attributes = asn1.RawValue{FullBytes: []byte{0xa0, 0}}
	r.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: null}
	r.Signature = asn1.BitString{Bytes: make([]byte, 16), BitLength: 128}
	der, err := asn1.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return inPEM("CERTIFICATE REQUEST", der)
}

// oddBits returns an odd number of exactly this many bits.
func oddBits(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.Add(n, big.NewInt(1))
}

func TestParseRequestRefuses(t *testing.T) {
	good := csrFor(t, sleepID)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(good))
	withHeaders := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes, Headers: map[string]string{"A": "b"}}))
	cases := map[string]struct{ csr, want string }{
		"nothing":            {"", "csr: PEM: does not begin with a block"},
		"not PEM":            {"hello", "csr: PEM: does not begin with a block"},
		"NUL":                {"\x00" + good, "csr: PEM: does not begin with a block"},
		"text before":        {"please\n" + good, "csr: PEM: does not begin with a block"},
		"garbage after":      {good + "x", "csr: PEM: data after the first block"},
		"two CSRs":           {good + good, "csr: PEM: data after the first block"},
		"certificate after":  {good + inPEM("CERTIFICATE", []byte{1}), "csr: PEM: data after the first block"},
		"malformed first":    {"-----BEGIN CERTIFICATE REQUEST-----\n!\n" + good, "csr: PEM: "},
		"cut short":          {good[:len(good)/2], "csr: PEM: malformed block"},
		"headers":            {withHeaders, "csr: PEM: block with headers"},
		"other type":         {inPEM("CERTIFICATE", block.Bytes), `csr: PEM: block of type "CERTIFICATE"`},
		"type with newline":  {strings.ReplaceAll(good, "CERTIFICATE REQUEST", "A\u2028B"), `csr: PEM: block of type "A\u2028B"`},
		"empty block":        {inPEM("CERTIFICATE REQUEST", nil), "csr: "},
		"not ASN.1":          {inPEM("CERTIFICATE REQUEST", []byte("hello")), "csr: "},
		"trailing DER":       {inPEM("CERTIFICATE REQUEST", append(slices.Clip(block.Bytes), 0)), "csr: "},
		"too large":          {good + strings.Repeat("\n", maxRequest), "csr: 16"},
		"RSA of 1024 bits":   {csr(t, weak, x509.CertificateRequest{}), "csr: key: RSA of 1024 bits"},
		"RSA of 2047 bits":   {rsaCSR(t, oddBits(2047), 65537), "csr: key: RSA of 2047 bits"},
		"RSA of 4097 bits":   {rsaCSR(t, oddBits(4097), 65537), "csr: key: RSA of 4097 bits"},
		"RSA of 65536 bits":  {rsaCSR(t, oddBits(65536), 1<<31-1), "csr: key: RSA of 65536 bits"},
		"RSA, even modulus":  {rsaCSR(t, new(big.Int).Lsh(big.NewInt(1), 2047), 65537), "csr: key: RSA: even modulus"},
		"RSA, exponent 1":    {rsaCSR(t, oddBits(2048), 1), "csr: key: RSA with exponent 1:"},
		"RSA, exponent 3":    {rsaCSR(t, oddBits(2048), 3), "csr: key: RSA with exponent 3:"},
		"RSA, huge exponent": {rsaCSR(t, oddBits(2048), 1<<31-1), "csr: key: RSA with exponent 2147483647"},
		"P-224":              {csr(t, ecdsaKey(t, elliptic.P224()), x509.CertificateRequest{}), "csr: key: ECDSA on P-224"},
		"P-521":              {csr(t, ecdsaKey(t, elliptic.P521()), x509.CertificateRequest{}), "csr: key: ECDSA on P-521"},
		"Ed25519":            {csr(t, ed25519Key(t), x509.CertificateRequest{}), "csr: key: ed25519.PublicKey"},
		"SHA-1": {csr(t, rsa2048(), x509.CertificateRequest{SignatureAlgorithm: x509.SHA1WithRSA}),
			"csr: signature: algorithm SHA1-RSA is not accepted"},
		"SHA-1, ECDSA": {csr(t, ecdsaKey(t, elliptic.P256()), x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA1}),
			"csr: signature: algorithm ECDSA-SHA1 is not accepted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := ParseRequest(c.csr)
			wantError(t, err, c.want)
		})
	}
}

// A huge key must be told by its size alone. Verifying with it takes 200 ms of a processor that
// has nothing else to do.
func TestParseRequestIsQuickWithHugeKeys(t *testing.T) {
	huge := rsaCSR(t, oddBits(65536), 1<<31-1)
	best := time.Hour
	for range 20 {
		start := time.Now()
		if _, err := ParseRequest(huge); err == nil {
			t.Fatal("accepted")
		}
		best = min(best, time.Since(start))
	}
	if best > 100*time.Millisecond {
		t.Errorf("refused after %v", best)
	}
}

func TestParseRequestAccepts(t *testing.T) {
	good := csrFor(t, sleepID)
	block, _ := pem.Decode([]byte(good))
	for name, text := range map[string]string{
		"P-256":         good,
		"P-384":         csr(t, ecdsaKey(t, elliptic.P384()), x509.CertificateRequest{}),
		"RSA of 2048":   csr(t, rsa2048(), x509.CertificateRequest{}),
		"RSA with PSS":  csr(t, rsa2048(), x509.CertificateRequest{SignatureAlgorithm: x509.SHA256WithRSAPSS}),
		"white space":   "\r\n " + good + "\n\n",
		"CRLF":          strings.ReplaceAll(good, "\n", "\r\n"),
		"no last line":  strings.TrimSpace(good),
		"old PEM type":  inPEM("NEW CERTIFICATE REQUEST", block.Bytes),
		"4096, no sign": rsaCSR(t, oddBits(4096), 65537),
	} {
		if _, err := ParseRequest(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckNames(t *testing.T) {
	cases := map[string]struct {
		uris []string
		want string // "" for none
	}{
		"none":               {nil, ""},
		"right":              {[]string{sleepID}, ""},
		"right, twice":       {[]string{sleepID, sleepID}, ""},
		"other trust domain": {[]string{"spiffe://example.org/ns/default/sa/sleep"}, ""},
		"other account":      {[]string{"spiffe://cluster.local/ns/default/sa/httpbin"}, "the caller is " + sleepID},
		"other namespace":    {[]string{"spiffe://cluster.local/ns/kube-system/sa/sleep"}, "the caller is " + sleepID},
		"right and other":    {[]string{sleepID, "spiffe://cluster.local/ns/default/sa/httpbin"}, "the caller is " + sleepID},
		"no trust domain":    {[]string{"spiffe:///ns/default/sa/sleep"}, "subject alternative name"},
		"other form":         {[]string{"spiffe://cluster.local/workload/sleep"}, "subject alternative name"},
		"names with commas":  {[]string{"spiffe://x,istiod.istio-system.svc,cluster.local/ns/default/sa/sleep"}, "subject alternative name"},
		"user in the URI":    {[]string{"spiffe://me@cluster.local/ns/default/sa/sleep"}, "subject alternative name"},
		"not SPIFFE":         {[]string{"https://cluster.local/ns/default/sa/sleep"}, "subject alternative name"},
		"query":              {[]string{sleepID + "?a"}, "subject alternative name"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := ParseRequest(csrFor(t, c.uris...))
			if err != nil {
				t.Fatal(err)
			}
			err = r.checkNames(mustID(t, sleepID))
			if c.want != "" {
				wantError(t, err, c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// FuzzParseRequest holds that what is accepted has an acceptable key, is one PEM
// block, and means the same to whoever reads it after us.
func FuzzParseRequest(f *testing.F) {
	f.Add(csrFor(f, sleepID))
	f.Add(csr(f, rsa2048(), x509.CertificateRequest{DNSNames: []string{"a"}}))
	f.Add(rsaCSR(f, oddBits(65536), 1<<31-1))
	f.Add(csrFor(f) + csrFor(f))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n!\n" + csrFor(f))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRequest(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "csr: ") {
				t.Errorf("error %q does not name its field", err)
			}
			return
		}
		if err := checkKey(r.key); err != nil {
			t.Error(err)
		}
		again, err := x509.ParseCertificateRequest(r.der)
		if err != nil || !equalKeys(again.PublicKey, r.key) {
			t.Errorf("the next reader sees another key: %v", err)
		}
	})
}
