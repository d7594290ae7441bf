package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// installation is what decides about pods: of a cluster, of files, or what files say in
// the place of the cluster's.
type installation struct {
	cluster    *live // nil: nothing but files
	webhooks   []*admissionregistrationv1.MutatingWebhookConfiguration
	older      []mesh.Node
	overlays   *inject.Overlays // nil: not read yet
	fallback   string           // namespace of objects that name none
	namespaces map[string]mesh.Namespace
	declared   map[string]mesh.Namespace  // by the manifests at hand, where there are no others
	given      map[string]inject.Settings // of a file, by revision, without overlays
	settings   map[string]inject.Settings // those asked for, with overlays
}

// sources are the flags that say where an installation is read.
type sources struct {
	*access
	version                        string
	settings, overlays, namespaces string // files
	offline                        bool
	optional                       bool // whether the command has that flag
}

// newSources declares the flags. The rest is good once they are parsed.
func newSources(env Env, f *pflag.FlagSet) *sources {
	s := &sources{access: newAccess(env, f), version: env.Version}
	f.StringVar(&s.settings, "settings", "", "an injector's file of settings, in the place of those that the cluster has of its revision")
	f.StringVar(&s.overlays, "overlays", "", "manifest of ConfigMap "+mesh.OverlaysConfigMap+", in the place of the cluster's")
	return s
}

// withFiles declares the flags of commands that can do without a cluster.
func (s *sources) withFiles(f *pflag.FlagSet) {
	s.optional = true
	f.StringVar(&s.namespaces, "namespace-file", "", "manifests of namespaces, in the place of the cluster's")
	f.BoolVar(&s.offline, "offline", false, "ask no cluster: what is not in files is at its default, and every node new")
}

// open reads what files say, and the rest when it is needed. Without a cluster, and
// where none is configured, the webhook is the one that the revision's installation has.
// What users should know goes to c's standard error.
func (s *sources) open(c *cobra.Command) (*installation, error) {
	i := &installation{namespaces: map[string]mesh.Namespace{}, given: map[string]inject.Settings{}, settings: map[string]inject.Settings{}}
	if err := s.readFiles(i); err != nil {
		return nil, err
	}
	if !s.offline {
		client, err := s.client()
		switch {
		case err == nil:
			i.cluster = &live{client: client, version: s.version, notes: c.ErrOrStderr()}
		case !clientcmd.IsEmptyConfig(errors.Unwrap(err)) || s.file != "" || s.overrides.CurrentContext != "":
			return nil, err
		}
	}
	if i.cluster == nil {
		if len(i.given) == 0 {
			return nil, mistaken(c, errors.New("--settings: missing: there is no cluster to read the injector's settings from"))
		}
		return i, i.withoutCluster(s)
	}
	err := s.readCluster(c.Context(), i)
	if err != nil && s.optional && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown { // it did not answer
		err = fmt.Errorf("%w; --offline asks no cluster", err)
	}
	return i, err
}

// openLive is open for what cannot be done without a cluster.
func (s *sources) openLive(c *cobra.Command) (*installation, error) {
	if _, err := s.needed(); err != nil {
		return nil, err
	}
	return s.open(c)
}

func (s *sources) readCluster(ctx context.Context, i *installation) error {
	var err error
	if i.fallback, err = s.namespace(); err != nil {
		return err
	}
	if i.webhooks, err = i.cluster.webhooks(ctx); err != nil {
		return err
	}
	i.older, err = i.cluster.older(ctx)
	return err
}

func (s *sources) readFiles(i *installation) error {
	if s.settings != "" {
		file, err := os.ReadFile(s.settings)
		if err != nil {
			return err
		}
		settings, err := parseSettings(file)
		if err != nil {
			return fmt.Errorf("%s: %w", s.settings, err)
		}
		i.given[settings.Revision()] = settings
	}
	if s.overlays != "" {
		overlays, err := readOverlays(s.overlays)
		if err != nil {
			return fmt.Errorf("%s: %w", s.overlays, err)
		}
		i.overlays = &overlays
	}
	if s.namespaces != "" {
		content, err := os.ReadFile(s.namespaces)
		if err != nil {
			return err
		}
		if i.namespaces, err = namespacesIn(splitDocuments(content)); err != nil {
			return fmt.Errorf("%s: %w", s.namespaces, err)
		}
		if len(i.namespaces) == 0 {
			return fmt.Errorf("%s: no Namespace in it", s.namespaces)
		}
	}
	return nil
}

func parseSettings(file []byte) (inject.Settings, error) {
	options, err := inject.ParseOptions(file)
	if err != nil {
		return inject.Settings{}, err
	}
	return inject.NewSettings(options)
}

