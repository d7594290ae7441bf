package inject

import "fmt"

// Reason says in one word why a pod was injected, left alone or refused: for
// metrics, audit annotations and logs. There are few, and they are stable.
type Reason string

// Why a pod is injected or left alone.
const (
	Selected         Reason = "selected"          // by the webhook's selectors, and nothing spoke against it
	LabelTrue        Reason = "label-true"        // sidecar.istio.io/inject on the pod
	LabelFalse       Reason = "label-false"       //
	AnnotationTrue   Reason = "annotation-true"   // the deprecated spelling
	AnnotationFalse  Reason = "annotation-false"  //
	HostNetwork      Reason = "host-network"      // capture would change the node
	IgnoredNamespace Reason = "ignored-namespace" // of the system
	MirrorPod        Reason = "mirror-pod"        // it runs already; the API server only shows it
	Windows          Reason = "windows"           // its containers know no sidecar of ours
	NeverSelected    Reason = "never-selected"    // by a neverInject selector of the settings
	AlwaysSelected   Reason = "always-selected"   // by an alwaysInject selector
	PolicyDisabled   Reason = "policy-disabled"   // nothing asked for it, and the settings want to be asked
	AlreadyInjected  Reason = "already-injected"  // with the sidecar of today
	Reinjected       Reason = "reinjected"        // carried a sidecar that was made otherwise, or gained probes since
	NotPodCreation   Reason = "not-a-pod-creation"
)

// Why a pod is refused.
const (
	Malformed     Reason = "malformed-pod"
	BadAnnotation Reason = "bad-annotation"
	ReservedName  Reason = "reserved-name"
	ProxyUser     Reason = "proxy-user"
	NotGranted    Reason = "not-granted"    // by the operator's trust rules
	StrictCapture Reason = "strict-capture" // the namespace lets nothing out of the capture
	FalseStatus   Reason = "false-status"   // a record of injection that the containers do not bear out
	NoNamespace   Reason = "no-namespace"   // what the namespace says could not be read
	Overload      Reason = "overload"
)

// Refusal says what is wrong with a pod and where.
type Refusal struct {
	Reason  Reason
	Field   string // path, as Kubernetes writes them
	Problem string // what is there, and what may be
}

// Error returns the field and the problem.
func (r *Refusal) Error() string { return r.Field + ": " + r.Problem }

// maxQuoted bounds how much of a stranger's value a message repeats.
const maxQuoted = 64

func annotationRefusal(name, value, problem string) *Refusal {
	return &Refusal{Reason: BadAnnotation, Field: "metadata.annotations[" + name + "]", Problem: quote(value) + " is " + problem}
}

// maxName is the longest name that Kubernetes gives a pod.
const maxName = 253

// cut bounds what is repeated of a name, or of a parser's words, that nobody has
// checked yet.
func cut(text string) string { return text[:min(len(text), maxName)] }

func quote(value string) string {
	if len(value) > maxQuoted {
		return fmt.Sprintf("%q… (%d bytes)", value[:maxQuoted], len(value))
	}
	return fmt.Sprintf("%q", value)
}
