package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// ca measures Citadel's service without the API server, beside its floor: everybody is
// taken for the same pod.
func (b bench) ca(ctx context.Context) (err error) {
	servers, stop, err := b.start(ctx, roleFloorCA, roleCitadel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return b.certificates(ctx, "ca", servers, []string{caToken})
}

// csr measures the real Citadel beside an API server of its own, with tokens of many
// pods and all that an installation does by default, beside the floor that asks for
// no token. Only its limits on callers are as good as off: these callers ask without end.
func (b bench) csr(ctx context.Context) (err error) {
	c, stop, err := b.startCitadel(ctx, "--max-rate=1e6", "--caller-rate=1e6", "--caller-burst=1000000")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	tokens, err := c.mint.tokens(ctx, 200)
	if err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	servers, end, err := b.start(ctx, roleFloorCA)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	return b.certificates(ctx, "csr", append(servers, c.server), tokens)
}

// certificates measures a floor and a CA in turn: what a certificate costs, and how
// long the last of a crowd wait.
func (b bench) certificates(ctx context.Context, prefix string, servers []*server, tokens []string) error {
	requests, err := newRequests(cartURI())
	if err != nil {
		return err
	}
	var contenders []contender
	for _, s := range servers {
		a, err := newAgents(s, requests, tokens...)
		if err != nil {
			return err
		}
		defer a.close()
		if err := a.verify(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.role, err)
		}
		contenders = append(contenders, contender{s, a.call})
	}
	low, high := servers[0].role, servers[1].role
	samples, err := rounds(ctx, b.plan.repeats, load{caClients, b.plan.window, limit}, contenders...)
	if err != nil {
		return err
	}
	floor, ca := values(samples[low], cpu), values(samples[high], cpu)
	b.report(standard(prefix+"."+low, samples[low], hopes{})...)
	b.report(standard(prefix+"."+high, samples[high], hopes{cpu: caGoal * median(floor)})...)
	b.report(figure{name: prefix + ".ratio", values: ratios(ca, floor), unit: "x", goal: caGoal})

	if samples, err = rounds(ctx, b.plan.repeats, load{caCrowd, b.plan.window, limit}, contenders...); err != nil {
		return err
	}
	floor, ca = values(samples[low], p99), values(samples[high], p99)
	b.report(standard(prefix+".crowd."+low, samples[low], hopes{})...)
	b.report(standard(prefix+".crowd."+high, samples[high], hopes{p99: caCrowdGoal * median(floor)})...)
	b.report(figure{name: prefix + ".crowd.p99-ratio", values: ratios(ca, floor), unit: "x", goal: caCrowdGoal})
	return nil
}

// reviewRate is the load at which the latency of reviewed requests is taken, a second.
const reviewRate = 100

// reviews measures Citadel's service with the API server of the cluster that KUBECONFIG
// names reviewing tokens: how many a second, and the latency at a rate that it can
// bear. Each token is used once or, later, long after, as the API server remembers its
// answers for ten seconds.
func (b bench) reviews(ctx context.Context) (err error) {
	if b.plan.kubeconfig == "" {
		return missing("KUBECONFIG, to name a cluster whose API server reviews tokens")
	}
	tokens, remove, err := b.reviewedTokens(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	servers, stop, err := b.start(ctx, roleReviewed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	requests, err := newRequests()
	if err != nil {
		return err
	}
	a, err := newAgents(servers[0], requests, tokens...)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.verify(ctx); err != nil {
		return err
	}
	repeats := b.plan.podRepeats
	share := len(tokens) / (2*repeats + 1) // for the warming window, too
	samples, err := rounds(ctx, repeats, load{caClients, time.Minute, share}, contender{servers[0], a.call})
	if err != nil {
		return err
	}
	b.report(standard("reviews", samples[roleReviewed], hopes{})...)
	var paced []sample
	for range repeats {
		o, err := steady(ctx, reviewRate, share, a.call)
		if err != nil {
			return err
		}
		paced = append(paced, sample{outcome: o})
	}
	name := fmt.Sprintf("reviews.at-%d", reviewRate)
	b.report(
		figure{name: name + ".rate", values: values(paced, sample.rate), unit: "/s"},
		figure{name: name + ".p50", values: values(paced, p50), unit: "ms"},
		figure{name: name + ".p99", values: values(paced, p99), unit: "ms"},
	)
	return nil
}

// reviewedTokens makes a namespace with a pod that no node gets, and has the API server
// make tokens bound to it. remove takes all of it away.
func (b bench) reviewedTokens(ctx context.Context) (tokens []string, remove func() error, err error) {
	client, err := connect(b.plan.kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	ns, remove, err := newNamespace(ctx, client, "disabled")
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	if err := accounts(ctx, client, []string{ns}); err != nil {
		return nil, nil, err
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: cart},
		Spec: corev1.PodSpec{
			SchedulingGates: []corev1.PodSchedulingGate{{Name: "example.com/never"}},
			Containers:      []corev1.Container{{Name: cart, Image: "example.com/cart"}},
		},
	}
	if pod, err = client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return nil, nil, err
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:      []string{mesh.TokenAudience},
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	tokens, err = inParallel(ctx, b.plan.reviews, func(ctx context.Context) (string, error) {
		made, err := client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", request, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return made.Status.Token, nil
	})
	return tokens, remove, err
}
