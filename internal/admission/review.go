// Package admission speaks the AdmissionReview protocol of Kubernetes, versions
// admission.k8s.io/v1 and v1beta1: it turns the API server's HTTP requests into
// [Request] values and [Response] values into answers.
//
// It refuses what is no review before anybody decides on it: other methods and
// content types, bodies over a limit, more requests at a time than memory was
// planned for, envelopes that cannot be read. It knows nothing of the objects
// under review, which stay the bytes that the API server sent.
//
// Start reading at [Handler].
package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
)

// Request is what is asked about one object. The parts of the API server's
// request that nothing here decides on, such as the user, are not decoded.
type Request struct {
	UID         types.UID                   `json:"uid"`
	Resource    metav1.GroupVersionResource `json:"resource"`
	SubResource string                      `json:"subResource"`
	Namespace   string                      `json:"namespace"`
	Operation   admissionv1.Operation       `json:"operation"`
	Object      json.RawMessage             `json:"object"` // null or absent on DELETE

	// Path is what follows mesh.InjectPath in the URL that the webhook configuration
	// names: "" or begins with a slash. Whoever reaches the port can write it.
	Path string `json:"-"`
}

// Response is the answer to a request.
type Response struct {
	Allowed  bool
	Message  string            // to the user, where not allowed
	Patch    []byte            // JSON patch; none when empty
	Warnings []string          // to the user, allowed or not
	Audit    map[string]string // annotations of the API server's audit event
}

// review is the part of an AdmissionReview that is read.
type review struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Request    *Request `json:"request"`
}

// Versions of the protocol. What is read and written here has the same form in both.
const (
	v1      = "admission.k8s.io/v1"
	v1beta1 = "admission.k8s.io/v1beta1"
)

// parse reads a review. The error names the field that is wrong. The object is the
// bytes that were sent; whether they are JSON is for whoever reads it to find out.
func parse(body []byte) (r review, err error) {
	envelope, object, apart := split(body)
	if !apart {
		envelope = body
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(envelope, &r); err != nil {
		var mistyped *json.UnmarshalTypeError
		if errors.As(err, &mistyped) && mistyped.Field != "" {
			return review{}, fmt.Errorf("%s: a JSON %s cannot stand here", mistyped.Field, mistyped.Value)
		}
		return review{}, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	switch {
	case r.Kind != "AdmissionReview":
		return review{}, fmt.Errorf("kind: %.64q, want AdmissionReview", r.Kind)
	case r.APIVersion != v1 && r.APIVersion != v1beta1:
		return review{}, fmt.Errorf("apiVersion: %.64q, want %s or %s", r.APIVersion, v1, v1beta1)
	case r.Request == nil:
		return review{}, errors.New("request: missing")
	case r.Request.UID == "":
		return review{}, errors.New("request.uid: missing")
	}
	if apart {
		r.Request.Object = object
	}
	return r, nil
}

// answer returns the response as the API server expects it: in the version that it
// asked in, with the UID that it asked about.
func (r review) answer(says Response) *admissionv1.AdmissionReview {
	out := &admissionv1.AdmissionResponse{
		UID: r.Request.UID, Allowed: says.Allowed, Warnings: says.Warnings, AuditAnnotations: says.Audit,
	}
	if !says.Allowed {
		// 403 is what the API server answers its own client with.
		out.Result = &metav1.Status{Status: metav1.StatusFailure, Message: says.Message, Reason: metav1.StatusReasonForbidden, Code: 403}
	}
	if says.Allowed && len(says.Patch) > 0 {
		out.Patch, out.PatchType = says.Patch, new(admissionv1.PatchTypeJSONPatch)
	}
	return &admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: r.APIVersion, Kind: "AdmissionReview"},
		Response: out,
	}
}
