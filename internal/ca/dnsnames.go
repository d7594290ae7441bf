package ca

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// DNSNames are the DNS names that the operator gives to accounts, for those that serve
// TLS to clients outside the mesh. Only [ParseDNSNames] makes one that is not empty.
type DNSNames struct{ names map[accountName][]string }

type accountName struct{ namespace, name string }

func (d DNSNames) of(account mesh.ServiceAccount) []string {
	return slices.Clone(d.names[accountName{account.Namespace, account.Name}])
}

// ParseDNSNames reads ACCOUNT.NAMESPACE:DOMAIN entries, as --custom-dns-names of Istio's
// Citadel has them; an account may have several. A name that clients know a server of
// the mesh by is refused, whichever namespace it names, unless servers is true: who
// holds it can pose as that server.
func ParseDNSNames(entries []string, servers bool) (DNSNames, error) {
	d := DNSNames{names: map[accountName][]string{}}
	for _, entry := range entries {
		who, domain, ok := strings.Cut(entry, ":")
		dot := strings.LastIndex(who, ".")
		if !ok || dot < 0 {
			return DNSNames{}, fmt.Errorf("%q: want ACCOUNT.NAMESPACE:DOMAIN", entry)
		}
		a := accountName{name: who[:dot], namespace: who[dot+1:]}
		for _, c := range []struct {
			what, text string
			valid      func(string) []string
		}{
			{"account", a.name, validation.IsDNS1123Subdomain},
			{"namespace", a.namespace, validation.IsDNS1123Label},
			{"domain", domain, validation.IsDNS1123Subdomain},
		} {
			if problems := c.valid(c.text); len(problems) > 0 {
				return DNSNames{}, fmt.Errorf("%q: %s %q: %s", entry, c.what, c.text, strings.Join(problems, "; "))
			}
		}
		if _, err := netip.ParseAddr(domain); err == nil {
			return DNSNames{}, fmt.Errorf("%q: %s is an address", entry, domain)
		}
		if !servers && isServerName(domain) {
			return DNSNames{}, fmt.Errorf("%q: %s is a name of the mesh's own servers", entry, domain)
		}
		if slices.Contains(d.names[a], domain) {
			return DNSNames{}, fmt.Errorf("%q: given twice", entry)
		}
		d.names[a] = append(d.names[a], domain)
	}
	return d, nil
}

// isServerName reports whether a client of Garrison's or Istio's servers may dial one of
// them by this name: as short as resolv.conf's search allows, as long as DNS has it, or
// of a revision.
func isServerName(domain string) bool {
	service, _, _ := strings.Cut(domain, ".")
	return slices.ContainsFunc([]string{
		mesh.CitadelService, mesh.InjectorService, "istio-ca", "istio-pilot", "istiod",
	}, func(server string) bool { return service == server || strings.HasPrefix(service, server+"-") })
}
