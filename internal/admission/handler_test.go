package admission

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
)

const good = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-1","namespace":"shop",
"resource":{"group":"","version":"v1","resource":"pods"},"operation":"CREATE","userInfo":{"username":"x"},"object":{"a":1.50,"a ":null}}}`

func post(h http.Handler, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/inject?timeout=10s", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func answer(t *testing.T, w *httptest.ResponseRecorder) *admissionv1.AdmissionResponse {
	t.Helper()
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if review.Kind != "AdmissionReview" || review.APIVersion != "admission.k8s.io/v1" {
		t.Errorf("answer is a %s of %s", review.Kind, review.APIVersion)
	}
	return review.Response
}

func TestHandlerAnswers(t *testing.T) {
	jsonPatch := admissionv1.PatchTypeJSONPatch
	cases := map[string]struct {
		says Response
		want admissionv1.AdmissionResponse
	}{
		"allowed": {Response{Allowed: true}, admissionv1.AdmissionResponse{UID: "u-1", Allowed: true}},
		"patched": {
			Response{Allowed: true, Patch: []byte(`[{"op":"remove","path":"/a"}]`), Warnings: []string{"w"}, Audit: map[string]string{"reason": "r"}},
			admissionv1.AdmissionResponse{UID: "u-1", Allowed: true, Patch: []byte(`[{"op":"remove","path":"/a"}]`), PatchType: &jsonPatch,
				Warnings: []string{"w"}, AuditAnnotations: map[string]string{"reason": "r"}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got *Request
			w := post(Handler(func(_ context.Context, r *Request) Response { got = r; return c.says }, Limits{}), good)
			if diff := cmp.Diff(&c.want, answer(t, w)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if got.Namespace != "shop" || got.Operation != admissionv1.Create || got.Resource.Resource != "pods" {
				t.Errorf("request %+v", got)
			}
			if string(got.Object) != `{"a":1.50,"a ":null}` {
				t.Errorf("object %s is not the bytes that were sent", got.Object)
			}
		})
	}
}

func TestHandlerDenies(t *testing.T) {
	got := answer(t, post(Handler(func(context.Context, *Request) Response {
		return Response{Message: "spec.x: wrong", Patch: []byte("[]")}
	}, Limits{}), good))
	if got.Allowed || got.Result.Message != "spec.x: wrong" || got.Result.Code != 403 || got.Result.Status != "Failure" {
		t.Errorf("%+v %+v", got, got.Result)
	}
	if got.Patch != nil || got.PatchType != nil {
		t.Error("a denial carries a patch, which the API server takes for a broken webhook")
	}
}

func TestHandlerRefuses(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	header := func(kind string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Content-Type", kind) }
	}
	query := func(q string) func(*http.Request) { return func(r *http.Request) { r.URL.RawQuery = q } }
	unannounced := func(r *http.Request) { r.ContentLength = -1 }
	cases := map[string]struct {
		body   string
		change func(*http.Request)
		code   int
		names  string
	}{
		"method":               {good, func(r *http.Request) { r.Method = http.MethodGet }, 405, "POST"},
		"no content type":      {good, header(""), 415, "application/json"},
		"content type":         {good, header("application/yaml"), 415, "application/yaml"},
		"charset is fine":      {good, header("application/json; charset=utf-8"), 200, ""},
		"timeout":              {good, query("timeout=soon"), 400, "timeout"},
		"timeout passed":       {good, query("timeout=-1s"), 400, "timeout"},
		"no timeout is fine":   {good, query(""), 200, ""},
		"empty":                {"", nil, 400, "body: empty"},
		"large":                {good + strings.Repeat(" ", 4096), nil, 413, "4096"},
		"large, unannounced":   {good + strings.Repeat(" ", 4096), unannounced, 413, "4096"},
		"no JSON":              {"pods", nil, 400, "AdmissionReview"},
		"ends early":           {good[:len(good)-1], nil, 400, "AdmissionReview: unexpected end"},
		"two":                  {good + good, nil, 400, "AdmissionReview: invalid character"},
		"kind":                 {replace(`"AdmissionReview"`, `"Pod"`), nil, 400, "kind"},
		"kind in other case":   {replace(`"kind"`, `"Kind"`), nil, 400, "kind"},
		"version":              {replace("io/v1", "io/v1beta1"), nil, 400, "apiVersion"},
		"no request":           {replace(`"request"`, `"requests"`), nil, 400, "request"},
		"no uid":               {replace(`"u-1"`, `""`), nil, 400, "request.uid"},
		"mistyped uid":         {replace(`"u-1"`, `7`), nil, 400, "request.uid"},
		"mistyped namespace":   {replace(`"shop"`, `["shop"]`), nil, 400, "request.namespace"},
		"deep":                 {strings.Repeat(`[`, 4000), nil, 400, "AdmissionReview"},
		"an array":             {`[]`, nil, 400, "AdmissionReview"},
		"object may be absent": {replace(`"object"`, `"oldObject"`), nil, 200, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := Handler(func(context.Context, *Request) Response { return Response{Allowed: true} }, Limits{Body: 4096})
			var changes []func(*http.Request)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			w := post(h, c.body, changes...)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.names) {
				t.Errorf("%d %s; want %d and the words %q", w.Code, w.Body, c.code, c.names)
			}
		})
	}
}

func TestTimeoutIsTheContextsDeadline(t *testing.T) {
	for query, want := range map[string]time.Duration{"timeout=2s": 2 * time.Second, "": 10 * time.Second, "timeout=1h": 10 * time.Second} {
		h := Handler(func(ctx context.Context, _ *Request) Response {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left > want || left < want-time.Second {
				t.Errorf("query %q leaves %v, want %v", query, left, want)
			}
			return Response{Allowed: true}
		}, Limits{})
		post(h, good, func(r *http.Request) { r.URL.RawQuery = query })
	}
}

func TestMoreReviewsThanSlotsWaitTheirTime(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	h := Handler(func(context.Context, *Request) Response {
		entered <- true
		<-leave
		return Response{Allowed: true}
	}, Limits{Concurrent: 1})
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- post(h, good) }()
	<-entered
	late := post(h, good, func(r *http.Request) { r.URL.RawQuery = "timeout=10ms" })
	if late.Code != http.StatusServiceUnavailable || !strings.Contains(late.Body.String(), "busy: 1 reviews") {
		t.Errorf("%d %s", late.Code, late.Body)
	}
	second := make(chan *httptest.ResponseRecorder)
	go func() { second <- post(h, good) }()
	leave <- true
	<-entered // only now: the first has made room
	leave <- true
	if a, b := (<-first).Code, (<-second).Code; a != 200 || b != 200 {
		t.Errorf("%d %d", a, b)
	}
}

func TestFewAreDecidedOnAtATime(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	srv := httptest.NewServer(Handler(func(context.Context, *Request) Response {
		entered <- true
		<-leave
		return Response{Allowed: true}
	}, Limits{Concurrent: 2, Deciding: 1}))
	defer srv.Close()
	ask := func(query string) chan int {
		code := make(chan int, 1)
		go func() {
			r, err := http.Post(srv.URL+query, "application/json", strings.NewReader(good))
			if err != nil {
				t.Error(err)
				code <- 0
				return
			}
			code <- r.StatusCode
			_ = r.Body.Close()
		}()
		return code
	}
	first := ask("")
	<-entered
	if got := <-ask("?timeout=100ms"); got != http.StatusServiceUnavailable {
		t.Errorf("beside the first: %d", got)
	}
	second := ask("")
	leave <- true
	<-entered // only now
	leave <- true
	if a, b := <-first, <-second; a != 200 || b != 200 {
		t.Errorf("%d %d", a, b)
	}
}

// A client that goes away in the middle of its body is told so over a real
// connection: recorders do not cut bodies.
func TestBodyThatEndsEarly(t *testing.T) {
	srv := httptest.NewServer(Handler(func(context.Context, *Request) Response {
		t.Error("admitted half a body")
		return Response{}
	}, Limits{}))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
	if err := errors.Join(err, conn.(*net.TCPConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil || r.StatusCode != 400 || string(text) != "body: ends early\n" {
		t.Errorf("%d %s %v", r.StatusCode, text, err)
	}
}

// FuzzHandler: whatever is sent, there is an answer of a kind that the API server
// understands.
func FuzzHandler(f *testing.F) {
	f.Add(good)
	f.Add(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"\ud800"}}`)
	f.Add(`{"request":null}`)
	h := Handler(func(context.Context, *Request) Response { return Response{Allowed: true} }, Limits{})
	f.Fuzz(func(t *testing.T, body string) {
		w := post(h, body)
		switch w.Code {
		case 200:
			if uid := answer(t, w).UID; uid == "" {
				t.Errorf("no UID in the answer to %q", body)
			}
		case 400, 413:
			if strings.TrimSpace(w.Body.String()) == "" {
				t.Errorf("no reason in the answer to %q", body)
			}
		default:
			t.Errorf("%d for %q", w.Code, body)
		}
	})
}
