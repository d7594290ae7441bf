package cluster

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// registered returns c, or the collector that an earlier term of leadership has
// registered in its place. A nil registerer is fine.
func registered[C prometheus.Collector](r prometheus.Registerer, c C) (C, error) {
	if r == nil {
		return c, nil
	}
	err := r.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if earlier, ok := already.ExistingCollector.(C); ok {
			return earlier, nil
		}
	}
	return c, err
}
