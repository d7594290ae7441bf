package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"
)

// How Istio's agent asks: so often for one attempt, with pauses that double; and
// attempts without end, with longer ones.
const (
	agentTries      = 5
	agentPause      = 100 * time.Millisecond
	agentLongPause  = 500 * time.Millisecond
	agentPauseLimit = time.Minute
)

// agentRetries are the codes that an agent sends the same request again for.
func agentRetries() []codes.Code {
	return []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unavailable}
}

// persist asks until there is an answer, as Istio's agent does: after each attempt
// that failed it dials anew. It returns how often it asked.
func persist(ctx context.Context, ask func(context.Context) error, redial func()) (asked int, err error) {
	long := agentLongPause
	for {
		pause := agentPause
		for try := 1; ; try++ {
			asked++
			if err = ask(ctx); err == nil {
				return asked, nil
			}
			if try == agentTries || !slices.Contains(agentRetries(), status.Code(err)) {
				break
			}
			if !rest(ctx, jitter(pause)) {
				return asked, err
			}
			pause *= 2
		}
		redial()
		if !rest(ctx, long) {
			return asked, err
		}
		long = min(2*long, agentPauseLimit)
	}
}

// jitter spreads a pause by a tenth.
func jitter(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5) }

// rest waits, and reports whether ctx lasted.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// agent is one pod's: with a connection, a token and an address of its own.
type agent struct {
	server *server
	token  string
	from   net.IP
	conn   *grpc.ClientConn
}

func (a *agent) dial() error {
	conn, err := grpc.NewClient("passthrough:///"+a.server.addr,
		grpc.WithTransportCredentials(credentials.NewTLS(a.server.trust.Clone())),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: a.from}}).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10), // ten thousand share this process
	)
	a.conn = conn
	return err
}

// certify asks for a certificate until there is one, and checks it.
func (a *agent) certify(ctx context.Context, r request, lifetime time.Duration) (asked int, err error) {
	if a.conn == nil {
		if err := a.dial(); err != nil {
			return 0, err
		}
	}
	message := r.message()
	message.ValidityDuration = int64(lifetime / time.Second)
	var chain []string
	var dialErr error
	asked, err = persist(ctx, func(ctx context.Context) error {
		if dialErr != nil {
			return dialErr
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.token)
		answer, err := securityapi.NewIstioCertificateServiceClient(a.conn).CreateCertificate(ctx, message)
		chain = answer.GetCertChain()
		return err
	}, func() {
		_ = a.conn.Close() // it failed, or will now
		dialErr = a.dial()
	})
	if err != nil {
		return asked, fmt.Errorf("after %d times: %w", asked, err)
	}
	return asked, checkChain(r, chain)
}

func (a *agent) close() {
	if a.conn != nil {
		_ = a.conn.Close() // nothing more is wanted of it
	}
}
