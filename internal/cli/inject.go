package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/garrison-mesh/garrison/internal/inject"
)

func injectCommand(env Env) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Put the sidecar into manifests, as the webhook would",
		Long: `Print a file of manifests with the sidecar in its pods and pod templates, exactly as
the webhook would put it there when the pods are created. Everything else is printed
as it stands in the file.

A pod that the webhook would leave out, or would never hear of since its namespace is
not labelled, stays as it is, and the reason goes to standard error. Where one would
be refused, nothing is printed and the exit code is 1.

Namespaces, webhooks, settings, overlays and nodes are those of the cluster that the
kubeconfig names; files may stand for the first ones. Where there is none, or with
--offline, --settings is needed, the webhook is that of the settings' revision, and
every node is taken to have Kubernetes 1.33 or newer.`,
		Example: `  garrison inject -f web.yaml | kubectl apply -f -
  garrison inject -f web.yaml --offline --settings injector.yaml --namespace-file shop.yaml`,
		Args: noArgs,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&file, "filename", "f", "", "file of manifests, - for standard input")
	s := newSources(env, f)
	s.withFiles(f)
	c.RunE = func(c *cobra.Command, _ []string) error {
		documents, err := readDocuments(c, file)
		if err != nil {
			return err
		}
		i, err := s.open(c)
		if err != nil {
			return err
		}
		if i.declared, err = namespacesIn(documents); err != nil {
			return err
		}
		return editDocuments(c.OutOrStdout(), documents, func(pod carrier) (bool, error) {
			return i.inject(c.Context(), pod, c.ErrOrStderr())
		})
	}
	return c
}

// inject does to what carries pods what would be done to them. What is not an error
// but good to know goes to notes.
func (i *installation) inject(ctx context.Context, c carrier, notes io.Writer) (changed bool, err error) {
	j, raw, err := i.judgeCarrier(ctx, c)
	if err != nil {
		return false, err
	}
	for _, w := range j.warnings {
		fmt.Fprintf(notes, "%s: warning: %s\n", c, w)
	}
	switch j.outcome {
	case refused:
		return false, c.inTemplate(j.err)
	case undecided:
		return false, fmt.Errorf("whether the webhook is called cannot be said: %s", j.why)
	case leftOut:
		fmt.Fprintf(notes, "%s: left out: %s\n", c, sentence(j))
		return false, nil
	}
	if len(j.Injection.Ops) == 0 {
		fmt.Fprintf(notes, "%s: has the sidecar already\n", c)
		return false, nil
	}
	edited, err := inject.Apply(raw, j.Injection.Ops)
	if err != nil {
		return false, err
	}
	return true, c.put(edited)
}

// judgeCarrier decides about the pod in an object, and returns that pod.
func (i *installation) judgeCarrier(ctx context.Context, c carrier) (judgement, []byte, error) {
	name := cmp.Or(c.namespace(), i.fallback)
	ns, err := i.namespace(ctx, name)
	if err != nil {
		return judgement{}, nil, err
	}
	raw, err := c.pod(name)
	if err != nil {
		return judgement{}, nil, err
	}
	j, err := i.judge(ctx, ns, raw)
	return j, raw, err
}

func uninjectCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "uninject -f FILE",
		Short: "Take the sidecar out of manifests",
		Long: `Print a file of manifests without the sidecars in its pods and pod templates, by the
record that injection left in them. Everything else is printed as it stands in the
file. Of probes, ports that had names come back as numbers; what overlays changed in
the pod's own containers stays. No cluster is asked.`,
		Example: `  kubectl get deployment web -o yaml | garrison uninject -f -`,
		Args:    noArgs,
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "file of manifests, - for standard input")
	c.RunE = func(c *cobra.Command, _ []string) error {
		documents, err := readDocuments(c, file)
		if err != nil {
			return err
		}
		return editDocuments(c.OutOrStdout(), documents, uninject)
	}
	return c
}

// uninject takes the sidecar off what carries one.
func uninject(c carrier) (changed bool, err error) {
	raw, err := c.pod("")
	if err != nil {
		return false, err
	}
	if !isInjected(raw) {
		return false, nil
	}
	bare, err := inject.Strip(raw)
	if err != nil {
		return false, c.inTemplate(err)
	}
	if err := c.put(bare); err != nil {
		return false, err
	}
	return true, c.prune()
}

// sentence says why, and what can be done about it.
func sentence(j judgement) string {
	if j.advice == "" {
		return j.why
	}
	return j.why + "; " + j.advice
}
