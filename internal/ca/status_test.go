package ca

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Every certificate that something hangs from is there, with when it ends.
func TestStatus(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	other := first(NewRoot(RootOptions{TTL: 24 * time.Hour}, noon))
	root.Data[mesh.RootKey] = append(root.Data[mesh.RootKey], other.Data[mesh.CACertKey]...)
	one := intermediate(t, root, nil, noon)
	later := noon.Add(DefaultIntermediateTTL * 7 / 10)
	two := intermediate(t, root, one, later)
	a, err := Start(Material{Root: root, Intermediate: two}, Options{}, later)
	if err != nil {
		t.Fatal(err)
	}
	s := a.Status()
	var roles []string
	for _, c := range s.Certificates {
		roles = append(roles, c.Role)
	}
	if want := []string{"signer", "earlier", "root", "root"}; !slices.Equal(roles, want) {
		t.Errorf("roles %v, want %v", roles, want)
	}
	wanted := later.Add(DefaultIntermediateTTL)
	if s.Source != "self-signed" || s.From != "secret istio-system/garrison-ca-intermediate" || s.RootKey != "online" || !s.Ends.Equal(wanted) {
		t.Errorf("%+v", s)
	}
	if notices, _ := s.Notices(later); len(notices) > 0 {
		t.Errorf("notices %q", notices)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back Status
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, back); diff != "" {
		t.Errorf("through JSON: %s", diff)
	}
	if strings.Contains(string(text), "PRIVATE") {
		t.Error("holds a key")
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(newCertificates(a))
	want := "# HELP citadel_ca_certificate_expiry_timestamp_seconds When each certificate of the chain and the bundle ends, in seconds since 1970.\n" +
		"# TYPE citadel_ca_certificate_expiry_timestamp_seconds gauge\n"
	for _, c := range s.Certificates {
		want += fmt.Sprintf("citadel_ca_certificate_expiry_timestamp_seconds{fingerprint=%q,role=%q} %v\n",
			c.Fingerprint[:16], c.Role, float64(c.NotAfter.Unix()))
	}
	want += "# HELP citadel_ca_certificate_overdue_timestamp_seconds From when on each of them should have been replaced long ago, in seconds since 1970.\n" +
		"# TYPE citadel_ca_certificate_overdue_timestamp_seconds gauge\n"
	for _, c := range s.Certificates {
		want += fmt.Sprintf("citadel_ca_certificate_overdue_timestamp_seconds{fingerprint=%q,role=%q} %v\n",
			c.Fingerprint[:16], c.Role, float64(c.NotAfter.Add(-min(30*day, c.NotAfter.Sub(c.NotBefore)/6)).Unix()))
	}
	want += fmt.Sprintf("# HELP citadel_ca_root_key_offline 1 while the key of the self-signed root is not in its Secret.\n"+
		"# TYPE citadel_ca_root_key_offline gauge\ncitadel_ca_root_key_offline 0\n"+
		"# HELP citadel_ca_intermediate_renewal_timestamp_seconds When the intermediate is due for renewal, which needs the root key.\n"+
		"# TYPE citadel_ca_intermediate_renewal_timestamp_seconds gauge\ncitadel_ca_intermediate_renewal_timestamp_seconds %v\n", float64(s.Renewal.Unix()))
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "citadel_ca_certificate_expiry_timestamp_seconds",
		"citadel_ca_certificate_overdue_timestamp_seconds", "citadel_ca_root_key_offline", "citadel_ca_intermediate_renewal_timestamp_seconds"); err != nil {
		t.Error(err)
	}
}

// However many roots a bundle holds, the series are bounded, and one that is there
// twice does not spoil the scrape.
func TestExpirySeriesAreBounded(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	for range 2 * maxSeries {
		root.Data[mesh.RootKey] = append(root.Data[mesh.RootKey], first(NewRoot(RootOptions{}, noon)).Data[mesh.CACertKey]...)
	}
	root.Data[mesh.RootKey] = append(root.Data[mesh.RootKey], root.Data[mesh.CACertKey]...)
	a, err := Open(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCertificates(a))
	n, err := testutil.GatherAndCount(registry, "citadel_ca_certificate_expiry_timestamp_seconds")
	if err != nil || n != maxSeries {
		t.Errorf("%d series, %v", n, err)
	}
}

// Who took the root key away is told from the first day when it is needed again, and
// urgently long before it is.
func TestNoticesOfAnOfflineRoot(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	made := intermediate(t, root, nil, noon)
	root.Data[mesh.CAKeyKey] = []byte{}
	a, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	s := a.Status()
	for at, want := range map[time.Duration]struct {
		urgent bool
		text   string
	}{
		time.Hour:                            {false, "it is needed again from " + s.Renewal.Format(time.RFC3339)},
		DefaultIntermediateTTL * 49 / 100:    {false, "needed again"},
		DefaultIntermediateTTL * 51 / 100:    {true, "put it back by " + s.Renewal.Format(time.RFC3339)},
		DefaultIntermediateTTL - 2*time.Hour: {true, "everything ends at " + s.Ends.Format(time.RFC3339)},
	} {
		notices, urgent := s.Notices(noon.Add(at))
		if len(notices) != 1 || urgent != want.urgent || !strings.Contains(notices[0], want.text) {
			t.Errorf("after %v: %q, urgent %t", at, notices, urgent)
		}
	}
}
