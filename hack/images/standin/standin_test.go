package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// step is one request and what must come back.
type step struct {
	method, path, body string
	status             int
	want               string // part of the answer
}

func play(t *testing.T, base string, steps ...step) {
	t.Helper()
	for _, s := range steps {
		r, err := http.NewRequestWithContext(t.Context(), s.method, base+s.path, strings.NewReader(s.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != s.status || !strings.Contains(string(body), s.want) {
			t.Errorf("%s %s: %d %s, want %d …%s…", s.method, s.path, resp.StatusCode, body, s.status, s.want)
		}
	}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// The story of the first tutorial: initialise, add a document, read it through
// the application.
func TestAnimals(t *testing.T) {
	couch := serve(t, newCouch())
	a := &animals{couch: couch, client: client()}
	if err := a.createDatabase(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.createDatabase(t.Context()); err != nil {
		t.Errorf("a second time: %v", err)
	}
	play(t, couch,
		step{"GET", "/", "", 200, `"version":"2.3.0"`},
		step{"GET", "/_up", "", 200, `{"status":"ok"}`},
		step{"POST", "/_cluster_setup", `{"action":"finish_cluster"}`, 201, `{"ok":true}`},
		step{"POST", "/animals", `{"hello":"world","_id":"test"}`, 201, `"id":"test"`},
		step{"PUT", "/animals/test", `{"hello":"again"}`, 409, `"conflict"`},
		step{"POST", "/animals", `not json`, 400, `"bad_request"`},
		step{"GET", "/animals", "", 200, `"doc_count":1`},
		step{"GET", "/plants/rose", "", 404, "Database does not exist."},
		step{"GET", "/_all_dbs", "", 200, `["animals"]`},
	)
	app := serve(t, a)
	play(t, app,
		step{"GET", "/_ready", "", 200, `"status":"ok"`},
		step{"GET", "/api/v1/animals/test", "", 200, `"hello":"world"`},
		step{"GET", "/api/v1/animals/none", "", 200, `{"message":"Not found","statusCode":404}`},
	)
	play(t, couch, step{"DELETE", "/animals", "", 200, `{"ok":true}`})

	refusing := serve(t, http.NotFoundHandler())
	if err := (&animals{couch: refusing, client: client()}).createDatabase(t.Context()); err == nil {
		t.Error("a refused database is no error")
	}
	down := serve(t, &animals{couch: "http://127.0.0.1:1", client: client()})
	play(t, down, step{"GET", "/api/v1/animals/test", "", 200, `{"message":"Something went wrong.","statusCode":500}`})
}

func TestGreeting(t *testing.T) {
	greeting := serve(t, greeter())
	play(t, greeting,
		step{"GET", "/hello", "", 200, `{"message":"hello 👋 ","version":"1.0.0"}`},
		step{"GET", "/version", "", 200, `{"version":"1.0.0"}`},
	)
	play(t, serve(t, helloWeb(greeting, client())), step{"GET", "/", "", 200, "hello 👋"})
	play(t, serve(t, helloWeb("http://127.0.0.1:1", client())), step{"GET", "/", "", 502, "the greeter did not answer"})
}

func TestEveryApplicationIsSigned(t *testing.T) {
	all, err := apps(func(string) string { return "" }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range all {
		for _, p := range a.ports {
			w := httptest.NewRecorder()
			signed(p.handler).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/nowhere/at/all", nil))
			if w.Header().Get("X-Stand-In") == "" {
				t.Errorf("%s: does not say that it is a stand-in", name)
			}
		}
	}
}
