package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestParseCallers(t *testing.T) {
	s, err := parse(nil, io.Discard)
	if err != nil || s.nodes != nil || s.podless != nil {
		t.Errorf("%v, %v, %v: nobody is trusted unless said so", s.nodes, s.podless, err)
	}
	ztunnel := []mesh.ServiceAccount{{Namespace: "istio-system", Name: "ztunnel"}, {Namespace: "other", Name: "ztunnel"}}
	t.Setenv("CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel, other/ztunnel,")
	s, err = parse([]string{"--podless-accounts=vms/db"}, io.Discard)
	if err != nil || !slices.Equal(s.nodes, ztunnel) || !slices.Equal(s.podless, []mesh.ServiceAccount{{Namespace: "vms", Name: "db"}}) {
		t.Errorf("%v, %v, %v", s.nodes, s.podless, err)
	}
	for _, word := range []string{"ztunnel", "a/b/c", "A/b", "a/", "/b", "istio-system/*"} {
		if _, err := parse([]string{"--trusted-node-accounts=" + word}, io.Discard); err == nil {
			t.Errorf("%s: accepted", word)
		}
	}
}

// answers are those of the watches.
type answers struct {
	asked []string
	err   error
}

func (t *answers) Alive(_ context.Context, account mesh.ServiceAccount, pod, podUID string) error {
	t.asked = []string{account.Namespace, account.Name, account.UID, podUID, pod}
	return t.err
}

func (t *answers) OnNode(_ context.Context, node, namespace, account string) (mesh.Pod, error) {
	t.asked = []string{node, namespace, account}
	return mesh.Pod{Name: "p"}, t.err
}

func (t *answers) StillAlive(account mesh.ServiceAccount, podUID string, since time.Time) error {
	t.asked = []string{account.Namespace, account.Name, account.UID, podUID, since.String()}
	return t.err
}

func TestWorkloadsInWordsOfCA(t *testing.T) {
	for _, c := range []struct{ in, want error }{
		{nil, nil},
		{fmt.Errorf("pod: %w", cluster.ErrUnauthenticated), ca.ErrUnauthenticated},
		{fmt.Errorf("pod: %w", cluster.ErrUnavailable), ca.ErrUnavailable},
		{context.Canceled, context.Canceled},
	} {
		w := answers{err: c.in}
		err := workloads{&w}.Alive(t.Context(), mesh.ServiceAccount{Namespace: "ns", Name: "sa", UID: "u"}, "p", "pu")
		if !errors.Is(err, c.want) || !errors.Is(err, c.in) || !slices.Equal(w.asked, []string{"ns", "sa", "u", "pu", "p"}) {
			t.Errorf("%v is %v, asked %q", c.in, err, w.asked)
		}
		since := time.Unix(1000, 0)
		err = workloads{&w}.stillAlive(mesh.ServiceAccount{Namespace: "ns", Name: "sa", UID: "u"}, "pu", since)
		if !errors.Is(err, c.want) || !errors.Is(err, c.in) || !slices.Equal(w.asked, []string{"ns", "sa", "u", "pu", since.String()}) {
			t.Errorf("%v is %v, asked %q", c.in, err, w.asked)
		}
		pod, err := workloads{&w}.OnNode(t.Context(), "n", "ns", "sa")
		if !errors.Is(err, c.want) || pod.Name != "p" || !slices.Equal(w.asked, []string{"n", "ns", "sa"}) {
			t.Errorf("%v is %v, asked %q", c.in, err, w.asked)
		}
	}
}

// Whoever is spared until a time is looked at again when it has come.
func TestConfirmRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := mesh.ServiceAccount{Namespace: "istio-system", Name: "istio-citadel-service-account"}
		r := ca.NewRevocations(ca.RevocationsOptions{Own: own})
		text := "- {id: spiffe://cluster.local/ns/istio-system/sa/istio-citadel-service-account, reason: x, before: " +
			time.Now().Add(12*time.Second).UTC().Format(time.RFC3339) + "}"
		if _, err := r.Set(&corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: text}}); err != nil {
			t.Fatal(err)
		}
		var told []time.Duration
		began := time.Now()
		confirm := confirmRevocations(r, func() { told = append(told, time.Since(began)) })
		for range 6 {
			confirm(time.Now())
			time.Sleep(5 * time.Second)
		}
		if !slices.Equal(told, []time.Duration{15 * time.Second}) {
			t.Errorf("told after %v", told)
		}
	})
}

func TestSetRevocations(t *testing.T) {
	var out bytes.Buffer
	r := new(ca.Revocations)
	taken := 0
	set := setRevocations(r, func() { taken++ }, slog.New(slog.NewTextHandler(&out, nil)))
	spoilt := &corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: "- {}"}}
	for _, step := range []struct {
		configMap *corev1.ConfigMap
		ready     bool
		says      string
	}{
		{spoilt, false, "nothing is issued until they are put right"},
		{nil, true, "count=0"},
		{spoilt, true, "those read before stay"},
	} {
		out.Reset()
		set(step.configMap)
		if (r.Ready() == nil) != step.ready || !strings.Contains(out.String(), step.says) {
			t.Errorf("ready is %t, %s", r.Ready() == nil, out.String())
		}
	}
	if taken != 1 {
		t.Errorf("Secrets were to be looked at again %d times, want once", taken)
	}
}
