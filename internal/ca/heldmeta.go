package ca

import (
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Annotations tells what the annotations of an account's Secret say of it. Whoever may
// write the Secret can have made them up.
func (r RootsInUse) Annotations(s metav1.ObjectMeta, now time.Time) Held {
	h := Held{Holds: HoldsWorkload, Notes: []string{"by its annotations"}}
	h.Account, _ = accountOf(s.Name)
	h.Fingerprint = s.Annotations[mesh.SecretDigest]
	text, told := s.Annotations[mesh.SecretExpiry]
	ends, err := time.Parse(time.RFC3339, text)
	switch {
	case !told:
		h.problem("no annotation %s", mesh.SecretExpiry)
	case err != nil:
		h.problem("annotation %s: %q is no time", mesh.SecretExpiry, text)
	default:
		if h.NotAfter = ends; now.After(ends) {
			h.problem("ended at %s", text)
		}
	}
	if noted, told := s.Annotations[mesh.SecretRoots]; told && len(r.certs) > 0 && noted != digest(encodeCertificates(r.certs)) {
		h.problem("made with other roots than those in use")
	}
	return h
}

// accountOf returns whose Secret it is by its name.
func accountOf(secret string) (account string, ok bool) {
	account, ok = strings.CutPrefix(secret, mesh.WorkloadSecretPrefix)
	return account, ok && account != ""
}
