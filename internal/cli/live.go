package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// live reads a cluster: what decides there about pods, and pods.
type live struct {
	client  kubernetes.Interface
	version string // of this program
	notes   io.Writer
	page    int // how many pods are held at a time; 0: 500
}

// settingsConfigMap is how the names of the injectors' settings begin: behind it stand
// the revision, where it is not the default, and a hash of what is in them.
const (
	settingsConfigMap = "garrison-injector-"
	settingsKey       = "injector.yaml"
)

var ours = metav1.ListOptions{LabelSelector: mesh.ManagedByLabel + "=" + mesh.ManagedBy}

// webhooks returns Garrison's webhook configurations by name, which is the order that
// the API server calls them in.
func (l *live) webhooks(ctx context.Context) ([]*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	list, err := l.client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, ours)
	if err != nil {
		return nil, fmt.Errorf("webhook configurations: %w", err)
	}
	var all []*admissionregistrationv1.MutatingWebhookConfiguration
	for i := range list.Items {
		all = append(all, &list.Items[i])
	}
	slices.SortFunc(all, func(a, b *admissionregistrationv1.MutatingWebhookConfiguration) int {
		return strings.Compare(a.Name, b.Name)
	})
	return all, nil
}

func (l *live) older(ctx context.Context) ([]mesh.Node, error) {
	return cluster.ReadOlder(ctx, l.client, inject.NativeMinor)
}

func (l *live) namespace(ctx context.Context, name string) (mesh.Namespace, error) {
	return cluster.ReadNamespace(ctx, l.client, name)
}

// overlays are none where there is no ConfigMap, as for the injector.
func (l *live) overlays(ctx context.Context) (inject.Overlays, error) {
	m, err := l.client.CoreV1().ConfigMaps(mesh.SystemNamespace).Get(ctx, mesh.OverlaysConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return inject.Overlays{}, nil
	}
	if err == nil {
		var overlays inject.Overlays
		if overlays, err = inject.ParseOverlays(m.Data); err == nil {
			return overlays, nil
		}
	}
	return inject.Overlays{}, fmt.Errorf("configmap %s/%s: %w", mesh.SystemNamespace, mesh.OverlaysConfigMap, err)
}

// settings finds the settings of a revision where its injector has them from: the
// ConfigMap that the Deployment mounts.
func (l *live) settings(ctx context.Context, revision string) (inject.Settings, error) {
	fail := func(err error) (inject.Settings, error) {
		return inject.Settings{}, fmt.Errorf("settings of revision %s: %w; --settings takes them from a file", revision, err)
	}
	deployments, err := l.client.AppsV1().Deployments(mesh.SystemNamespace).List(ctx, ours)
	if err != nil {
		return fail(err)
	}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.ConfigMap == nil || !strings.HasPrefix(v.ConfigMap.Name, settingsConfigMap) {
				continue
			}
			m, err := l.client.CoreV1().ConfigMaps(d.Namespace).Get(ctx, v.ConfigMap.Name, metav1.GetOptions{})
			if err != nil {
				return fail(err)
			}
			s, err := parseSettings([]byte(m.Data[settingsKey]))
			if err != nil {
				return fail(fmt.Errorf("configmap %s/%s: %s: %w", d.Namespace, m.Name, settingsKey, err))
			}
			if s.Revision() == revision {
				l.compareVersion(d)
				return s, nil
			}
		}
	}
	return fail(fmt.Errorf("no deployment in %s mounts them", mesh.SystemNamespace))
}

// compareVersion says so where the injector is of another version: it may make other
// sidecars of the same settings.
func (l *live) compareVersion(d *appsv1.Deployment) {
	for _, c := range d.Spec.Template.Spec.Containers {
		_, tag, tagged := strings.Cut(c.Image[strings.LastIndexByte(c.Image, '/')+1:], ":")
		if tagged && !strings.Contains(tag, "@") && tag != l.version {
			fmt.Fprintf(l.notes, "note: this is garrison %s, and deployment %s/%s runs %s: what they make may differ\n", l.version, d.Namespace, d.Name, tag)
		}
	}
}

// get returns an object as the API server has it, with fields that this build does not
// know.
func (l *live) get(ctx context.Context, k kind, namespace, name string) (map[string]any, error) {
	answer := l.api(k).Get().Namespace(namespace).Resource(k.spoken[1]).Name(name).Do(ctx)
	if err := answer.Error(); err != nil { // unlike Raw's, in the API server's words
		return nil, err
	}
	raw, err := answer.Raw()
	if err != nil {
		return nil, err
	}
	return document{body: raw}.object()
}

func (l *live) api(k kind) rest.Interface {
	switch k.groups[0] {
	case "apps":
		return l.client.AppsV1().RESTClient()
	case "batch":
		return l.client.BatchV1().RESTClient()
	}
	return l.client.CoreV1().RESTClient()
}

// pods calls see for each pod of a namespace, "" for all.
func (l *live) pods(ctx context.Context, namespace string, see func(pod json.RawMessage) error) error {
	for next := ""; ; {
		request := l.client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").Param("limit", strconv.Itoa(cmp.Or(l.page, 500)))
		if next != "" {
			request = request.Param("continue", next)
		}
		answer := request.Do(ctx)
		if err := answer.Error(); err != nil {
			return fmt.Errorf("pods: %w", err)
		}
		raw, err := answer.Raw()
		if err != nil {
			return fmt.Errorf("pods: %w", err)
		}
		var list struct {
			Metadata metav1.ListMeta
			Items    []json.RawMessage
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("pods: %w", err)
		}
		for _, pod := range list.Items {
			if err := see(pod); err != nil {
				return err
			}
		}
		if next = list.Metadata.Continue; next == "" {
			return nil
		}
	}
}
