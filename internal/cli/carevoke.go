package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

func caRevoke(env Env) *cobra.Command {
	var reason, before string
	var undo bool
	c := &cobra.Command{
		Use:   "revoke ID|SERIAL",
		Short: "Have Citadel refuse an identity or a certificate",
		Long: `Have Citadel refuse an identity, by its SPIFFE ID, or one certificate, by its serial
number in hex, from the next request on. It writes the ConfigMap garrison-revocations,
which every replica follows.

An identity that is revoked gets no certificate by any means, and its Secret is deleted.
With --before, only what was proven before then counts no more: pods come with
a new token and are issued again, while a certificate that somebody took away with its key cannot be
renewed. A certificate that is revoked cannot renew itself; its pod's token still can.
What Citadel and the injector serve as can only be revoked with --before.

Certificates that are out already go on to be accepted by other workloads until they
end: to shut a workload out at once, use an AuthorizationPolicy as well.`,
		Example: `  garrison ca revoke spiffe://cluster.local/ns/shop/sa/cart --reason "node n7 broken into" --before now
  garrison ca revoke 4f:1c:09:aa --reason "key in a backup"
  garrison ca revoke spiffe://cluster.local/ns/shop/sa/cart --undo`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return mistaken(c, errors.New("one SPIFFE ID or serial number is needed"))
			}
			return nil
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&reason, "reason", "", "why, for the log and the next person; needed but for --undo")
	f.StringVar(&before, "before", "", "revoke only what was proven before: now, or a time such as 2026-10-01T12:00:00Z")
	f.BoolVar(&undo, "undo", false, "take the revocation back")
	a := newAccess(env, f)
	f.Lookup("namespace").Usage = "namespace that Citadel runs in; none: " + mesh.SystemNamespace
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := revocationOf(args[0], reason, before, time.Now())
		if undo && (reason != "" || before != "") {
			err = errors.New("--undo: not with --reason or --before")
		}
		if err != nil {
			return mistaken(c, err)
		}
		edit, done := ca.AddRevocation, "revoked"
		if undo {
			edit, done, r.Reason = ca.RemoveRevocation, "no longer revoked", "undone"
		}
		if _, err := ca.AddRevocation(nil, r); err != nil { // before a cluster is asked
			return mistaken(c, err)
		}
		namespace := cmp.Or(a.overrides.Context.Namespace, mesh.SystemNamespace)
		for server, of := range map[string]mesh.ServiceAccount{
			"Citadel": serverAccount(namespace, mesh.CitadelService), "the injector": serverAccount(namespace, mesh.InjectorService),
		} {
			if !undo && r.Bars(of, time.Now()) {
				return mistaken(c, fmt.Errorf("%s is what %s itself serves as: without it no new pod of the mesh would start. "+
					"If its key was stolen, --before now has a new one made at once; the old one can pose as %[2]s until its certificate ends, "+
					"or the root is changed: \"The CA's key was stolen\" in docs/ca-runbook.md", args[0], server))
			}
		}
		client, err := a.needed()
		if err != nil {
			return err
		}
		err = editRevocations(c.Context(), client, namespace, func(data map[string]string) (map[string]string, error) { return edit(data, r) })
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s %s\n", args[0], done)
		return err
	}
	return c
}

// serverAccount is the account that a server of ours serves as, in the namespace that it runs in.
func serverAccount(namespace, service string) mesh.ServiceAccount {
	return mesh.ServiceAccount{Namespace: namespace, Name: mesh.ServerAccount(service)}
}

// revocationOf reads the command line. What is wrong with the target, ca says.
func revocationOf(target, reason, before string, now time.Time) (ca.Revocation, error) {
	r := ca.Revocation{Reason: reason, Made: new(now.UTC().Truncate(time.Second))}
	if strings.Contains(target, "/") {
		r.ID = target
	} else {
		r.Serial = target
	}
	switch before {
	case "":
	case "now":
		r.Before = r.Made
	default:
		t, err := time.Parse(time.RFC3339, before)
		if err != nil {
			return r, fmt.Errorf("--before %q: now, or a time such as 2026-10-01T12:00:00Z", before)
		}
		r.Before = &t
	}
	return r, nil
}

// editRevocations changes the ConfigMap as it is, however many people do.
func editRevocations(
	ctx context.Context, client kubernetes.Interface, namespace string, edit func(map[string]string) (map[string]string, error),
) error {
	configMaps := client.CoreV1().ConfigMaps(namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		found, err := configMaps.Get(ctx, mesh.RevocationsConfigMap, metav1.GetOptions{})
		absent := apierrors.IsNotFound(err)
		if absent {
			found, err = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: mesh.RevocationsConfigMap, Labels: map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
			}}, nil
		}
		if err != nil {
			return err
		}
		if found.Data, err = edit(found.Data); err != nil {
			return err
		}
		if absent {
			_, err = configMaps.Create(ctx, found, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				err = apierrors.NewConflict(corev1.Resource("configmaps"), found.Name, err)
			}
			return err
		}
		_, err = configMaps.Update(ctx, found, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("config map %s/%s: %w", namespace, mesh.RevocationsConfigMap, err)
	}
	return nil
}
