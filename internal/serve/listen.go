package serve

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
)

// DefaultLinger is how long a server goes on accepting connections after it was
// told to end: by then the endpoints that name it are gone from every node, and
// no client is refused while a rolling update is under way.
const DefaultLinger = 8 * time.Second

// stopTimeout bounds how long requests under way may still take once the
// listener is closed.
const stopTimeout = 15 * time.Second

// HTTP is a server of plain HTTP, or of HTTPS where TLS is set.
type HTTP struct {
	Addr    string // host:port
	Handler http.Handler
	TLS     *tls.Config   // nil: plain HTTP
	Linger  time.Duration // 0: DefaultLinger; negative: none
}

// Run serves until ctx ends, lingers, then lets requests under way finish. It is
// a part for [All].
func (h HTTP) Run(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", h.Addr)
	if err != nil {
		return err
	}
	if h.TLS != nil {
		l = tls.NewListener(l, h.TLS)
	}
	srv := &http.Server{
		Handler:           retire(ctx, h.Handler),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// Handshake errors and the like are the client's affair, and strangers
		// must not be able to fill the log.
		ErrorLog: discard(),
	}
	return serveUntil(ctx, h.Linger, func() error { return srv.Serve(l) }, func() error {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := srv.Shutdown(stop); err != nil {
			return fmt.Errorf("stopping: %w", err)
		}
		return nil
	})
}

// retire asks clients to let go of their connection once the server is to end, each
// after an answer: closing an idle one ourselves could cut a request on its way.
func retire(ctx context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// GRPC is a gRPC server on an address. TLS belongs to Server's credentials.
type GRPC struct {
	Addr   string
	Server *grpc.Server
	Door   *Door         // nil: everybody may come in, as often as they like
	Linger time.Duration // as for [HTTP]
}

// Run serves until ctx ends, lingers, then lets calls under way finish.
func (g GRPC) Run(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", g.Addr)
	if err != nil {
		return err
	}
	if g.Door != nil {
		l = listener{l, g.Door}
	}
	return serveUntil(ctx, g.Linger, func() error { return g.Server.Serve(l) }, func() error {
		// GracefulStop has no deadline of its own; Stop ends it.
		cut := time.AfterFunc(stopTimeout, g.Server.Stop)
		defer cut.Stop()
		g.Server.GracefulStop()
		return nil
	})
}

// serveUntil runs serve until it fails or ctx has ended and the linger is over,
// then stops it and waits for its end.
func serveUntil(ctx context.Context, linger time.Duration, serve, stop func() error) error {
	served := make(chan error, 1)
	go func() { served <- serve() }() // owned here: read below on every path
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	if linger == 0 {
		linger = DefaultLinger
	}
	if linger > 0 {
		timer := time.NewTimer(linger)
		defer timer.Stop()
		select {
		case err := <-served:
			return err
		case <-timer.C:
		}
	}
	err := stop()
	<-served //nolint:errcheck // http.ErrServerClosed or nil: it ended because we said so
	return err
}
