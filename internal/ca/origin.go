package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// originVersion is that of the extension's content. Another one means that a newer
// Citadel wrote it, whose meaning this one cannot guess.
const originVersion = 1

// maxUID is the longest UID in an origin, in bytes; Kubernetes' have 36.
const maxUID = 128

// originKind says what a certificate rests on.
type originKind int

const (
	byToken originKind = 1 // its holder's own token: the certificate may renew itself
	byNode  originKind = 2 // the word of a node proxy, which has a token for the next time
)

// leafOrigin is what a certificate's extension tells of how it came about. A verifier of
// the mesh has no use for it: only Citadel reads it, from certificates that it signed.
type leafOrigin struct {
	kind    originKind
	account string    // UID of the service account; empty where a node proxy's word was all
	pod     string    // UID, empty for a token that was bound to none
	proven  time.Time // when the token was seen, to the second
}

// originDER is the extension's content.
//
//	Origin ::= SEQUENCE {
//	    version  INTEGER (1),
//	    kind     INTEGER { token(1), node(2) },
//	    account  UTF8String,
//	    pod      UTF8String,
//	    proven   GeneralizedTime }
type originDER struct {
	Version int
	Kind    int
	Account string    `asn1:"utf8"`
	Pod     string    `asn1:"utf8"`
	Proven  time.Time `asn1:"generalized"`
}

// encode refuses what parseOrigin would.
func (o leafOrigin) encode() ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	der, err := asn1.Marshal(originDER{originVersion, int(o.kind), o.account, o.pod, o.proven.UTC().Truncate(time.Second)})
	if err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	return der, nil
}

// parseOrigin reads an origin from its one encoding.
func parseOrigin(der []byte) (leafOrigin, error) {
	var d originDER
	rest, err := asn1.Unmarshal(der, &d)
	if err != nil || len(rest) > 0 {
		return leafOrigin{}, errors.New("origin: malformed")
	}
	if d.Version != originVersion {
		return leafOrigin{}, fmt.Errorf("origin: version %d, not %d", d.Version, originVersion)
	}
	o := leafOrigin{kind: originKind(d.Kind), account: d.Account, pod: d.Pod, proven: d.Proven.UTC()}
	again, err := o.encode()
	if err != nil {
		return leafOrigin{}, err
	}
	if !bytes.Equal(again, der) {
		return leafOrigin{}, errors.New("origin: not in its one encoding")
	}
	return o, nil
}

func (o leafOrigin) check() error {
	if o.kind != byToken && o.kind != byNode {
		return fmt.Errorf("kind %d is not known", o.kind)
	}
	if o.account == "" && o.kind == byToken {
		return errors.New("account without UID")
	}
	for _, uid := range []string{o.account, o.pod} {
		if len(uid) > maxUID {
			return fmt.Errorf("UID of %d bytes, at most %d", len(uid), maxUID)
		}
		for _, c := range []byte(uid) {
			if c < '!' || c > '~' {
				return fmt.Errorf("UID %q", uid)
			}
		}
	}
	if y := o.proven.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("proven in the year %d", y)
	}
	return nil
}

// originIn returns the content of a certificate's extension, nil where it has none.
func originIn(leaf *x509.Certificate) []byte {
	id := originOID()
	for _, e := range leaf.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

// originOID is mesh.OriginOID in numbers.
func originOID() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 20482, 42473, 19826, 17426, 43048, 3659927, 15122759}
}
