package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// signed is a certificate with its key.
type signed struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate below by, or a root for nil.
func sign(t *testing.T, by *signed) signed {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"server"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if by == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.Subject.CommonName = rand.Text()
		by = &signed{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signed{cert, key}
}

func (s signed) pair() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{s.cert.Raw}, PrivateKey: s.key, Leaf: s.cert}
}

func (s signed) serving(t *testing.T) *Certificate {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	c := new(Certificate)
	if err := c.Set(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), time.Now()); err != nil {
		t.Fatal(err)
	}
	return c
}

// handshake has a client shake hands and waits for both ends.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := errors.Join(a.SetDeadline(time.Now().Add(time.Minute)), b.SetDeadline(time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	there := tls.Client(b, client)
	ended := make(chan error, 1)
	go func() { // waited for below
		_, err := there.Read(make([]byte, 1)) // the handshake, and a ticket if there is one
		b.Close()
		ended <- err
	}()
	here := tls.Server(a, server)
	err := here.Handshake()
	if err == nil {
		_, err = here.Write([]byte("x"))
	}
	a.Close()
	if e := <-ended; e != nil && !errors.Is(e, io.EOF) {
		err = errors.Join(err, e)
	}
	return here.ConnectionState(), err
}

// Clients are told the roots of the moment, and everybody gets in, with a certificate or
// without: one that has ended or is a stranger's is none of the handshake's business.
func TestTLSWithClients(t *testing.T) {
	old, young := sign(t, nil), sign(t, nil)
	roots := old
	server := sign(t, &old).serving(t).TLSWithClients(func() *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AddCert(roots.cert)
		return pool
	}, "h2")
	trust := x509.NewCertPool()
	trust.AddCert(old.cert)
	client := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{
			ServerName: "server", RootCAs: trust, NextProtos: []string{"h2"}, ClientSessionCache: tls.NewLRUClientSessionCache(1),
			// Shown whatever the server asks for, as a stranger would.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(certs) == 0 {
					return new(tls.Certificate), nil
				}
				return &certs[0], nil
			},
		}
	}
	mine := client(sign(t, &old).pair())
	for range 2 {
		state, err := handshake(t, server, mine)
		if err != nil || len(state.PeerCertificates) != 1 || state.DidResume || state.NegotiatedProtocol != "h2" {
			t.Errorf("a good certificate: %v, %d of them, resumed is %t, %q",
				err, len(state.PeerCertificates), state.DidResume, state.NegotiatedProtocol)
		}
	}
	if state, err := handshake(t, server, client()); err != nil || len(state.PeerCertificates) != 0 {
		t.Errorf("no certificate: %v", err)
	}
	expired := sign(t, &old)
	template := *expired.cert
	template.NotBefore, template.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &template, old.cert, expired.key.Public(), old.key)
	if err != nil {
		t.Fatal(err)
	}
	expired.cert = &x509.Certificate{Raw: der}
	for name, shown := range map[string]signed{"expired": expired, "a stranger's": sign(t, &young), "its own root": sign(t, nil)} {
		pair := shown.pair()
		pair.Leaf = nil
		state, err := handshake(t, server, client(pair))
		if err != nil || len(state.PeerCertificates) != 1 || len(state.VerifiedChains) > 0 {
			t.Errorf("%s: %v, %d certificates, %d verified", name, err, len(state.PeerCertificates), len(state.VerifiedChains))
		}
	}
	// Whoever holds no key of it shows no certificate.
	stolen := sign(t, &old).pair()
	stolen.PrivateKey = sign(t, &old).key
	if _, err := handshake(t, server, client(stolen)); err == nil {
		t.Error("a certificate was taken from whoever does not have its key")
	}
	// A client that heeds which roots the server names comes without, and may have a token.
	heeding := &tls.Config{ServerName: "server", RootCAs: trust, Certificates: []tls.Certificate{sign(t, &young).pair()}}
	if state, err := handshake(t, server, heeding); err != nil || len(state.PeerCertificates) != 0 {
		t.Errorf("a certificate that the server would not take: %v, %d certificates", err, len(state.PeerCertificates))
	}
	roots = young
	if state, err := handshake(t, server, heeding); err != nil || len(state.PeerCertificates) != 1 {
		t.Errorf("a client that was told the new root: %v", err)
	}
	if state, err := handshake(t, server, client(sign(t, &young).pair())); err != nil || len(state.PeerCertificates) != 1 {
		t.Errorf("a certificate of the new root: %v", err)
	}
}

// A chain that would be dear to verify is refused: whoever can connect could send it.
func TestClientChainsThatAreDear(t *testing.T) {
	root := sign(t, nil)
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	leaf := sign(t, &root)
	// withKey is a CA's certificate over an RSA key, which nobody needs to have.
	withKey := func(bits uint, exponent int) []byte {
		n := new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(1), BasicConstraintsValid: true, IsCA: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}, root.cert, &rsa.PublicKey{N: n, E: exponent}, root.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, c := range map[string]struct {
		chain [][]byte
		want  string
	}{
		"one":                   {[][]byte{leaf.cert.Raw}, ""},
		"others besides":        {[][]byte{leaf.cert.Raw, root.cert.Raw, withKey(2048, 65537), withKey(4096, 3)}, ""},
		"as many as may be":     {append([][]byte{leaf.cert.Raw}, slices.Repeat([][]byte{root.cert.Raw}, 7)...), ""},
		"one more":              {append([][]byte{leaf.cert.Raw}, slices.Repeat([][]byte{root.cert.Raw}, 8)...), "chain of 9, at most 8"},
		"a huge key":            {[][]byte{leaf.cert.Raw, withKey(8192, 65537)}, "too large"},
		"a huge exponent":       {[][]byte{leaf.cert.Raw, withKey(2048, 1<<31-1)}, "too large"},
		"a huge key of its own": {[][]byte{withKey(8192, 65537)}, "too large"},
		"no certificate":        {[][]byte{{1, 2, 3}}, "malformed"},
	} {
		err := boundClient(c.chain)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	dear := leaf.pair()
	dear.Certificate = append(dear.Certificate, withKey(8192, 1<<31-1))
	server := leaf.serving(t).TLSWithClients(func() *x509.CertPool { return roots })
	if _, err := handshake(t, server, &tls.Config{ServerName: "server", RootCAs: roots, Certificates: []tls.Certificate{dear}}); err == nil ||
		!strings.Contains(err.Error(), "too large") {
		t.Errorf("handshake: %v", err)
	}
}
