package inject

import (
	"errors"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Webhook says which pods the API server shows to one revision of the injector. The
// zero value is the default installation; manifests/base/webhook.yaml is its
// rendering with comments, and the place to read what the entries mean.
//
// The namespace's labels decide first, and of two that contradict each other
// istio-injection beats istio.io/rev. At most one entry matches a pod, over all
// configurations of a cluster: of one revision, of its tags, and of other revisions.
type Webhook struct {
	// Revision serves. "" and "default" are the default installation.
	Revision string

	// Tag is another word than the revision's own for istio.io/rev, in a configuration
	// of its own, so that it can be moved to another revision. The tag "default" hands
	// over what the default installation is shown; that one has to be Neutral first.
	Tag string

	// NamespacesByDefault shows pods without labels in namespaces without labels too.
	// Only what serves the default can.
	NamespacesByDefault bool

	// Neutral is the default installation with entries that match nothing. They keep
	// their names, and with them the caBundle that the injector has written, so that
	// applying one rendering over the other switches it off and on.
	Neutral bool
}

const (
	injectorLabel = "injector" // of app, on everything that belongs to the injector
	tagLabel      = "istio.io/tag"
	partOfLabel   = "app.kubernetes.io/part-of"

	// maxRevision keeps the name of a revision's Service within 63 characters.
	maxRevision = validation.DNS1123LabelMaxLength - len(mesh.InjectorService) - len("-")
)

// Configuration renders the object. The error names the flags of the command line
// that contradict each other or are no names.
func (w Webhook) Configuration() (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	w, err := w.checked()
	if err != nil {
		return nil, err
	}
	return w.configuration(), nil
}

// Objects renders all that is to be applied, in this order: the configuration, and
// before it, unless it is the default installation's, the right of the revision's
// injector to write that one object's caBundle, and where it tests the entries.
func (w Webhook) Objects() ([]runtime.Object, error) {
	w, err := w.checked()
	if err != nil {
		return nil, err
	}
	if w.name() == mesh.InjectorWebhook {
		return []runtime.Object{w.configuration()}, nil // the rest is in manifests/base
	}
	meta := metav1.ObjectMeta{Name: "garrison-" + w.name(), Labels: w.labels()}
	role := &rbacv1.ClusterRole{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
		ObjectMeta: meta,
		Rules: []rbacv1.PolicyRule{{
			APIGroups:     []string{admissionregistrationv1.GroupName},
			Resources:     []string{"mutatingwebhookconfigurations"},
			ResourceNames: []string{w.name()},
			Verbs:         []string{"patch"},
		}},
	}
	binding := &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects:   w.subjects(),
	}
	objects := append([]runtime.Object{role, binding}, w.selfTestObjects()...)
	return append(objects, w.configuration()), nil
}

// subjects is the account of the injector that serves.
func (w Webhook) subjects() []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: mesh.ServerAccount(w.Service()), Namespace: mesh.SystemNamespace}}
}

// checked returns the webhook with one spelling of the default revision.
func (w Webhook) checked() (Webhook, error) {
	var errs []error
	for _, flag := range []struct{ name, value string }{{"--revision", w.Revision}, {"--tag", w.Tag}} {
		if flag.value == "" {
			continue
		}
		if wrong := validation.IsDNS1123Label(flag.value); len(wrong) > 0 || len(flag.value) > maxRevision {
			errs = append(errs, fmt.Errorf("%s %.64q: want at most %d small letters, digits and -, with a letter or digit at both ends",
				flag.name, flag.value, maxRevision))
		}
	}
	if w.Revision == mesh.DefaultRevision {
		w.Revision = ""
	}
	switch {
	case w.Tag == "":
	case w.Tag == w.Revision, w.Tag == mesh.DefaultRevision && w.Revision == "":
		errs = append(errs, fmt.Errorf("--tag %s: is the name of the revision itself; both would be called for its pods", w.Tag))
	}
	if w.NamespacesByDefault && !w.isDefault() {
		errs = append(errs, fmt.Errorf("--namespaces-by-default: %q is not the default; give it --tag %s", w.word(), mesh.DefaultRevision))
	}
	if w.Neutral && (w.Revision != "" || w.Tag != "") {
		errs = append(errs, errors.New("--neutral: only the default installation can be, without --revision and --tag; delete the others"))
	}
	return w, errors.Join(errs...)
}

// word is the value of istio.io/rev that asks for this webhook.
func (w Webhook) word() string {
	switch {
	case w.Tag != "":
		return w.Tag
	case w.Revision != "":
		return w.Revision
	}
	return mesh.DefaultRevision
}

func (w Webhook) isDefault() bool { return w.word() == mesh.DefaultRevision }

func (w Webhook) name() string {
	if w.Tag != "" {
		return "istio-revision-tag-" + w.Tag
	}
	return suffixed(mesh.InjectorWebhook, w.Revision)
}

// Service is the name of the Service that the revision is reached by.
func (w Webhook) Service() string {
	if w.Revision == mesh.DefaultRevision {
		return mesh.InjectorService
	}
	return suffixed(mesh.InjectorService, w.Revision)
}

