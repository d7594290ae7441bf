package admission

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	kjson "sigs.k8s.io/json"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct{ body, envelope, object string }{
		{`{"request":{"uid":"u","object":{"a":[1,"]}\\\""]},"dryRun":false}}`, `{"request":{"uid":"u","object":null,"dryRun":false}}`, `{"a":[1,"]}\\\""]}`},
		{" {\n\"kind\" : \"K\" , \"request\" : { \"object\" : 12 } , \"x\":[] }\n", " {\n\"kind\" : \"K\" , \"request\" : { \"object\" : null } , \"x\":[] }\n", "12"},
		{`{"request":{"object":null,"oldObject":{"object":1}}}`, `{"request":{"object":null,"oldObject":{"object":1}}}`, "null"},
		{`{"request":{"object":""}}`, `{"request":{"object":null}}`, `""`},
	} {
		envelope, object, ok := split([]byte(c.body))
		if !ok || string(envelope) != c.envelope || string(object) != c.object {
			t.Errorf("%s:\n%s, %s, %t\nwant %s, %s", c.body, envelope, object, ok, c.envelope, c.object)
		}
	}
	for _, body := range []string{
		"", "{", "[]", "null", `"request"`, `{}`, `{"request":{}}`, `{"request":[{"object":1}]}`, `{"object":1}`,
		`{"request":{"object":1},"request":{"object":2}}`, `{"request":{"object":1,"object":2}}`, `{"request":{"object":1,"obj\u0065ct":2}}`,
		`{"request":{"object":1`, `{"request":{"object":1}`, `{"request":{"object":{"a":"}}`, `{"request":{"object":}}`, `{"request" {"object":1}}`,
		`{"request":{"object":1};"a":2}`, `{"request":{"object":]}}`, `{request:{"object":1}}`, `{"request":{"object":"\"}}`,
	} {
		if envelope, object, ok := split([]byte(body)); ok {
			t.Errorf("%s: split into %s and %s", body, envelope, object)
		}
	}
}

// FuzzSplit holds that reading a review in two parts is reading it whole: the same
// request comes of it, and what is no JSON is refused by one of the two readers.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","resource":{"resource":"pods"},"object":{"metadata":{}},"dryRun":true}}`,
		`{"request":{"object":"\\\"","uid":"a"}} `, `{"request":{"object":[1,-2e3,true,{"a":"b"}]}}`, `{"request":{"object":1,"object":2}}`, `{"request":{"object":[}]}}`,
		`{"request":{"object":{}x}}`, `{"request":{"object":"a` + "\n" + `"}}`, `{"request":{"object":nul}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		envelope, object, ok := split([]byte(body))
		if !ok {
			return
		}
		if valid := json.Valid(envelope) && json.Valid(object); valid != json.Valid([]byte(body)) {
			t.Fatalf("valid in parts %t: %s and %s", valid, envelope, object)
		}
		if !json.Valid([]byte(body)) {
			return
		}
		var whole, parts review
		wantErr := kjson.UnmarshalCaseSensitivePreserveInts([]byte(body), &whole)
		err := kjson.UnmarshalCaseSensitivePreserveInts(envelope, &parts)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		parts.Request.Object = object
		if diff := cmp.Diff(whole, parts); diff != "" {
			t.Error(diff)
		}
	})
}
