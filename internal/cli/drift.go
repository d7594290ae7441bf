package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
)

// drifted is a pod whose sidecar is not the one that it would get today. Its JSON is for
// programs: fields stay.
type drifted struct {
	Namespace     string          `json:"namespace"`
	Pod           string          `json:"pod"`
	Owner         string          `json:"owner,omitempty"`         // as kubectl takes it, deployment/web
	Configuration string          `json:"configuration,omitempty"` // that it was made of, by its hash
	Reason        string          `json:"reason"`
	Difference    []inject.Change `json:"difference,omitempty"`
	Do            string          `json:"do,omitempty"`
}

func drift(env Env) *cobra.Command {
	var all, diff bool
	var format string
	c := &cobra.Command{
		Use:   "drift",
		Short: "List pods whose sidecar is not the one that they would get today",
		Long: `List the running pods whose sidecar today's configuration would make differently, or
would not put there: pods keep the sidecar that they were created with until they are
replaced. The exit code is 3 where there are any.

With --settings and --overlays it says what a change of them would leave behind. Which
kind of container the sidecar is depends on the nodes, and is no drift; nor is what the
API server and others have added to it.`,
		Example: `  garrison drift -A
  garrison drift -n shop --diff
  garrison drift -A --settings injector.yaml -o json`,
		Args: noArgs,
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVarP(&all, "all-namespaces", "A", false, "pods of all namespaces")
	f.BoolVar(&diff, "diff", false, "list the fields that differ as well")
	f.StringVarP(&format, "output", "o", "", "json or yaml: a list with the differences, and fields that stay")
	s := newSources(env, f)
	c.RunE = func(c *cobra.Command, _ []string) error {
		err := checkFormat(format)
		if all && s.overrides.Context.Namespace != "" {
			err = errors.Join(err, errors.New("--all-namespaces: not with --namespace"))
		}
		if err != nil {
			return mistaken(c, err)
		}
		i, err := s.openLive(c)
		if err != nil {
			return err
		}
		namespace := i.fallback
		if all {
			namespace = ""
		}
		found, err := i.drifted(c.Context(), namespace, c.ErrOrStderr())
		if err != nil {
			return err
		}
		if format != "" {
			err = asData(c.OutOrStdout(), format, found)
		} else {
			err = writeDrifted(c.OutOrStdout(), found, diff)
		}
		if err == nil && len(found) > 0 {
			err = foundError{fmt.Errorf("%d with another sidecar than they would get today", len(found))}
		}
		return err
	}
	return c
}

// drifted goes through the pods of a namespace, "" for all. What cannot be said of one
// goes to notes.
func (i *installation) drifted(ctx context.Context, namespace string, notes io.Writer) ([]drifted, error) {
	found := []drifted{}
	err := i.cluster.pods(ctx, namespace, func(raw json.RawMessage) error {
		if !isInjected(raw) || isOver(raw) {
			return nil
		}
		pod, err := newRunning(raw)
		if err != nil {
			return err
		}
		at := fmt.Sprintf("pod %s/%s", pod.meta.Namespace, pod.meta.Name)
		d := drifted{Namespace: pod.meta.Namespace, Pod: pod.meta.Name, Owner: pod.owner()}
		if _, err := pod.created(); err != nil {
			d.Reason, d.Do = "its sidecar does not come off: "+oneLine(err), pod.anew()
			found = append(found, d)
			return nil
		}
		j, err := i.judgeRunning(ctx, pod)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		n := pod.compare(j)
		switch {
		case j.outcome == undecided:
			fmt.Fprintf(notes, "%s: %s\n", at, n.Why)
		case n.Differs:
			d.Configuration, d.Reason, d.Difference, d.Do = n.Configuration, summary(n), n.Difference, n.Do
			found = append(found, d)
		}
		return nil
	})
	return found, err
}

// isOver reports whether a pod has ended, or is about to.
func isOver(raw []byte) bool {
	var pod struct {
		Metadata struct{ DeletionTimestamp *string }
		Status   struct{ Phase corev1.PodPhase }
	}
	if json.Unmarshal(raw, &pod) != nil {
		return false
	}
	return pod.Metadata.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func writeDrifted(w io.Writer, found []drifted, diff bool) error {
	if len(found) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tPOD\tOWNER\tCONFIGURATION\tREASON")
	for _, d := range found {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", d.Namespace, d.Pod, orDash(d.Owner), orDash(d.Configuration), d.Reason)
	}
	if err := table.Flush(); err != nil || !diff {
		return err
	}
	for _, d := range found {
		if _, err := fmt.Fprintf(w, "\n%s/%s\n", d.Namespace, d.Pod); err != nil {
			return err
		}
		for _, c := range d.Difference {
			if _, err := fmt.Fprintf(w, "  %s\n", c); err != nil {
				return err
			}
		}
	}
	return nil
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// summary says in a line what differs: the fields, or why.
func summary(n now) string {
	var fields []string
	for _, c := range n.Difference {
		field := c.Field
		for _, list := range []string{"spec.initContainers[", "spec.containers["} {
			if rest, ok := strings.CutPrefix(field, list); ok {
				container, of, _ := strings.Cut(rest, "]")
				of, _, _ = strings.Cut(strings.TrimPrefix(of, "."), ".")
				of, _, _ = strings.Cut(of, "[")
				field = strings.TrimSuffix(container+"."+of, ".")
			}
		}
		if !slices.Contains(fields, field) {
			fields = append(fields, field)
		}
	}
	if len(fields) == 0 {
		return n.Why
	}
	return "differs in " + strings.Join(fields, ", ")
}

// oneLine returns an error's message, which may be several, in one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
