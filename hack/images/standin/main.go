// Command standin answers for the tutorials' applications whose images cannot
// be had, request for request as far as the tutorials use them, and for one that our
// own tests need, which has something for every kind of probe to ask:
//
//	standin couchdb | test-app | greeter | hello-web | probed
//
// It is honest about being one: each answer carries the header
// "X-Stand-In: garrison". It keeps nothing on disk; only probed serves TLS.
// Start reading at the table in main.go.
package main

import (
	"context"
	"crypto/tls"
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
	ports []port
	start func(context.Context) error // nil, or what it does once at start
}

// port is an address that an application listens at.
type port struct {
	addr        string
	handler     http.Handler
	certificate *tls.Certificate // nil: plain text
	protocols   *http.Protocols  // nil: HTTP/1.1, and HTTP/2 under TLS
}

func apps(getenv func(string) string, log *slog.Logger) (map[string]app, error) {
	animals := &animals{couch: or(getenv("COUCHDB_URL"), "http://couchdb"), client: client()}
	probed, err := newProbed(log)
	return map[string]app{
		"couchdb":   {ports: []port{{addr: ":5984", handler: newCouch()}}},
		"test-app":  {ports: []port{{addr: ":8080", handler: animals}}, start: animals.createDatabase},
		"greeter":   {ports: []port{{addr: ":3000", handler: greeter()}}},
		"hello-web": {ports: []port{{addr: ":3000", handler: helloWeb(or(getenv("GREETER_SERVICE_URL"), "http://greeter-service:3000"), client())}}},
		"probed":    {ports: probed},
	}, err
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
		return errors.New("which application? couchdb, test-app, greeter, hello-web or probed")
	}
	all, err := apps(os.Getenv, log)
	if err != nil {
		return err
	}
	a, ok := all[args[0]]
	if !ok {
		return fmt.Errorf("unknown application %q: couchdb, test-app, greeter, hello-web or probed", args[0])
	}
	if a.start != nil {
		if err := a.start(ctx); err != nil { // the original goes on too
			log.WarnContext(ctx, "started without", "err", err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error)
	for _, p := range a.ports {
		go func() { ended <- p.serve(ctx) }() // waited for below
		log.InfoContext(ctx, "listening", "app", args[0], "addr", p.addr)
	}
	var errs []error
	for range a.ports {
		errs = append(errs, <-ended)
		cancel() // nobody needs half an application
	}
	return errors.Join(errs...)
}

// serve answers at the port until ctx ends.
func (p port) serve(ctx context.Context) error {
	server := &http.Server{Addr: p.addr, Handler: signed(p.handler), Protocols: p.protocols, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() { // ends with the server, which serve waits for
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	listen := server.ListenAndServe
	if p.certificate != nil {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*p.certificate}, MinVersion: tls.VersionTLS12}
		listen = func() error { return server.ListenAndServeTLS("", "") }
	}
	if err := listen(); !errors.Is(err, http.ErrServerClosed) {
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
