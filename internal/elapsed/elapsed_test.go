package elapsed

import (
	"testing"
	"time"

	"github.com/garrison-mesh/garrison/internal/meshtest"
)

func TestBetween(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		from time.Time
		want time.Duration
	}{
		"awake":                  {now.Add(-time.Minute), time.Minute},
		"suspended in between":   {meshtest.Suspended(t, now.Add(-time.Minute), time.Hour), time.Hour + time.Minute},
		"the clock was set back": {meshtest.Suspended(t, now.Add(-time.Minute), -time.Hour), time.Minute},
		"read from a file":       {now.Add(-time.Minute).Round(0), time.Minute},
		"still to come":          {now.Add(time.Second), -time.Second},
	} {
		if got := Between(c.from, now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
