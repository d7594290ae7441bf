package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// healthServer answers by the name of the service that it is asked for.
type healthServer struct {
	healthpb.UnimplementedHealthServer
	agents chan string
}

func (s *healthServer) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	select {
	case s.agents <- md.Get("user-agent")[0]:
	default:
	}
	switch r.GetService() {
	case "", "well":
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
	case "ill":
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
	case "unsure":
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_UNKNOWN}, nil
	case "locked":
		return nil, status.Error(codes.Unauthenticated, "who are you")
	case "late": // by its own clock, which may be a little ahead of the agent's
		return nil, status.Error(codes.DeadlineExceeded, "too late")
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, status.Error(codes.NotFound, "unknown service")
}

func serveGRPC(t *testing.T, address string, register func(*grpc.Server)) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip("needs ", address, ": ", err)
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

func TestProbeGRPC(t *testing.T) {
	for _, pod := range []string{"127.0.0.1", "::1"} {
		t.Run(pod, func(t *testing.T) {
			agents := make(chan string, 1)
			port := serveGRPC(t, net.JoinHostPort(pod, "0"), func(s *grpc.Server) {
				healthpb.RegisterHealthServer(s, &healthServer{agents: agents})
			})
			for service, want := range map[string]int{
				"null": 200, `""`: 200, `"well"`: 200, `"ill"`: 503, `"unsure"`: 503, `"other"`: 503, `"locked"`: 502, `"slow"`: 504, `"late"`: 504,
			} {
				timeout := "" // long
				if service == `"slow"` {
					timeout = `,"timeoutSeconds":2`
				}
				agent := startAgent(t, pod, fmt.Sprintf(`{%q:{"grpc":{"port":%d,"service":%s}%s}}`, livez, port, service, timeout))
				if got := call(t, "GET", agent.URL+livez, http.Header{"User-Agent": {"kube-probe/1.36"}}); got != want {
					t.Errorf("service %s: %d, want %d", service, got, want)
				}
				if got, want := <-agents, "kube-probe/1.36 grpc-go/"+grpc.Version; got != want {
					t.Errorf("introduced as %q, want %q", got, want)
				}
			}
		})
	}
}

func TestProbeGRPCOfAnotherServer(t *testing.T) {
	nothing := serveGRPC(t, "127.0.0.1:0", func(*grpc.Server) {})
	for name, c := range map[string]struct {
		port, want int
		timeout    string
	}{
		"no health service": {nothing, 502, ""},
		"nobody listens":    {portOf(t, "http://"+meshtest.Address(t)), 502, ""},
		"HTTP/1.1":          {rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false), 502, ""},
		"silence":           {rawServer(t, "", true), 504, `,"timeoutSeconds":2`},
	} {
		t.Run(name, func(t *testing.T) {
			agent := startProber(t, fmt.Sprintf(`{"grpc":{"port":%d}%s}`, c.port, c.timeout))
			if got := call(t, "GET", agent.URL+livez, nil); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}
