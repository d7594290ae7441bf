package ca

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestParseRevocations(t *testing.T) {
	before := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	got, err := ParseRevocations(map[string]string{mesh.RevocationsKey: `
- id: spiffe://cluster.local/ns/default/sa/sleep
  reason: node n1 was broken into
  before: 2026-10-01T12:00:00Z
- serial: "0A:1b"
  reason: key in a log
`})
	want := []Revocation{{ID: sleepID, Reason: "node n1 was broken into", Before: &before}, {Serial: "a1b", Reason: "key in a log"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
	for name, c := range map[string]struct{ key, text, want string }{
		"another key":          {"revocation.yaml", "[]", "revocation.yaml: not a key"},
		"not YAML":             {"", "\t{", "revocations.yaml: "},
		"no list":              {"", "id: x", "revocations.yaml: "},
		"second document":      {"", "[]\n---\n- {id: " + sleepID + ", reason: x}", "a second document"},
		"unknown field":        {"", "- {id: " + sleepID + ", reason: x, until: now}", `unknown field "until"`},
		"no reason":            {"", "- {id: " + sleepID + ", reason: ' '}", "entry 1: needs a reason"},
		"long reason":          {"", "- {id: " + sleepID + ", reason: " + strings.Repeat("x", 501) + "}", "reason of 501 bytes, at most 500"},
		"neither":              {"", "- {reason: x}", "either an id or a serial"},
		"both":                 {"", "- {id: " + sleepID + ", serial: a, reason: x}", "either an id or a serial"},
		"not an id":            {"", "- {id: default/sleep, reason: x}", "does not begin with spiffe://"},
		"not hex":              {"", "- {serial: xyz, reason: x}", `serial "xyz"`},
		"serial as a number":   {"", "- {serial: 0123, reason: x}", "cannot unmarshal number"},
		"reason as a truth":    {"", "- {serial: a, reason: y}", "cannot unmarshal bool"},
		"zero":                 {"", "- {serial: '0', reason: x}", `serial "0"`},
		"long serial":          {"", "- {serial: '" + strings.Repeat("a", 41) + "', reason: x}", "not a number in hex"},
		"before with a serial": {"", "- {serial: a, reason: x, before: 2026-10-01T12:00:00Z}", "before: only for an id"},
	} {
		key := mesh.RevocationsKey
		if c.key != "" {
			key = c.key
		}
		_, err := ParseRevocations(map[string]string{key: c.text})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantError(t, err, c.want)
	}
	for _, data := range []map[string]string{nil, {}, {mesh.RevocationsKey: ""}} {
		if got, err := ParseRevocations(data); len(got) > 0 || err != nil {
			t.Errorf("%v: %v, %v", data, got, err)
		}
	}
}

func TestAddAndRemoveRevocation(t *testing.T) {
	data, err := AddRevocation(nil, Revocation{ID: sleepID, Reason: "first"})
	if err != nil {
		t.Fatal(err)
	}
	one := data[mesh.RevocationsKey]
	data, err = AddRevocation(data, Revocation{Serial: "0x0A", Reason: "other"})
	if err != nil {
		t.Fatal(err)
	}
	two := data[mesh.RevocationsKey]
	data, err = AddRevocation(data, Revocation{ID: sleepID, Reason: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseRevocations(data); err != nil || len(got) != 2 || got[1].Reason != "second" || got[0].Serial != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	if two == one || two == data[mesh.RevocationsKey] {
		t.Error("data was changed in place")
	}
	data, err = AddRevocation(data, Revocation{Serial: "b", Reason: "beside a"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseRevocations(data); err != nil || len(got) != 3 {
		t.Errorf("another serial: %+v, %v", got, err)
	}
	if data, err = RemoveRevocation(data, Revocation{Serial: "b"}); err != nil {
		t.Fatal(err)
	}
	if data, err = RemoveRevocation(data, Revocation{Serial: "a"}); err != nil {
		t.Fatal(err)
	}
	if got, err := ParseRevocations(data); err != nil || len(got) != 1 || got[0].ID != sleepID {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = RemoveRevocation(data, Revocation{Serial: "a"})
	wantError(t, err, "a is not revoked")
	_, err = AddRevocation(data, Revocation{Serial: "a"})
	wantError(t, err, "needs a reason")
	_, err = AddRevocation(map[string]string{mesh.RevocationsKey: "- {}"}, Revocation{Serial: "a", Reason: "x"})
	wantError(t, err, "entry 1")
}

// FuzzParseRevocations holds that what is accepted comes back the same after an edit.
func FuzzParseRevocations(f *testing.F) {
	f.Add("- {id: " + sleepID + ", reason: x}")
	f.Add("- {serial: 'aa:bb', reason: x}\n- {serial: cc, reason: y}")
	f.Fuzz(func(t *testing.T, text string) {
		before, err := ParseRevocations(map[string]string{mesh.RevocationsKey: text})
		if err != nil {
			return
		}
		data, err := AddRevocation(map[string]string{mesh.RevocationsKey: text}, Revocation{Serial: "ffffffffffffffff", Reason: "x"})
		if err != nil {
			t.Fatal(err)
		}
		after, err := ParseRevocations(data)
		if err != nil || len(after) == 0 || len(after) > len(before)+1 {
			t.Errorf("%q: %v, %v", text, after, err)
		}
	})
}

func TestBars(t *testing.T) {
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	before, after := now.Add(-time.Second), now.Add(time.Second)
	for name, c := range map[string]struct {
		of   Revocation
		want bool
	}{
		"for good":             {Revocation{ID: sleepID}, true},
		"another trust domain": {Revocation{ID: "spiffe://cluster.locol/ns/default/sa/sleep"}, true},
		"another":              {Revocation{ID: httpbinID}, false},
		"a certificate":        {Revocation{Serial: "a1"}, false},
		"until now":            {Revocation{ID: sleepID, Before: &now}, false},
		"until then":           {Revocation{ID: sleepID, Before: &before}, false},
		"until later":          {Revocation{ID: sleepID, Before: &after}, true},
	} {
		if got := c.of.Bars(sleep, now); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
