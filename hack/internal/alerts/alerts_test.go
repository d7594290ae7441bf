package alerts

import (
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

const day = 24 * time.Hour

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

type rule struct {
	Alert, Expr string
	Labels      map[string]string
}

// The files of alerts, of which one is Citadel's and the other the injector's.
const (
	citadels  = "citadel.yaml"
	injectors = "rules.yaml"
)

// rules reads a file of alerts.
func rules(t *testing.T, file string) (all []rule) {
	t.Helper()
	text, err := os.ReadFile("../../../manifests/monitoring/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Spec struct{ Groups []struct{ Rules []rule } }
	}
	if err := yaml.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	for _, g := range r.Spec.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 8 {
		t.Fatalf("only %d alerts", len(all))
	}
	return all
}

// firing returns the alerts of a file that a scrape would bring, once they had lasted, with
// their severities and how much they say is left.
func firing(t *testing.T, file string, s scrape) (alerts []string) {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: 10_000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{}),
	})
	for _, r := range rules(t, file) {
		query, err := engine.NewInstantQuery(t.Context(), s, nil, r.Expr, now)
		if err != nil {
			t.Fatalf("%s: %v", r.Alert, err)
		}
		result := query.Exec(t.Context())
		vector, err := result.Vector()
		if err != nil {
			t.Fatalf("%s: %v", r.Alert, err)
		}
		for _, v := range vector {
			name := r.Alert + " " + r.Labels["severity"]
			if role := v.Metric.Get("role"); role != "" {
				name += " " + role
			}
			if v.F != 1 { // a truth
				name += " " + (time.Duration(v.F) * time.Second).String()
			}
			alerts = append(alerts, name)
		}
		query.Close()
	}
	slices.Sort(alerts)
	return alerts
}

func show(name string, value float64, pairs ...string) series {
	return series{labels.FromStrings(append(pairs, model.MetricNameLabel, name)...), value}
}

// certificate is one of the CA's, or the one that a replica serves with, by what is left:
// until its end, and at the moment from which it counts as overdue.
type certificate struct{ left, overdue time.Duration }

func (c certificate) ends() float64   { return float64(now.Add(c.left).Unix()) }
func (c certificate) ripens() float64 { return float64(now.Add(c.left - c.overdue).Unix()) }

// state is that of an installation whose root has five years left.
type state struct {
	signer  certificate
	due     time.Duration // from now on, the renewal of the signer
	offline float64       // 1: the key of the root
	serving certificate
	earlier certificate
}

var year = certificate{365 * day, 30 * day}

func (s state) scrape() scrape {
	of := func(role string, c certificate) []series {
		which := []string{"role", role, "fingerprint", role[:1], "pod", "citadel-1", "namespace", "istio-system"}
		return []series{
			show("citadel_ca_certificate_expiry_timestamp_seconds", c.ends(), which...),
			show("citadel_ca_certificate_overdue_timestamp_seconds", c.ripens(), which...),
		}
	}
	all := slices.Concat(of("signer", s.signer), of("earlier", s.earlier), of("root", certificate{5 * 365 * day, 30 * day}))
	for _, pod := range []string{"citadel-1", "citadel-2"} {
		where := []string{"pod", pod, "namespace", "istio-system"}
		all = append(all,
			show("up", 1, where...),
			show("citadel_ca_intermediate_renewal_timestamp_seconds", float64(now.Add(s.due).Unix()), where...),
			show("citadel_ca_root_key_offline", s.offline, where...),
			show("serving_certificate_not_after_seconds", s.serving.ends(), where...),
			show("serving_certificate_overdue_seconds", s.serving.ripens(), where...))
	}
	// A replica that has just begun, and the injector, whose certificate is none of Citadel's business.
	all = append(all,
		show("citadel_leader", 1, "pod", "citadel-1", "namespace", "istio-system"),
		show("serving_certificate_not_after_seconds", 0, "pod", "citadel-3", "namespace", "istio-system"),
		show("serving_certificate_overdue_seconds", 0, "pod", "citadel-3", "namespace", "istio-system"),
		show("serving_certificate_not_after_seconds", float64(now.Unix()), "pod", "injector-1", "namespace", "istio-system"))
	return scrape{now.UnixMilli(), all}
}