func suffixed(name, revision string) string {
	if revision == "" {
		return name
	}
	return name + "-" + revision
}

func (w Webhook) labels() map[string]string {
	labels := map[string]string{
		"app":               injectorLabel,
		mesh.RevisionLabel:  Webhook{Revision: w.Revision}.word(), // that serves
		mesh.ManagedByLabel: mesh.ManagedBy,
		partOfLabel:         mesh.ManagedBy,
	}
	if w.Tag != "" {
		labels[tagLabel] = w.Tag
	}
	return labels
}

func (w Webhook) configuration() *admissionregistrationv1.MutatingWebhookConfiguration {
	return &admissionregistrationv1.MutatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: w.name(), Labels: w.labels()},
		Webhooks:   w.entries(),
	}
}

// The entries, by what precedes mesh.InjectorWebhookSuffix in their names.
const (
	namespaceEntry    = "namespace."
	objectEntry       = "object."
	revNamespaceEntry = "rev.namespace."
	revObjectEntry    = "rev.object."
	autoEntry         = "auto."
)

func (w Webhook) entries() []admissionregistrationv1.MutatingWebhook {
	system := notIn(corev1.LabelMetadataName, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, mesh.SystemNamespace)
	notOut := notIn(mesh.InjectLabel, "false")
	var all []admissionregistrationv1.MutatingWebhook
	if w.isDefault() {
		all = append(all,
			w.entry(namespaceEntry, requirements{in(mesh.InjectionLabel, "enabled"), system}, requirements{notOut}),
			w.entry(objectEntry, requirements{absent(mesh.InjectionLabel), absent(mesh.RevisionLabel), system},
				requirements{in(mesh.InjectLabel, "true"), absent(mesh.RevisionLabel)}),
		)
	}
	all = append(all,
		w.entry(revNamespaceEntry, requirements{in(mesh.RevisionLabel, w.word()), absent(mesh.InjectionLabel), system}, requirements{notOut}),
		w.entry(revObjectEntry, requirements{absent(mesh.RevisionLabel), absent(mesh.InjectionLabel), system},
			requirements{notOut, in(mesh.RevisionLabel, w.word())}),
	)
	if w.NamespacesByDefault {
		system.Values = append(system.Values, "local-path-storage") // whose pods others need for their volumes
		all = append(all, w.entry(autoEntry, requirements{absent(mesh.InjectionLabel), absent(mesh.RevisionLabel), system},
			requirements{absent(mesh.InjectLabel), absent(mesh.RevisionLabel)}))
	}
	return all
}

// entry is what all entries have in common, around the selectors of one.
func (w Webhook) entry(name string, namespace, object requirements) admissionregistrationv1.MutatingWebhook {
	if w.Neutral {
		namespace = append(requirements{impossible()}, namespace...)
	}
	return admissionregistrationv1.MutatingWebhook{
		Name:              name + mesh.InjectorWebhookSuffix,
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: namespace},
		ObjectSelector:    &metav1.LabelSelector{MatchExpressions: object},
		ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{
			Namespace: mesh.SystemNamespace, Name: w.Service(), Path: new(mesh.InjectPath), Port: new(int32(443)),
		}},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule: admissionregistrationv1.Rule{
				APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: new(admissionregistrationv1.NamespacedScope),
			},
		}},
		// The kubelet's image of a static pod cannot be changed. Without the first half,
		// every pod that has no annotations would be refused.
		MatchConditions: []admissionregistrationv1.MatchCondition{{
			Name:       "not-a-mirror-pod",
			Expression: "!has(object.metadata.annotations) || !('" + corev1.MirrorPodAnnotationKey + "' in object.metadata.annotations)",
		}},
		AdmissionReviewVersions: []string{"v1", "v1beta1"},
		SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
		FailurePolicy:           new(admissionregistrationv1.Fail),
		MatchPolicy:             new(admissionregistrationv1.Equivalent),
		ReinvocationPolicy:      new(admissionregistrationv1.IfNeededReinvocationPolicy),
		TimeoutSeconds:          new(int32(10)),
	}
}

type requirements = []metav1.LabelSelectorRequirement

func in(label string, values ...string) metav1.LabelSelectorRequirement {
	return metav1.LabelSelectorRequirement{Key: label, Operator: metav1.LabelSelectorOpIn, Values: values}
}

func notIn(label string, values ...string) metav1.LabelSelectorRequirement {
	return metav1.LabelSelectorRequirement{Key: label, Operator: metav1.LabelSelectorOpNotIn, Values: values}
}

func absent(label string) metav1.LabelSelectorRequirement {
	return metav1.LabelSelectorRequirement{Key: label, Operator: metav1.LabelSelectorOpDoesNotExist}
}

// impossible is what no namespace meets: the API server gives each this label, and
// again when somebody takes it away.
func impossible() metav1.LabelSelectorRequirement { return absent(corev1.LabelMetadataName) }
