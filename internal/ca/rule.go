package ca

import "errors"

// Rule is the stable name of a rule by which a request is refused: in the record, in
// the log, and for the client where the rule is the client's business.
// docs/citadel.md tells what each means and what to do.
type Rule string

// The rules, in the order in which a request meets them.
const (
	RuleToken            Rule = "token"             // missing, or proves nobody
	RuleTokenSize        Rule = "token-size"        // too long to be one
	RuleTokenPod         Rule = "token-pod"         // bound to no pod
	RuleCertificateRoot  Rule = "certificate-root"  // not by a root in use, or expired
	RuleCertificateName  Rule = "certificate-name"  // not one identity of this trust domain
	RuleCertificateKind  Rule = "certificate-kind"  // was not issued for a token
	RuleCertificateAge   Rule = "certificate-age"   // the token is too long ago
	RuleCertificatePod   Rule = "certificate-pod"   // its pod or account is gone
	RuleAccount          Rule = "account"           // has no SPIFFE ID
	RuleImpersonator     Rule = "impersonation"     // nobody trusts the caller to ask for others
	RuleImpersonated     Rule = "impersonation-id"  // asked for what is no identity of this trust domain
	RuleImpersonatedNode Rule = "impersonation-pod" // not a pod of the caller's node
	RuleRevoked          Rule = "revoked"
	RuleBusy             Rule = "busy"
	RuleSigner           Rule = "signer" // asked for one that does not exist
	RuleCSR              Rule = "csr"    // not a CSR, or too large
	RuleCSRKey           Rule = "csr-key"
	RuleCSRAlgorithm     Rule = "csr-algorithm"
	RuleCSRName          Rule = "csr-name"       // claims to be somebody else
	RuleCSRPossession    Rule = "csr-possession" // not signed with its own key
	RuleTTL              Rule = "ttl"            // longer than allowed

	// No fault of the caller's.
	RuleUnavailable Rule = "authentication-unavailable"
	RuleIssuer      Rule = "issuer-unusable"
	RuleRecord      Rule = "record-unwritable"
	RuleRevocations Rule = "revocations-unread"
	RuleCanceled    Rule = "canceled"
	RuleInternal    Rule = "internal"
)

// broken is an error that names the rule it breaks.
type broken struct {
	rule Rule
	error
}

func (b broken) Unwrap() error { return b.error }

// breaks attaches a rule to an error that is not nil.
func breaks(rule Rule, err error) error {
	if err == nil {
		return nil
	}
	return broken{rule, err}
}

// RuleOf returns the rule that kept [Authority.NewSecret] from making one, [RuleInternal]
// where the error names none. [RuleCSR] is that there was no key or no request for it.
func RuleOf(err error) Rule {
	if rule := unissued(err).rule; rule != RuleInternal {
		return rule
	}
	return ruleOf(err, RuleInternal)
}

// ruleOf returns the rule that an error names, or else.
func ruleOf(err error, otherwise Rule) Rule {
	if b, ok := errors.AsType[broken](err); ok {
		return b.rule
	}
	return otherwise
}
