// Command standin answers for the tutorials' applications whose images cannot
// be had, request for request as far as the tutorials use them:
//
//	standin couchdb | test-app | greeter | hello-web
//
// It is honest about being one: each answer carries the header
// "X-Stand-In: garrison". It keeps nothing on disk and serves no TLS.
// Start reading at the table in main.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// app is one application: where it listens and what it answers.
type app struct {
	addr    string
	handler http.Handler
	start   func(context.Context) error // nil, or what it does once at start
}

func apps(getenv func(string) string) map[string]app {
	animals := &animals{couch: or(getenv("COUCHDB_URL"), "http://couchdb"), client: client()}
	return map[string]app{
		"couchdb":   {addr: ":5984", handler: newCouch()},
		"test-app":  {addr: ":8080", handler: animals, start: animals.createDatabase},
		"greeter":   {addr: ":3000", handler: greeter()},
		"hello-web": {addr: ":3000", handler: helloWeb(or(getenv("GREETER_SERVICE_URL"), "http://greeter-service:3000"), client())},
	}
}

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(log, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) != 1 {
		return errors.New("which application? couchdb, test-app, greeter or hello-web")
	}
	a, ok := apps(os.Getenv)[args[0]]
	if !ok {
		return fmt.Errorf("unknown application %q: couchdb, test-app, greeter or hello-web", args[0])
	}
	if a.start != nil {
		if err := a.start(ctx); err != nil { // the original goes on too
			log.WarnContext(ctx, "started without", "err", err)
		}
	}
	server := &http.Server{Addr: a.addr, Handler: signed(a.handler), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() { // ends with the server, which run waits for
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	log.InfoContext(ctx, "listening", "app", args[0], "addr", a.addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// signed marks every answer as a stand-in's.
func signed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Stand-In", "garrison")
		next.ServeHTTP(w, r)
	})
}

func client() *http.Client { return &http.Client{Timeout: 10 * time.Second} }

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
