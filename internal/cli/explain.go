package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func explain(env Env) *cobra.Command {
	var file, format string
	c := &cobra.Command{
		Use:   "explain TYPE NAME | explain TYPE/NAME | explain -f FILE",
		Short: "Say why a pod gets the sidecar or not, and which one",
		Long: `Say whether a pod gets the sidecar, which rule decides that, what its options are and
what they beat, and what it is let off. It asks the webhooks' selectors and conditions
and then the injector's own decision, as they are today.

TYPE is pod, deployment, statefulset, daemonset, replicaset, replicationcontroller, job
or cronjob. Of a workload it explains the pods that it would make; of a pod that runs,
what it would be if it were created now, and how it differs from that. FILE has
manifests, of which it explains all pods and workloads.

Namespaces, webhooks, settings, overlays and nodes are those of the cluster that the
kubeconfig names; files may stand for the first ones. With -f a cluster can be done
without: then --settings is needed, the webhook is that of the settings' revision, and
every node is taken to have Kubernetes 1.33 or newer.`,
		Example: `  garrison explain pod web-6d4b75cb6d-x7k2p -n shop
  garrison explain deployment/web -n shop -o json
  garrison explain -f web.yaml --offline --settings injector.yaml --namespace-file shop.yaml`,
		DisableFlagsInUseLine: true,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&file, "filename", "f", "", "file of manifests, - for standard input")
	f.StringVarP(&format, "output", "o", "", "json or yaml: a list of what is said, with fields that stay")
	s := newSources(env, f)
	s.withFiles(f)
	c.RunE = func(c *cobra.Command, args []string) error {
		k, name, err := named(args, file)
		if err = errors.Join(err, checkFormat(format)); err != nil {
			return mistaken(c, err)
		}
		if name != "" && s.offline {
			return mistaken(c, errors.New("--offline: what runs is known to the cluster only; give -f FILE"))
		}
		verdicts := []verdict{}
		if file != "" {
			verdicts, err = s.explainFile(c, file)
		} else {
			var v verdict
			v, err = s.explainLive(c, k, name)
			verdicts = append(verdicts, v)
		}
		if err != nil {
			return err
		}
		if format != "" {
			return asData(c.OutOrStdout(), format, verdicts)
		}
		for i, v := range verdicts {
			if i > 0 {
				fmt.Fprintln(c.OutOrStdout())
			}
			if err := v.write(c.OutOrStdout()); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

// named reads what is to be explained: TYPE NAME, TYPE/NAME, or nothing beside a file.
func named(args []string, file string) (k kind, name string, err error) {
	if file != "" {
		if len(args) > 0 {
			return k, "", fmt.Errorf("argument %q: beside --filename there are none", args[0])
		}
		return k, "", nil
	}
	if len(args) == 1 {
		args = strings.SplitN(args[0], "/", 2)
	}
	if len(args) != 2 || args[0] == "" || args[1] == "" {
		return k, "", errors.New("what is to be explained? TYPE NAME, TYPE/NAME or -f FILE")
	}
	word := strings.ToLower(args[0])
	var types []string
	for _, k := range kinds() {
		if len(k.spoken) < 2 { // the client does not know it
			continue
		}
		if slices.Contains(k.spoken, word) {
			return k, args[1], nil
		}
		types = append(types, k.spoken[0])
	}
	return k, "", fmt.Errorf("type %q: none of %s", args[0], strings.Join(types, ", "))
}

// explainFile explains what carries pods in a file, in its order.
func (s *sources) explainFile(c *cobra.Command, file string) ([]verdict, error) {
	documents, err := readDocuments(c, file)
	if err != nil {
		return nil, err
	}
	i, err := s.open(c)
	if err != nil {
		return nil, err
	}
	if i.declared, err = namespacesIn(documents); err != nil {
		return nil, err
	}
	all := []verdict{}
	for n, d := range documents {
		object, err := d.object()
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n+1, err)
		}
		for _, pod := range carriers(object) {
			v, err := i.verdictOf(c.Context(), pod)
			if err != nil {
				return nil, fmt.Errorf("document %d: %s: %w", n+1, pod, err)
			}
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no pod in it, and nothing that makes pods", file)
	}
	return all, nil
}

// verdictOf explains what is in a manifest. A sidecar that is in it already plays no
// part.
func (i *installation) verdictOf(ctx context.Context, c carrier) (verdict, error) {
	if raw, err := c.pod(""); err == nil && isInjected(raw) {
		if _, err := uninject(c); err != nil {
			return verdict{}, err
		}
	}
	j, _, err := i.judgeCarrier(ctx, c)
	return newVerdict(c, cmp.Or(c.namespace(), i.fallback), j), err
}

// explainLive explains an object of the cluster.
func (s *sources) explainLive(c *cobra.Command, k kind, name string) (verdict, error) {
	i, err := s.openLive(c)
	if err != nil {
		return verdict{}, err
	}
	object, err := i.cluster.get(c.Context(), k, i.fallback, name)
	if err != nil {
		return verdict{}, err
	}
	live := carrier{k, object}
	if k.path != nil {
		return i.verdictOf(c.Context(), live)
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return verdict{}, err
	}
	pod, err := newRunning(raw)
	if err != nil {
		return verdict{}, err
	}
	j, err := i.judgeRunning(c.Context(), pod)
	if err != nil {
		return verdict{}, err
	}
	v := newVerdict(live, live.namespace(), j)
	n := pod.compare(j)
	v.Now = &n
	return v, nil
}

// judgeRunning decides about a pod as if it were created today.
func (i *installation) judgeRunning(ctx context.Context, pod running) (judgement, error) {
	ns, err := i.namespace(ctx, pod.meta.Namespace)
	if err != nil {
		return judgement{}, err
	}
	raw, err := pod.created()
	if err != nil {
		return judgement{}, err
	}
	return i.judge(ctx, ns, raw)
}
