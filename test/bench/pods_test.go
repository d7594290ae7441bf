package main

import (
	"bytes"
	"encoding/json"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
)

// The figures of other injectors were measured with pods of these sizes.
func TestReviewsHaveTheMeasuredSizes(t *testing.T) {
	want := map[string]float64{"simple": 1700, "large": 19000, "init": 2500}
	all, err := reviews()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if got := float64(len(r.pod)); got < 0.9*want[r.name] || got > 1.1*want[r.name] {
			t.Errorf("pod %s: %.0f bytes, want %.0f ± 10 %%", r.name, got, want[r.name])
		}
	}
}

func TestReviewBodyIsAReviewOfItsOwn(t *testing.T) {
	all, err := reviews()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		var buf bytes.Buffer
		uid := r.body(&buf, 7, 4711)
		if other := r.body(&buf, 7, 4712); other == uid {
			t.Errorf("%s: two requests with uid %s", r.name, uid)
		}
		r.body(&buf, 7, 4711)
		var got admissionv1.AdmissionReview
		if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if string(got.Request.UID) != uid || len(uid) != len(uidHole) {
			t.Errorf("%s: uid %q, want %q", r.name, got.Request.UID, uid)
		}
		var pod corev1.Pod
		if err := json.Unmarshal(got.Request.Object.Raw, &pod); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		if !json.Valid(pod.ManagedFields[0].FieldsV1.GetRawBytes()) {
			t.Errorf("%s: managed fields are no JSON: %s", r.name, pod.ManagedFields[0].FieldsV1.GetRawBytes())
		}
	}
}
