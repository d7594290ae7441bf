package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// What becomes of a pod.
const (
	injected  = "injected"
	leftOut   = "left-out"
	refused   = "refused"
	undecided = "undecided" // by this program, which cannot evaluate a condition
)

// Reasons of this program's, beside those of package inject.
const (
	notSelected     inject.Reason = "not-selected"     // by any webhook entry
	conditionFailed inject.Reason = "condition-failed" // so the API server refuses the pod
	conditionOpen   inject.Reason = "condition-open"   // it cannot be evaluated here
)

// entry is a webhook entry and whether the API server calls it for the pod.
type entry struct {
	Configuration string `json:"configuration"`
	Revision      string `json:"revision"` // that serves it
	Name          string `json:"name"`
	Called        bool   `json:"called"`
	Why           string `json:"why,omitempty"` // not
	path          string
}

// judgement is what the API server and the injector make of a pod when it is created.
type judgement struct {
	outcome string
	reason  inject.Reason
	why     string
	entries []entry
	called  *entry // the one that decides
	advice  string // what to do about it
	err     error  // why it is refused

	inject.Explanation // of the injector, where it is called
	warnings           []string
	at                 inject.Situation
	settings           inject.Settings
}

// judge decides about a pod, given as JSON, as it is decided when it is created in a
// namespace. An error says what is missing to decide.
func (i *installation) judge(ctx context.Context, ns mesh.Namespace, pod []byte) (judgement, error) {
	var meta metav1.PartialObjectMetadata
	j := judgement{entries: []entry{}}
	if err := json.Unmarshal(pod, &meta); err != nil { // no API server takes it, whoever is called
		if _, told := inject.ParsePod(pod); told != nil {
			err = told
		}
		j.refuse(err)
		return j, nil
	}
	if err := i.selectEntries(&j, ns, meta.Labels, pod); err != nil {
		return j, err
	}
	switch {
	case j.outcome != "":
	case j.called == nil:
		var why string
		why, j.advice = i.unselected(ns, meta.Labels)
		j.outcome, j.reason, j.why = leftOut, notSelected, strings.TrimSuffix("no webhook entry selects it: "+why, ": ")
	default:
		if err := i.explain(ctx, &j, ns, pod); err != nil {
			return j, err
		}
	}
	if j.outcome == leftOut || j.outcome == injected {
		j.strict(ns, meta)
	}
	return j, nil
}

// selectEntries asks every entry of every configuration whether it is called. Of
// several that are, the first decides: the others find its sidecar.
func (i *installation) selectEntries(j *judgement, ns mesh.Namespace, labels map[string]string, pod []byte) error {
	creation, err := newPodCreation(ns.Name, pod)
	if err != nil {
		return err
	}
	var open []entry
	for _, config := range i.webhooks {
		for n, s := range inject.Select(config, ns, labels, creation.holds) {
			e := entry{Configuration: config.Name, Revision: revisionOf(config), Name: s.Entry, Called: s.Called, Why: s.Why}
			policy := config.Webhooks[n].FailurePolicy
			switch {
			case s.Err == nil:
			case errors.Is(s.Err, errNotHere):
				e.Why = s.Err.Error()
				open = append(open, e)
			case policy != nil && *policy == admissionregistrationv1.Ignore:
				e.Why = s.Err.Error() + ", so it is not called (failurePolicy Ignore)"
			default:
				e.Why = s.Err.Error()
				j.outcome, j.reason = refused, conditionFailed
				j.why, j.err = "a condition of webhook entry "+e.Name+" fails, and its failurePolicy refuses the pod then", s.Err
			}
			if e.path, err = pathOf(config.Webhooks[n].ClientConfig); e.Called && err != nil {
				return fmt.Errorf("webhook entry %s of %s: %w", e.Name, config.Name, err)
			}
			j.entries = append(j.entries, e)
		}
	}
	if n := slices.IndexFunc(j.entries, func(e entry) bool { return e.Called }); n >= 0 {
		j.called = &j.entries[n]
	} else if len(open) > 0 && j.outcome == "" {
		j.outcome, j.reason = undecided, conditionOpen
		j.why = "webhook entry " + open[0].Name + ": " + open[0].Why
	}
	return nil
}

// pathOf returns what an entry adds to the injector's path.
func pathOf(c admissionregistrationv1.WebhookClientConfig) (string, error) {
	path := mesh.InjectPath
	switch {
	case c.Service != nil && c.Service.Path != nil:
		path = *c.Service.Path
	case c.URL != nil:
		u, err := url.Parse(*c.URL)
		if err != nil {
			return "", err
		}
		path = u.Path
	}
	return strings.TrimPrefix(path, mesh.InjectPath), nil
}

