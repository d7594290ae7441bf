package ledger

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Checkpoint is a signed statement of how long a chain was at a time, and how it ended.
// It is published as JSON.
type Checkpoint struct {
	Replica   string    `json:"replica"`
	Run       string    `json:"run"`
	Seq       uint64    `json:"seq"`
	Head      Hash      `json:"head"` // the hash of record Seq
	Time      time.Time `json:"time"`
	PublicKey []byte    `json:"publicKey"` // SubjectPublicKeyInfo in DER
	Signature []byte    `json:"signature"`
}

// ParseCheckpoint reads a published checkpoint and checks its signature by the key in
// it; whether that is the right key is for the caller to know.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	var c Checkpoint
	if err := json.Unmarshal(text, &c); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	if err := c.check(c.PublicKey); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint of replica %q: %w", c.Replica, err)
	}
	return c, nil
}

// statement returns what is signed. No part but the last can hold a line's end.
func (c Checkpoint) statement() []byte {
	b := []byte("garrison issuance log, checkpoint, version 1\n")
	b = append(strconv.AppendUint(b, c.Seq, 10), '\n')
	b = append(append(b, c.Head.String()...), '\n')
	b = append(appendTime(b, c.Time), '\n')
	b = append(strconv.AppendQuoteToASCII(b, c.Run), '\n')
	return append(strconv.AppendQuoteToASCII(b, c.Replica), '\n')
}

// check reports why key, a SubjectPublicKeyInfo, did not sign the checkpoint.
func (c Checkpoint) check(key []byte) error {
	public, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	valid := false
	switch public := public.(type) {
	case ed25519.PublicKey:
		valid = ed25519.Verify(public, c.statement(), c.Signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(c.statement())
		valid = public.Curve == elliptic.P256() && ecdsa.VerifyASN1(public, sum[:], c.Signature)
	}
	if !valid {
		return errors.New("wrong signature")
	}
	return nil
}

// signer signs checkpoints.
type signer struct {
	key    crypto.Signer
	public []byte
}

func newSigner(key crypto.Signer) (signer, error) {
	if key == nil {
		return signer{}, errors.New("no key")
	}
	switch public := key.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return signer{}, fmt.Errorf("key on curve %s: want Ed25519 or P-256", public.Curve.Params().Name)
		}
	default:
		return signer{}, fmt.Errorf("key of type %T: want Ed25519 or P-256", public)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	return signer{key, public}, err
}

// sign completes a checkpoint. A key that may be elsewhere is not believed blindly.
func (s signer) sign(c Checkpoint) (Checkpoint, error) {
	c.PublicKey = s.public
	message, options := c.statement(), crypto.SignerOpts(crypto.Hash(0))
	if _, ok := s.key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(message)
		message, options = sum[:], crypto.SHA256
	}
	var err error
	if c.Signature, err = s.key.Sign(rand.Reader, message, options); err != nil {
		return Checkpoint{}, err
	}
	return c, c.check(s.public)
}

// NewKey makes an Ed25519 key for checkpoints, PKCS#8 in PEM.
func NewKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// ParseKey reads a key as [NewKey] makes it, or one on P-256.
func ParseKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one PEM block of type PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a private key in PKCS#8") // the parser's words are about its content
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of type %T cannot sign", parsed)
	}
	if _, err := newSigner(key); err != nil {
		return nil, err
	}
	return key, nil
}
