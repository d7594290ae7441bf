package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/cgroup"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
)

// Remnant is what the host has of a cluster, whether it runs or not.
type Remnant struct {
	Nodes   []Node
	Links   []string
	Cgroups []string
}

// Empty reports whether there is nothing.
func (r Remnant) Empty() bool { return len(r.Nodes)+len(r.Links)+len(r.Cgroups) == 0 }

// Elsewhere returns the file of a node that was started with a configuration
// outside dir: a cluster of the same name in another working copy.
func (r Remnant) Elsewhere(dir string) string {
	for _, n := range r.Nodes {
		if !strings.HasPrefix(n.Config, dir+"/") {
			return n.Config
		}
	}
	return ""
}

// Find looks for a cluster by its name.
func Find(cluster string) (Remnant, error) {
	var r Remnant
	var errs [3]error
	r.Nodes, errs[0] = Nodes(cluster)
	r.Links, errs[1] = Links(cluster)
	r.Cgroups, errs[2] = cgroup.Find(plan.HostName(cluster))
	return r, errors.Join(errs[:]...)
}

// Remove removes all that [Find] finds, and mounts below dir, which a cluster
// makes in its own namespaces only. One failure does not keep it from the rest.
func Remove(ctx context.Context, cluster, dir string) error {
	nodes, err := Nodes(cluster)
	errs := []error{err}
	for _, n := range nodes {
		errs = append(errs, kill(ctx, cluster, n))
	}
	return errors.Join(append(errs,
		removeLinks(cluster),
		cgroup.Remove(ctx, plan.HostName(cluster)),
		unmount(dir),
	)...)
}

func unmount(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, point := range slices.Backward(mountsBelow(string(b), dir)) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow returns the mount points in dir, in the order in which they were
// made, from the text of a mountinfo file.
func mountsBelow(mountinfo, dir string) []string {
	var points []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			if point := unescape.Replace(f[4]); strings.HasPrefix(filepath.Clean(point), dir+"/") {
				points = append(points, point)
			}
		}
	}
	return points
}
