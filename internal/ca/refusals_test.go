package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/ledger"
)

// Whoever comes how often, in a minute there are so many lines and no more, nobody has more of
// them in full than a caller's share, and every refusal is in one of them.
func TestRefusalsOfAMinute(t *testing.T) {
	rules := []Rule{RuleBusy, RuleCSR, RuleTTL, RuleRevoked, RuleSigner}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRefusals(noon)
		callers := []int{1, 3, 50, 3000}[seed%4]
		for minute := range 3 {
			full, byCaller, byRule := 0, map[string]int{}, map[refusedBy]int{}
			total := rng.IntN(20_000)
			for range total {
				by := refusedBy{id: fmt.Sprint("spiffe://", rng.IntN(callers)), rule: rules[rng.IntN(len(rules))], code: codes.InvalidArgument}
				if r.inFull(by) {
					full++
					byCaller[by.id]++
					byRule[by]++
				}
			}
			if full > fullMinute || len(r.by) > countedKeys+len(rules) {
				t.Errorf("seed %d: %d in full, %d keys", seed, full, len(r.by))
			}
			for id, n := range byCaller {
				if n > fullCaller {
					t.Errorf("seed %d: %d of %s", seed, n, id)
				}
			}
			for by, n := range byRule {
				if n > fullRule {
					t.Errorf("seed %d: %d of %v", seed, n, by)
				}
			}
			entries := r.take(noon.Add(time.Duration(minute+1) * time.Minute))
			if len(entries) > countedApart+len(rules) {
				t.Errorf("seed %d: %d lines of numbers", seed, len(entries))
			}
			counted := 0
			for _, e := range entries {
				if counted += e.Count; e.Event != ledger.Refused || e.Rule == "" || e.Code == "" || e.Count == 0 || e.Request != "" {
					t.Errorf("seed %d: %+v", seed, e)
				}
			}
			if full+counted != total {
				t.Errorf("seed %d: %d in full and %d by number, of %d", seed, full, counted, total)
			}
		}
	}
}

