package agent

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An application that says nothing more costs neither the others their parts of the answer
// nor the scraper its patience.
func TestMergedMetricsOfASilentApplication(t *testing.T) {
	const envoy, last = "# TYPE envoy_a counter\nenvoy_a{} 1\n", "last 1\n"
	for name, c := range map[string]struct {
		app  http.HandlerFunc
		part string
	}{
		"silence": {app: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"one that stalls": {part: "a 1\n", app: func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "a 1\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			agent := startMerged(t, c.app, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, last) })
			// The others' shares of a second are short, and a busy machine may need them for
			// itself: then a scraper with more patience shows it.
			failed := [3]int{}
			for patience := time.Second; ; patience *= 2 {
				begun, before := time.Now(), failed
				_, text := scrape(t, agent.URL, http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {fmt.Sprint(patience.Seconds())}})
				took := time.Since(begun)
				if err := strict(text); err != nil {
					t.Errorf("invalid: %v\n%s", err, text)
				}
				got, own, _ := strings.Cut(text, "# HELP "+scrapeFailures)
				if n := failuresIn(t, own, &failed); n != len(failed) || failed[1] != before[1]+1 {
					t.Errorf("%d targets, failures %v, before %v", n, failed, before)
				}
				if got == envoy+c.part+last && failed[0] == before[0] && failed[2] == before[2] && took <= patience {
					return
				}
				if patience > enough/2 {
					t.Fatalf("with %v of patience, after %v, failures %v, before %v: %s", patience, took, failed, before, got)
				}
			}
		})
	}
}

// failuresIn reads the agent's own lines in the order of the targets.
func failuresIn(t *testing.T, own string, failed *[3]int) (targets int) {
	t.Helper()
	for line := range strings.Lines(own) {
		if _, value, ok := strings.Cut(line, "} "); ok && targets < len(failed) {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			failed[targets] = n
			targets++
		}
	}
	return targets
}