// Who renews in time, however briefly certificates live, is not woken; who does not is, in
// three steps.
func TestCertificateAlerts(t *testing.T) {
	well := state{signer: year, due: 243 * day, serving: certificate{50 * day, 45 * day / 2}, earlier: certificate{day, 30 * day}}
	with := func(change func(*state)) state { s := well; change(&s); return s }
	for name, c := range map[string]struct {
		state state
		want  []string
	}{
		"default lifetimes": {well, nil},
		// With half of the third, or of the tenth, that was left when it was due, all but a second.
		"intermediate of three days, due": {with(func(s *state) { s.signer, s.due = certificate{day, 12 * time.Hour}, 0 }), nil},
		"intermediate of three days, late": {with(func(s *state) {
			s.signer, s.due = certificate{12*time.Hour + time.Second, 12 * time.Hour}, -11*time.Hour
		}), nil},
		"intermediate of three hours, late": {with(func(s *state) { s.signer, s.due = certificate{31 * time.Minute, 30 * time.Minute}, -29*time.Minute }), nil},
		"intermediate of 60 days, due":      {with(func(s *state) { s.signer, s.due = certificate{20 * day, 10 * day}, 0 }), nil},
		"Secrets of an hour, due":           {with(func(s *state) { s.serving = certificate{27 * time.Minute, 15 * time.Minute} }), nil},
		"Secrets of 59 days, due":           {with(func(s *state) { s.serving = certificate{27 * day, 59 * day / 4} }), nil},
		"Secrets with a grace of a tenth":   {with(func(s *state) { s.serving = certificate{8 * day, 9 * day / 2} }), nil},

		"intermediate of a year, 30 days": {with(func(s *state) { s.signer.left = 30*day - time.Second }), []string{
			"GarrisonCACertificateExpires warning signer 719h59m59s"}},
		"intermediate of a year, 7 days": {with(func(s *state) { s.signer.left = 7*day - time.Second }), []string{
			"GarrisonCACertificateExpires critical signer 167h59m59s", "GarrisonCACertificateExpires warning signer 167h59m59s"}},
		"intermediate of a year, a day": {with(func(s *state) { s.signer.left = day - time.Second }), []string{
			"GarrisonCACertificateExpires critical signer 23h59m59s", "GarrisonCACertificateExpires warning signer 23h59m59s",
			"GarrisonCACertificateExpiresInADay critical signer 23h59m59s"}},
		"intermediate of three days, not renewed": {with(func(s *state) { s.signer = certificate{12*time.Hour - time.Second, 12 * time.Hour} }), []string{
			"GarrisonCACertificateExpires warning signer 11h59m59s"}},
		"intermediate of three days, at its end": {with(func(s *state) { s.signer = certificate{20 * time.Minute, 12 * time.Hour} }), []string{
			"GarrisonCACertificateExpires critical signer 20m0s", "GarrisonCACertificateExpires warning signer 20m0s",
			"GarrisonCACertificateExpiresInADay critical signer 20m0s"}},
		"serving certificate not renewed": {with(func(s *state) { s.serving.left = 22 * day }), []string{
			"GarrisonCitadelServingCertificateExpires warning 528h0m0s"}},
		"serving certificate of an hour, ended": {with(func(s *state) { s.serving = certificate{-time.Minute, 15 * time.Minute} }), []string{
			"GarrisonCitadelServingCertificateExpires critical -1m0s", "GarrisonCitadelServingCertificateExpires warning -1m0s",
			"GarrisonCitadelServingCertificateExpiresInADay critical -1m0s"}},

		"root key offline":          {with(func(s *state) { s.offline = 1 }), nil},
		"and needed within a month": {with(func(s *state) { s.offline, s.due = 1, 29*day }), []string{"GarrisonRootKeyNeeded warning"}},
		"of three days, not yet": {with(func(s *state) {
			s.offline, s.signer, s.due = 1, certificate{37 * time.Hour, 12 * time.Hour}, 13*time.Hour
		}), nil},
		"of three days, and needed": {with(func(s *state) {
			s.offline, s.signer, s.due = 1, certificate{35 * time.Hour, 12 * time.Hour}, 11*time.Hour
		}), []string{"GarrisonRootKeyNeeded warning"}},
		"of three days, and overdue": {with(func(s *state) {
			s.offline, s.signer, s.due = 1, certificate{23 * time.Hour, 12 * time.Hour}, -time.Hour
		}), []string{
			"GarrisonRootKeyNeeded critical", "GarrisonRootKeyNeeded warning"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, firing(t, citadels, c.state.scrape())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Where nobody answers, no alert needs anything of what is not there.
func TestAbsence(t *testing.T) {
	if diff := cmp.Diff([]string{"GarrisonCitadelAbsent critical"}, firing(t, citadels, scrape{at: now.UnixMilli()})); diff != "" {
		t.Error(diff)
	}
}

// The injector's certificate is Citadel's to renew, which need be no earlier than when a
// tenth of its life is left.
func TestInjectorCertificateAlerts(t *testing.T) {
	for name, c := range map[string]struct {
		serving certificate
		want    []string
	}{
		"of 90 days":                  {certificate{45 * day, 9 * day / 2}, nil},
		"of a week":                   {certificate{6 * day, 7 * day / 20}, nil},
		"of an hour, renewed at last": {certificate{6 * time.Minute, 3 * time.Minute}, nil},
		"of an hour, not renewed": {certificate{3*time.Minute - time.Second, 3 * time.Minute}, []string{
			"GarrisonServingCertificateExpires warning 2m59s"}},
		"ended": {certificate{-time.Minute, 9 * day / 2}, []string{"GarrisonServingCertificateExpires warning -1m0s"}},
	} {
		all := []series{show("up", 1, "pod", "injector-1", "namespace", "istio-system")}
		for pod, serving := range map[string]certificate{"injector-1": {80 * day, 9 * day / 2}, "injector-2": c.serving, "citadel-1": {0, day}} {
			all = append(all,
				show("serving_certificate_not_after_seconds", serving.ends(), "pod", pod, "namespace", "istio-system"),
				show("serving_certificate_overdue_seconds", serving.ripens(), "pod", pod, "namespace", "istio-system"))
		}
		all = append(all,
			show("serving_certificate_not_after_seconds", 0, "pod", "injector-3", "namespace", "istio-system"),
			show("serving_certificate_overdue_seconds", 0, "pod", "injector-3", "namespace", "istio-system"))
		if diff := cmp.Diff(c.want, firing(t, injectors, scrape{now.UnixMilli(), all})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
