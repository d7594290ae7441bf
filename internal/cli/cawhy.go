package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-mesh/garrison/internal/ledger"
)

// reasoned is an entry and what to do about it.
type reasoned struct {
	located
	Do string `json:"do,omitempty"`
}

func caWhy(env Env) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "why ID [-f FILE]...",
		Short: "Say why Citadel refused a request for a certificate",
		Long: `Say which rule a request for a certificate broke, whose it was, and what to do about it.
ID is what Citadel answered the client with, and logged: the id of the request. Of many
refusals in a minute, the log has only how many there were.`,
		Example: `  garrison ca why 4be0a5f1c26d7f3e
  garrison ca why 4be0a5f1c26d7f3e -f citadel.log`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return mistaken(c, errors.New("which request? Give its id"))
			}
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&format, "output", "o", "", "json or yaml: a list of entries, with fields that stay")
	s := newLogSources(env, f)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := errors.Join(s.check(), checkFormat(format)); err != nil {
			return mistaken(c, err)
		}
		var counted numbers
		entries, err := s.find(c, func(r ledger.Record) bool {
			counted.see(r)
			return ledger.Query{Request: args[0]}.Matches(r)
		})
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return fmt.Errorf("request %q: not in the log: it may be older than what is kept of it, or another replica's%s", args[0], counted)
		}
		var found []reasoned
		for _, l := range entries {
			r := reasoned{located: l}
			if l.Event == ledger.Refused {
				r.Do = remedy(l.Rule, l.Code)
			}
			found = append(found, r)
		}
		if format != "" {
			return asData(c.OutOrStdout(), format, found)
		}
		for i, r := range found {
			if i > 0 {
				fmt.Fprintln(c.OutOrStdout())
			}
			if err := r.write(c.OutOrStdout()); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

// numbers are the refusals that a log has by number alone, of which any may be the one that
// somebody looks for.
type numbers struct {
	all  int
	last ledger.Record // which stands for some of them
}

func (n *numbers) see(r ledger.Record) {
	if r.Event != ledger.Refused || r.Count == 0 {
		return
	}
	if n.all += r.Count; !r.Time.Before(n.last.Time) {
		n.last = r
	}
}

func (n numbers) String() string {
	if n.all == 0 {
		return ""
	}
	return fmt.Sprintf(", or one of the %d refusals that are there by number alone, as %d of %s by rule %s up to %s; "+
		"\"garrison ca log search --event refused\" has all, and what the client was answered says what it may know of its own",
		n.all, n.last.Count, plain(cmp.Or(n.last.ID, n.last.Peer, "several callers")), plain(n.last.Rule), n.last.Time.UTC().Format(time.RFC3339))
}

func (r reasoned) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "request %s: %s at %s\n", plain(r.Request), plain(r.Event), r.Time.UTC().Format(time.RFC3339))
	rule := r.Rule
	if r.Code != "" {
		rule = fmt.Sprintf("%s (%s)", r.Rule, r.Code)
	}
	for _, line := range [][2]string{
		{"rule", rule}, {"reason", r.Reason}, {"do", r.Do},
		{"who", r.ID}, {"proven by", r.How}, {"pod", r.Pod}, {"node", r.Node}, {"peer", r.Peer},
		{"serial", r.Serial}, {"policy", r.Policy}, {"replica", r.Replica}, {"line", fmt.Sprintf("%s:%d", r.File, r.Line)},
	} {
		if line[1] != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", line[0]+":", plain(line[1]))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// remedy says what to do about a refusal by its rule, or where that says too little, by
// its code.
func remedy(rule, code string) string {
	for _, r := range []struct{ rule, do string }{
		{"token", "see that the pod mounts a token of audience istio-ca, that it is in date, and that pod and account still exist"},
		{"token-size", "what was sent is no service account token; see what the client reads it from"},
		{"token-pod", "use a token that is projected into a pod; those of long-lived Secrets are bound to none"},
		{"certificate-root", "let the agent present its token: its certificate has expired, or is of a root that was retired"},
		{"certificate-name", "let the agent present its token: its certificate is not of this trust domain"},
		{"certificate-kind", "let the agent present its token: certificates from Secrets renew nothing"},
		{"certificate-age", "let the agent present its token once more: a certificate renews itself for a limited time only"},
		{"certificate-pod", "nothing, if the pod was deleted; a pod of the same name is another one"},
		{"impersonation", "only node proxies may ask for others: see which accounts Citadel is set to trust"},
		{"impersonation-id", "see that the node proxy has the trust domain that Citadel has"},
		{"impersonation-pod", "nothing, if the pod has ended; else see that it runs on the node of the proxy that asked"},
		{"revoked", "somebody revoked it: the ConfigMap garrison-revocations says when, and why"},
		{"busy", "nothing: the client comes back. If it lasts, give Citadel more CPU or replicas"},
		{"signer", "the client asks for a signer (CertSigner) that Citadel does not have; remove the setting"},
		{"csr-key", "let the client make a key of P-256, P-384 or RSA of 2048 to 4096 bits"},
		{"csr-name", "the request names somebody else than the token does: see which service account the pod runs as"},
		{"ttl", "ask for a shorter lifetime, or raise Citadel's --max-workload-cert-ttl"},
		{"record-unwritable", "see that the issuance log can be written to: the disk may be full"},
		{"issuer-unusable", "see to the CA's own certificate: it has expired, or is not valid yet"},
	} {
		if r.rule == rule {
			return r.do
		}
	}
	switch code {
	case "Unauthenticated", "PermissionDenied":
		return "see which pod and service account the request came from; it proved nobody who may have this"
	case "InvalidArgument":
		return "the request itself is at fault, and will be refused again: see to the client"
	case "ResourceExhausted", "Unavailable", "DeadlineExceeded", "Canceled", "Aborted":
		return "nothing, if it came once: clients try again. If it lasts, see to Citadel and to the API server"
	}
	return "see Citadel's log for the id of the request"
}