// A pod that asks in a loop, and whoever proves nobody, put so many lines a minute on record
// and no more; their numbers are right, and what is issued is recorded each time.
func TestRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept book
		a, _ := open(t, time.Now(), Options{Recorder: &kept})
		registry := prometheus.NewRegistry()
		service := NewService(a, asSleep, ServiceOptions{Metrics: NewMetrics(registry, a)})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- service.Run(ctx) }()
		began := time.Now()

		from := func(ctx context.Context, addr string) context.Context {
			return peer.NewContext(ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(mustAddr(t, addr))})
		}
		refused := func(ctx context.Context, times int) {
			t.Helper()
			for range times {
				if _, err := service.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{}); err == nil {
					t.Error("not refused")
				}
			}
		}
		for i := range 1000 { // one host, by ever other ports
			refused(from(bearing(t, "x"), fmt.Sprintf("10.0.0.7:%d", 1024+i)), 1)
		}
		refused(from(bearing(t, "x"), "[2001:db8::1]:1"), 6)
		refused(from(bearing(t, "x"), "[2001:db8::2]:1"), 1) // which may be the same host
		refused(from(bearing(t, token), "10.0.0.9:1"), 300)
		if in := len(kept.all()); in != 3*fullRule {
			t.Errorf("%d entries in full, want %d", in, 3*fullRule)
		}
		for i := range 100 {
			mustObtain(t, bearing(t, token), service)
			if in := len(kept.all()); in != 3*fullRule+1+i {
				t.Fatalf("%d entries after certificate %d", in, i)
			}
		}
		kept.forget()
		time.Sleep(time.Minute)
		synctest.Wait()
		more := func(n int) string {
			return fmt.Sprintf("%d more since %s, too many to record each", n, began.UTC().Format(time.RFC3339))
		}
		want := []ledger.Entry{
			{Event: "refused", ID: sleepID, Code: "InvalidArgument", Rule: "csr", Reason: more(295), Count: 295},
			{Event: "refused", Peer: "10.0.0.7", Code: "Unauthenticated", Rule: "token", Reason: more(995), Count: 995},
			{Event: "refused", Peer: "2001:db8::/64", Code: "Unauthenticated", Rule: "token", Reason: more(2), Count: 2},
		}
		if d := cmp.Diff(want, kept.all(), cmpopts.IgnoreFields(ledger.Entry{}, "Time")); d != "" {
			t.Error(d)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP citadel_server_refusals_total Requests refused, by the rule that they broke.
# TYPE citadel_server_refusals_total counter
citadel_server_refusals_total{rule="csr"} 300
citadel_server_refusals_total{rule="token"} 1007
# HELP citadel_server_unrecorded_refusals_total Refusals that are neither logged nor in the record but as a number, because there were too many.
# TYPE citadel_server_unrecorded_refusals_total counter
citadel_server_unrecorded_refusals_total 1292
`), "citadel_server_refusals_total", "citadel_server_unrecorded_refusals_total"); err != nil {
			t.Error(err)
		}

		// The next minute begins anew, and its end is not lost.
		kept.forget()
		refused(bearing(t, token), fullRule+1)
		if in := len(kept.all()); in != fullRule {
			t.Errorf("%d entries a minute later", in)
		}
		time.Sleep(time.Hour)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		refused(bearing(t, token), fullRule+7)
		service.Settle()
		if last := kept.all()[len(kept.all())-1]; len(kept.all()) != 2*fullRule+2 || last.Count != 7 {
			t.Errorf("%d entries at the end, the last %+v", len(kept.all()), last)
		}
	})
}

// Strangers leave the share of the proven alone.
func TestStrangersDoNotCrowdOutTheProven(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	service := NewService(a, asSleep, ServiceOptions{})
	for i := range 500 {
		ctx := peer.NewContext(bearing(t, "x"), &peer.Peer{Addr: net.TCPAddrFromAddrPort(mustAddr(t, fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)))})
		if _, err := service.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{}); err == nil {
			t.Error("not refused")
		}
	}
	if len(kept.entries) != fullMinute {
		t.Errorf("%d in full, want %d", len(kept.entries), fullMinute)
	}
	_, err := service.CreateCertificate(bearing(t, token), &securityapi.IstioCertificateRequest{})
	if last := kept.entries[len(kept.entries)-1]; err == nil || last.ID != sleepID || last.How != "token-review" {
		t.Errorf("the refusal of one who is proven is not recorded: %+v", last)
	}
}

// Numbers that cannot be recorded are logged, and do not wait for a record that is stuck.
func TestNumbersWithoutARecord(t *testing.T) {
	kept := failing{}
	var out strings.Builder
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	service := NewService(a, asSleep, ServiceOptions{Log: slog.New(slog.NewTextHandler(&out, nil))})
	for _, credential := range []string{"x", token} {
		for range fullRule + 3 {
			if _, err := service.CreateCertificate(bearing(t, credential), &securityapi.IstioCertificateRequest{}); err == nil {
				t.Error("not refused")
			}
		}
	}
	before := kept.asked
	out.Reset()
	if service.Settle(); kept.asked != before+1 {
		t.Errorf("a record that fails was asked %d times", kept.asked-before)
	}
	if said := out.String(); strings.Count(said, "refused more") != 2 || strings.Count(said, "level=ERROR") != 1 {
		t.Errorf("logged %s", said)
	}
}

// all returns the entries until now, while others append more.
func (b *book) all() []ledger.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.entries)
}

// forget begins the record anew.
func (b *book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = nil
}

// failing is a record that cannot be written to.
type failing struct{ asked int }

func (f *failing) Append(ledger.Entry) error {
	f.asked++
	return errors.New("disk full")
}

func mustAddr(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	addr, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