func readOverlays(name string) (inject.Overlays, error) {
	file, err := os.ReadFile(name)
	if err != nil {
		return inject.Overlays{}, err
	}
	var m corev1.ConfigMap
	if err := yaml.Unmarshal(file, &m); err != nil {
		return inject.Overlays{}, err
	}
	if m.Kind != "ConfigMap" {
		return inject.Overlays{}, errors.New("not the manifest of a ConfigMap")
	}
	return inject.ParseOverlays(m.Data)
}

// namespacesIn returns the namespaces that documents describe.
func namespacesIn(documents []document) (map[string]mesh.Namespace, error) {
	all := map[string]mesh.Namespace{}
	for n, d := range documents {
		object, err := d.object()
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n+1, err)
		}
		if object["kind"] != "Namespace" || object["apiVersion"] != "v1" {
			continue
		}
		var ns corev1.Namespace
		if err := yaml.Unmarshal(d.body, &ns); err != nil {
			return nil, fmt.Errorf("document %d: %w", n+1, err)
		}
		all[ns.Name] = mesh.Namespace{Name: ns.Name, Labels: ns.Labels, Annotations: ns.Annotations}
	}
	return all, nil
}

// withoutCluster has files stand for all.
func (i *installation) withoutCluster(s *sources) error {
	if i.overlays == nil {
		i.overlays = &inject.Overlays{}
	}
	i.fallback = cmp.Or(s.overrides.Context.Namespace, i.onlyNamespace(), "default")
	for revision := range i.given {
		config, err := inject.Webhook{Revision: revision}.Configuration()
		if err != nil {
			return fmt.Errorf("%s: revision: %w", s.settings, err)
		}
		i.webhooks = append(i.webhooks, config)
	}
	return nil
}

// onlyNamespace is the one that was given, where it was one.
func (i *installation) onlyNamespace() string {
	if len(i.namespaces) == 1 {
		for name := range i.namespaces {
			return name
		}
	}
	return ""
}

// namespace returns what a namespace says: by the file that was given, else in the
// cluster, else by the manifests that make it.
func (i *installation) namespace(ctx context.Context, name string) (mesh.Namespace, error) {
	if ns, ok := i.namespaces[name]; ok {
		return ns, nil
	}
	ns, declared := i.declared[name]
	if i.cluster != nil {
		live, err := i.cluster.namespace(ctx, name)
		if err != nil && (!declared || !apierrors.IsNotFound(err)) {
			return live, err
		}
		if err == nil {
			ns = live
		}
	} else if !declared {
		return ns, fmt.Errorf("namespace %s: its labels decide, and are not known; --namespace-file takes its manifest", name)
	}
	i.namespaces[name] = ns
	return ns, nil
}

// settingsOf returns the settings of a revision, overlays included.
func (i *installation) settingsOf(ctx context.Context, revision string) (inject.Settings, error) {
	if s, ok := i.settings[revision]; ok {
		return s, nil
	}
	s, ok := i.given[revision]
	var err error
	switch {
	case ok:
	case i.cluster == nil:
		return s, fmt.Errorf("settings of revision %s: not known; --settings takes them", revision)
	default:
		if s, err = i.cluster.settings(ctx, revision); err != nil {
			return s, err
		}
	}
	if i.overlays == nil {
		overlays, err := i.cluster.overlays(ctx)
		if err != nil {
			return s, err
		}
		i.overlays = &overlays
	}
	if s, err = s.WithOverlays(*i.overlays); err == nil {
		i.settings[revision] = s
	}
	return s, err
}

// words lists what namespaces and pods may say in istio.io/rev to be injected.
func (i *installation) words() []string {
	var words []string
	for _, c := range i.webhooks {
		for _, entry := range c.Webhooks {
			if entry.NamespaceSelector == nil {
				continue
			}
			var named []string
			off := false
			for _, r := range entry.NamespaceSelector.MatchExpressions {
				switch {
				case r.Key == mesh.RevisionLabel && r.Operator == metav1.LabelSelectorOpIn:
					named = append(named, r.Values...)
				case r.Key == corev1.LabelMetadataName && r.Operator == metav1.LabelSelectorOpDoesNotExist:
					off = true
				}
			}
			if !off {
				words = append(words, named...)
			}
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// revisionOf is the one that serves a webhook.
func revisionOf(c *admissionregistrationv1.MutatingWebhookConfiguration) string {
	return cmp.Or(c.Labels[mesh.RevisionLabel], mesh.DefaultRevision)
}
