package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// callers are accounts that may more than ask for themselves with a pod's token.
type callers struct {
	nodes, podless []mesh.ServiceAccount
}

func (c *callers) accountFlags(f *pflag.FlagSet) {
	f.Var((*accountList)(&c.nodes), "trusted-node-accounts",
		"service accounts of node proxies (namespace/name, between commas), which may ask for the identities of pods on their own node (CA_TRUSTED_NODE_ACCOUNTS)")
	f.Var((*accountList)(&c.podless), "podless-accounts",
		"service accounts (namespace/name, between commas) whose tokens need not be bound to a pod, for agents on virtual machines")
}

// accountList is a flag of service accounts.
type accountList []mesh.ServiceAccount

func (l *accountList) String() string {
	var words []string
	for _, a := range *l {
		words = append(words, a.String())
	}
	return strings.Join(words, ",")
}

func (l *accountList) Type() string { return "accounts" }

// Set takes the accounts in place of those before.
func (l *accountList) Set(text string) error {
	*l = nil
	for word := range strings.SplitSeq(text, ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		namespace, name, ok := strings.Cut(word, "/")
		if !ok {
			return fmt.Errorf("%q: not of the form namespace/name", word)
		}
		if _, err := identity.New(identity.DefaultTrustDomain, namespace, name); err != nil {
			return err
		}
		*l = append(*l, mesh.ServiceAccount{Namespace: namespace, Name: name})
	}
	return nil
}

// watched is what the watches of pods and accounts tell.
type watched interface {
	Alive(ctx context.Context, account mesh.ServiceAccount, pod, podUID string) error
	OnNode(ctx context.Context, node, namespace, account string) (mesh.Pod, error)
	StillAlive(account mesh.ServiceAccount, podUID string, since time.Time) error
}

// workloads makes the watches answer in the words of package ca.
type workloads struct{ watched }

func (w workloads) Alive(ctx context.Context, account mesh.ServiceAccount, pod, podUID string) error {
	return inWordsOfCA(w.watched.Alive(ctx, account, pod, podUID))
}

func (w workloads) OnNode(ctx context.Context, node, namespace, account string) (mesh.Pod, error) {
	pod, err := w.watched.OnNode(ctx, node, namespace, account)
	return pod, inWordsOfCA(err)
}

func (w workloads) stillAlive(account mesh.ServiceAccount, pod string, since time.Time) error {
	return inWordsOfCA(w.StillAlive(account, pod, since))
}

// inWordsOfCA marks what the cluster answers for package ca.
func inWordsOfCA(err error) error {
	switch {
	case errors.Is(err, cluster.ErrUnauthenticated):
		return fmt.Errorf("%w: %w", ca.ErrUnauthenticated, err)
	case errors.Is(err, cluster.ErrUnavailable):
		return fmt.Errorf("%w: %w", ca.ErrUnavailable, err)
	}
	return err
}

// confirmRevocations returns what to call when the list in use was read again. It calls tell
// when a revocation that has spared Citadel's own account is in force from now on.
func confirmRevocations(r *ca.Revocations, tell func()) func(time.Time) {
	spared := 0
	return func(asOf time.Time) {
		r.Confirm(asOf)
		now := len(r.Spared(time.Now()))
		if now < spared {
			tell()
		}
		spared = now
	}
}

// setRevocations follows the ConfigMap of the revoked. taken is called when others are
// revoked from then on.
func setRevocations(r *ca.Revocations, taken func(), log *slog.Logger) func(*corev1.ConfigMap) {
	return func(configMap *corev1.ConfigMap) {
		n, err := r.Set(configMap)
		switch {
		case err == nil:
			log.Info("took revocations", "count", n)
			for _, id := range r.Spared(time.Now()) {
				log.Error("revocation of Citadel's own identity: nobody else gets it, but its Secret is kept", "id", id)
			}
			taken()
		case r.Ready() != nil:
			log.Error("revocations are spoilt; nothing is issued until they are put right", "err", err)
		default:
			log.Error("revocations are spoilt; those read before stay", "err", err)
		}
	}
}
