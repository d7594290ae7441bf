package ca

import "testing"

// TestAbuse holds what must come of each abuse that this package meets, by the numbers
// of the list of abuse cases.
func TestAbuse(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"18_lifetime_beyond_the_signer":           abuseLifetime,
		"32_plugged_in_CA_is_spoilt":              abuseSpoiltCA,
		"33_clock_an_hour_off":                    abuseClock,
		"34_serials_of_replicas_and_restarts":     abuseSerials,
		"37_intermediate_of_another_trust_domain": abuseForeignIntermediate,
	} {
		t.Run(name, test)
	}
}
