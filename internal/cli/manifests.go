package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
)

func manifests() *cobra.Command {
	return group(&cobra.Command{
		Use:   "manifests",
		Short: "Print Kubernetes objects for an installation",
		Long: `Print Kubernetes objects for an installation, as YAML for kubectl apply. The same
flags give the same bytes. No cluster is asked.`,
	}, webhookManifest(), citadelManifest())
}

func webhookManifest() *cobra.Command {
	var w inject.Webhook
	c := &cobra.Command{
		Use:   "webhook",
		Short: "Print which pods the API server is to show to the injector",
		Long: `Print the MutatingWebhookConfiguration by which the API server shows pods to the
injector, and for a revision or tag the right of that revision's injector to write
the object's caBundle, and the namespace where it tests, by dry run, whether the
API server does as the object says.

Without flags: the default installation, as it stands in the installed manifests.
It gets the pods of namespaces with the label istio-injection=enabled or
istio.io/rev=default, and in namespaces that have neither label the pods with
sidecar.istio.io/inject=true or istio.io/rev=default.

A revision is an injector beside the default one, which hack/revision prints: Service
istio-sidecar-injector-REVISION. It gets the namespaces and pods that have its name
in istio.io/rev. A tag is another such name, which can be moved from one revision to
another without a change of labels. The tag "default" hands over what the default
installation gets; then that one has to be switched off, with --neutral, or both
are called. Installing again switches it on.

Whatever the labels, sidecar.istio.io/inject=false on a pod leaves it out, and
istio-injection=disabled on a namespace leaves out all its pods.`,
		Example: `  apply="kubectl apply --server-side --field-manager=garrison-install -f -"

  # A revision beside the default, and a tag for it.
  garrison manifests webhook --revision canary | $apply
  garrison manifests webhook --revision canary --tag prod | $apply

  # The revision becomes the default. In this order no pod slips through.
  garrison manifests webhook --revision canary --tag default | $apply
  garrison manifests webhook --neutral | $apply

  # And back.
  garrison manifests webhook | $apply
  garrison manifests webhook --revision canary --tag default | kubectl delete -f -`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			objects, err := w.Objects()
			if err != nil {
				return mistaken(c, err)
			}
			return printYAML(c.OutOrStdout(), objects)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&w.Revision, "revision", "", "revision of the injector that serves; none: the default installation")
	f.StringVar(&w.Tag, "tag", "", "name for the revision, in an object of its own")
	f.BoolVar(&w.NamespacesByDefault, "namespaces-by-default", false, "also pods without labels in namespaces without labels; for the default or --tag default")
	f.BoolVar(&w.Neutral, "neutral", false, "the default installation, switched off: entries that match nothing")
	return c
}

// printYAML writes each object as a document, so that outputs may follow one another.
func printYAML(w io.Writer, objects []runtime.Object) error {
	for _, o := range objects {
		content, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "---\n%s", content); err != nil {
			return err
		}
	}
	return nil
}