// explain has the injector decide that is called.
func (i *installation) explain(ctx context.Context, j *judgement, ns mesh.Namespace, raw []byte) error {
	var err error
	if j.settings, err = i.settingsOf(ctx, j.called.Revision); err != nil {
		return err
	}
	j.at = inject.Situation{Namespace: ns, Older: i.older}
	pod, err := inject.ParsePod(raw)
	if err == nil {
		if j.at.Variables, err = inject.PathVariables(j.called.path); err != nil {
			err = &inject.Refusal{Reason: inject.Malformed, Field: "path of the webhook", Problem: err.Error()}
		}
	}
	if err == nil {
		j.Explanation = inject.Explain(pod, j.at, j.settings)
		err = j.Refused
	}
	if err != nil {
		j.refuse(err)
		return nil
	}
	j.warnings = slices.Concat(j.Decision.Warnings, inject.Ignored(pod), j.Injection.Warnings)
	j.outcome, j.reason, j.why = leftOut, j.Decision.Reason, j.Decision.Why
	if j.Decision.Inject {
		j.outcome = injected
	}
	return nil
}

func (j *judgement) refuse(err error) {
	j.outcome, j.reason, j.err, j.why = refused, inject.Malformed, err, err.Error()
	if refusal, ok := errors.AsType[*inject.Refusal](err); ok {
		j.reason = refusal.Reason
	}
}

// strict is the admission policy garrison-capture-strict: it refuses what comes without
// the sidecar into a namespace that wants it of everyone, or by a revision that only the
// pod names. The injector says the former itself where it is called.
func (j *judgement) strict(ns mesh.Namespace, pod metav1.PartialObjectMetadata) {
	if ns.Labels[mesh.CaptureLabel] != mesh.CaptureStrict {
		return
	}
	switch ns.Name {
	case metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, mesh.SystemNamespace:
		return
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return
	}
	if j.outcome == injected {
		revision, own := pod.Labels[mesh.RevisionLabel]
		if _, said := ns.Labels[mesh.InjectionLabel]; said || ns.Labels[mesh.RevisionLabel] != "" || !own {
			return
		}
		j.refuse(&inject.Refusal{Reason: inject.StrictCapture, Field: "metadata.labels[" + mesh.RevisionLabel + "]", Problem: fmt.Sprintf(
			"namespace %s is labelled %s=%s, so it has to say itself which revision its pods get; kubectl label namespace %[1]s %[4]s=%[5]s",
			ns.Name, mesh.CaptureLabel, mesh.CaptureStrict, mesh.RevisionLabel, revision)})
		return
	}
	j.refuse(&inject.Refusal{Reason: inject.StrictCapture, Field: "metadata.namespace", Problem: fmt.Sprintf(
		"namespace %s is labelled %s=%s, so every pod in it needs the sidecar, and this one does not get it: %s",
		ns.Name, mesh.CaptureLabel, mesh.CaptureStrict, j.why)})
}

// unselected says why no entry selects a pod, and how it comes to be selected.
func (i *installation) unselected(ns mesh.Namespace, pod map[string]string) (why, advice string) {
	if len(i.webhooks) == 0 {
		return "the cluster has no webhook of Garrison's", "install Garrison"
	}
	enabled, said := ns.Labels[mesh.InjectionLabel]
	revision, where := ns.Labels[mesh.RevisionLabel], "namespace "+ns.Name
	if revision == "" {
		revision, where = pod[mesh.RevisionLabel], "the pod"
	}
	switch ns.Name {
	case metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, mesh.SystemNamespace:
		return "namespace " + ns.Name + " belongs to the system", ""
	}
	switch words := i.words(); {
	case pod[mesh.InjectLabel] == "false":
		return "pod label " + mesh.InjectLabel + " is false", "if it is to have the sidecar, take that label off"
	case said && enabled != "enabled":
		return fmt.Sprintf("namespace %s is labelled %s=%s", ns.Name, mesh.InjectionLabel, enabled),
			fmt.Sprintf("kubectl label --overwrite namespace %s %s=enabled", ns.Name, mesh.InjectionLabel)
	case said && !slices.Contains(words, mesh.DefaultRevision):
		return fmt.Sprintf("namespace %s is labelled %s=enabled, and no revision is the default", ns.Name, mesh.InjectionLabel),
			fmt.Sprintf("label it %s instead, with one that is there: %s", mesh.RevisionLabel, strings.Join(words, ", "))
	case !said && revision != "" && !slices.Contains(words, revision):
		return fmt.Sprintf("%s is labelled %s=%s, and no revision or tag has that name", where, mesh.RevisionLabel, revision),
			"install it, or take one that is there: " + strings.Join(words, ", ")
	case !said:
		return fmt.Sprintf("namespace %s has neither label %s nor %s", ns.Name, mesh.InjectionLabel, mesh.RevisionLabel),
			fmt.Sprintf("kubectl label namespace %s %s=enabled", ns.Name, mesh.InjectionLabel)
	}
	return "", ""
}
