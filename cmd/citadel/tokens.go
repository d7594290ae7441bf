package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/garrison-mesh/garrison/internal/cluster"
)

// audienceTimeout bounds the question which audiences are the API server's own.
const audienceTimeout = 5 * time.Second

// refuseOwnAudience ends the start where tokens for the API server itself would be
// taken here: every pod has one, and whoever gets hold of it would be that pod.
func refuseOwnAudience(ctx context.Context, api *cluster.API, audiences []string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, audienceTimeout)
	defer cancel()
	own, err := api.OwnAudiences(ctx)
	if err != nil {
		log.WarnContext(ctx, "not all audiences of the API server are known, so token-audience is not compared with them", "err", err)
	}
	for _, audience := range audiences {
		if slices.Contains(own, audience) {
			return fmt.Errorf("token-audience %q: the API server's own, which the token of every pod is made for; "+
				"take another, as the projected tokens of sidecars name it", audience)
		}
	}
	return nil
}

// watchTokens prepares what tells whom tokens prove, and which pods and accounts live.
func (p process) watchTokens() (*cluster.LocalTokens, *cluster.Workloads) {
	s := p.settings
	workloads := p.api.WatchWorkloads(cluster.WorkloadsOptions{Window: s.revocationWindow, Log: p.log, Metrics: p.metrics})
	return p.api.LocalTokens(cluster.LocalTokenOptions{
		Audiences: s.audiences, Verification: s.verification,
		Workloads: workloads, Reviewer: p.api.Tokens(s.audiences, 0),
		Log: p.log, Metrics: p.metrics,
	}), workloads
}
