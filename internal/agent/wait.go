package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Wait returns when the sidecar whose agent listens on the port given, on this
// host, is ready. When ctx ends before, the error says what it waited for and what
// the last answer was.
func Wait(ctx context.Context, port uint16) error {
	address := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) + mesh.ReadyPath
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, // soon over
		Timeout:   3 * time.Second,
	}
	var last error
	for {
		err := askReady(ctx, client, address)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // not that time ran out, which is said anyway
			last = err
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("waiting for 200 from %s: %w; the last time: %w", address, context.Cause(ctx), last)
		}
	}
}

func askReady(ctx context.Context, client *http.Client, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}
