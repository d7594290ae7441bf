package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
)

// animals is the demo application in front of CouchDB. Like the original it
// answers 200 over HTTP and says in the body what went wrong.
type animals struct {
	couch  string
	client *http.Client
}

func (a *animals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, document{"statusCode": 200, "status": "ok"})
	}
	mux.HandleFunc("GET /_up", ok)
	mux.HandleFunc("GET /_ready", ok)
	mux.HandleFunc("GET /api/v1/animals/{name}", a.animal)
	mux.ServeHTTP(w, r)
}

func (a *animals) animal(w http.ResponseWriter, r *http.Request) {
	status, body, err := fetch(r.Context(), a.client, a.couch+"/animals/"+url.PathEscape(r.PathValue("name")))
	switch {
	case err == nil && status == http.StatusOK && json.Valid(body):
		answer(w, http.StatusOK, json.RawMessage(body))
	case err == nil && status == http.StatusNotFound:
		answer(w, http.StatusOK, document{"statusCode": 404, "message": "Not found"})
	default:
		answer(w, http.StatusOK, document{"statusCode": 500, "message": "Something went wrong."})
	}
}

// createDatabase makes the database that the documents are in; that it exists
// is as good.
func (a *animals) createDatabase(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, a.couch+"/animals", nil)
	if err != nil {
		return err
	}
	resp, err := a.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusPreconditionFailed {
		return fmt.Errorf("create database: %s", resp.Status)
	}
	return nil
}

// greeter says hello and its version.
func greeter() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, `{"message":"hello 👋 ","version":"1.0.0"}`)
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, `{"version":"1.0.0"}`)
	})
	return mux
}

// helloWeb is a page that shows what the greeter says.
func helloWeb(greeter string, client *http.Client) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		status, body, err := fetch(r.Context(), client, greeter+"/hello")
		if err != nil {
			status, body = http.StatusBadGateway, []byte("the greeter did not answer")
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<!doctype html>\n<title>Hello web</title>\n<h1>Hello web</h1>\n<p>%s</p>\n", html.EscapeString(string(body)))
	})
	return mux
}

// fetch gets a page of at most a mebibyte.
func fetch(ctx context.Context, client *http.Client, address string) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body, err
}
