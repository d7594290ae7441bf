// Package serve is the skeleton of a server process: it runs the parts of a
// server side by side, ends them all when one fails or a signal arrives, and
// waits for each. HTTPS, gRPC and the admin endpoint are such parts, and
// [Certificate] is the TLS certificate that may change under them.
//
// It knows nothing of what is served. Start reading at [All].
package serve

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Parts are the long-running functions of a server by name. Each returns when its
// context ends, or earlier with the error that ends the server.
type Parts map[string]func(context.Context) error

// All runs every part until ctx ends or one part returns an error, then cancels
// the others and waits for them. It returns the first error, prefixed with its
// part's name, or nil when it was ctx that ended. A part that returns nil early
// ends nothing.
func All(ctx context.Context, parts Parts) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for name, run := range parts {
		wg.Go(func() {
			if err := run(inner); err != nil && inner.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(inner); !errors.Is(cause, context.Cause(ctx)) {
		return cause
	}
	return nil
}
