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
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
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
	if review.Kind != "AdmissionReview" || review.APIVersion != v1 && review.APIVersion != v1beta1 {
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
			w := post(Handler(func(_ context.Context, r *Request) Response { got = r; return c.says }, Config{}), good)
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
	}, Config{}), good))
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
	slow := func(r *http.Request) { r.Body = io.NopCloser(iotest.ErrReader(os.ErrDeadlineExceeded)) }
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
		"the older version":    {replace("io/v1", "io/v1beta1"), nil, 200, "io/v1beta1"},
		"version":              {replace("io/v1", "io/v2"), nil, 400, "apiVersion"},
		"version of another":   {replace("admission.k8s.io/v1", "v1"), nil, 400, "apiVersion"},
		"slow":                 {good, slow, 408, "body: not all there after 5s"},
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
			var codes []int
			h := Handler(func(context.Context, *Request) Response { return Response{Allowed: true} },
				Config{Limits: Limits{Body: 4096}, Refused: func(code int) { codes = append(codes, code) }})
			var changes []func(*http.Request)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			w := post(h, c.body, changes...)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.names) {
				t.Errorf("%d %s; want %d and the words %q", w.Code, w.Body, c.code, c.names)
			}
			if want := slices.DeleteFunc([]int{c.code}, func(code int) bool { return code == 200 }); !slices.Equal(codes, want) {
				t.Errorf("counted as refused %v, want %v", codes, want)
			}
		})
	}
}

// What the webhook configuration adds to the path reaches admit as it was written.
func TestPathReachesAdmit(t *testing.T) {
	for path, want := range map[string]string{
		"/inject":                  "",
		"/inject/":                 "/",
		"/inject/cluster/c1/net/n": "/cluster/c1/net/n",
		"/inject/a%20b/c":          "/a b/c",
	} {
		var got string
		h := Handler(func(_ context.Context, r *Request) Response { got = r.Path; return Response{Allowed: true} }, Config{})
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(strings.Replace(good, `"uid"`, `"Path":"x","path":"y","uid"`, 1)))
		r.Header.Set("Content-Type", "application/json")
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != want {
			t.Errorf("%s: path %q, want %q", path, got, want)
		}
	}
}

// Times are what was spent in a phase, told once for each that was entered.
func TestPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		spent := map[string][]time.Duration{}
		h := Handler(func(context.Context, *Request) Response {
			time.Sleep(3 * time.Second)
			return Response{Allowed: true}
		}, Config{
			Limits: Limits{Concurrent: 2, Deciding: 1},
			Observe: func(phase string, took time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				spent[phase] = append(spent[phase], took)
			},
		})
		slowly := func(r *http.Request) {
			body := r.Body
			r.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
				time.Sleep(time.Second)
				return body.Read(p)
			}))
		}
		var wg sync.WaitGroup
		expect := func(code int, change ...func(*http.Request)) {
			wg.Go(func() {
				if w := post(h, good, change...); w.Code != code {
					t.Errorf("%d %s, want %d", w.Code, w.Body, code)
				}
			})
			synctest.Wait()
		}
		expect(200, slowly) // reads until 2 s (data, then the end), decides until 5 s
		time.Sleep(2 * time.Second)
		expect(200)                                                          // waits for its turn until 5 s, decides until 8 s
		expect(503, func(r *http.Request) { r.URL.RawQuery = "timeout=1s" }) // finds no room until 3 s
		expect(200)                                                          // finds room at 5 s and has its turn at 8 s
		expect(405, func(r *http.Request) { r.Method = http.MethodGet })     // enters no phase
		wg.Wait()
		for _, times := range spent {
			slices.Sort(times)
		}
		want := map[string][]time.Duration{
			"waiting":  {0, time.Second, 3 * time.Second, 6 * time.Second},
			"reading":  {0, 0, 2 * time.Second},
			"decoding": {0, 0, 0},
			"deciding": {3 * time.Second, 3 * time.Second, 3 * time.Second},
			"encoding": {0, 0, 0},
		}
		if diff := cmp.Diff(want, spent); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestTimeoutIsTheContextsDeadline(t *testing.T) {
	for query, want := range map[string]time.Duration{"timeout=2s": 2 * time.Second, "": 10 * time.Second, "timeout=1h": 10 * time.Second} {
		asked := time.Now()
		h := Handler(func(ctx context.Context, _ *Request) Response {
			deadline, ok := ctx.Deadline()
			if !ok || deadline.Before(asked.Add(want)) || deadline.After(time.Now().Add(want)) {
				t.Errorf("query %q leaves %v, want %v", query, time.Until(deadline), want)
			}
			return Response{Allowed: true}
		}, Config{})
		post(h, good, func(r *http.Request) { r.URL.RawQuery = query })
	}
}

func TestMoreReviewsThanSlotsWaitTheirTime(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	h := Handler(func(context.Context, *Request) Response {
		entered <- true
		<-leave
		return Response{Allowed: true}
	}, Config{Limits: Limits{Concurrent: 1}})
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
	}, Config{Limits: Limits{Concurrent: 2, Deciding: 1}}))
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
	}, Config{}))
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

// The answer has the version that was asked in: an API server takes no other.
func TestAnswerHasTheVersionAskedIn(t *testing.T) {
	h := Handler(func(context.Context, *Request) Response { return Response{Allowed: true, Patch: []byte("[]")} }, Config{})
	answers := map[string]string{}
	for _, version := range []string{v1, v1beta1} {
		answers[version] = post(h, strings.Replace(good, v1, version, 1)).Body.String()
	}
	if want := strings.Replace(answers[v1], `"`+v1+`"`, `"`+v1beta1+`"`, 1); want == answers[v1] || answers[v1beta1] != want {
		t.Errorf("asked in %s: %s\nasked in %s: %s", v1, answers[v1], v1beta1, answers[v1beta1])
	}
}

// FuzzHandler: whatever is sent, there is an answer of a kind that the API server
// understands, in the version that it asked in.
func FuzzHandler(f *testing.F) {
	f.Add(good)
	f.Add(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"\ud800"}}`)
	f.Add(strings.Replace(good, v1, v1beta1, 1))
	f.Add(`{"request":null}`)
	h := Handler(func(context.Context, *Request) Response { return Response{Allowed: true} }, Config{})
	f.Fuzz(func(t *testing.T, body string) {
		w := post(h, body)
		switch w.Code {
		case 200:
			if uid := answer(t, w).UID; uid == "" {
				t.Errorf("no UID in the answer to %q", body)
			}
			if asked, err := parse([]byte(body)); err != nil || !strings.Contains(w.Body.String(), `"`+asked.APIVersion+`"`) {
				t.Errorf("%s to %q, %v", w.Body, body, err)
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
