package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHierarchies(t *testing.T) {
	for _, c := range []struct {
		name, mountinfo string
		want            []Hierarchy
	}{
		{"version 2", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			[]Hierarchy{{Dir: "/sys/fs/cgroup", Unified: true}}},
		{"version 1, with version 2 beside it", `23 1 0:22 / /sys rw - sysfs sysfs rw
31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/cpuset rw shared:9 master:2 - cgroup cgroup rw,cpuset
34 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`, []Hierarchy{{Dir: "/sys/fs/cgroup/cpu"}, {Dir: "/sys/fs/cgroup/cpuset", Cpuset: true},
			{Dir: "/sys/fs/cgroup/systemd"}, {Dir: "/sys/fs/cgroup/unified", Unified: true}}},
		{"mounted twice", "1 0 0:1 / /c rw - cgroup2 c rw\n2 1 0:1 / /c rw - cgroup2 c rw\n", []Hierarchy{{Dir: "/c", Unified: true}}},
		{"cut short", "1 0 0:1 / /c rw - cgroup\nx\n\n1 - cgroup c rw\n", nil},
	} {
		if diff := cmp.Diff(c.want, Hierarchies(c.mountinfo)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestInherit(t *testing.T) {
	root := t.TempDir()
	for file, value := range map[string]string{"cpuset.cpus": "0-1", "cpuset.mems": "0"} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it may be there already
		if err := inherit(Hierarchy{Cpuset: true}, root, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "x", "cpuset.cpus")); err != nil || string(b) != "0-1" {
		t.Errorf("cpus %q, %v", b, err)
	}
	if err := inherit(Hierarchy{}, root, "y"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "y", "cpuset.cpus")); err == nil {
		t.Error("a cpuset in a hierarchy without")
	}
}

func TestDelegate(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu memory pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := delegate(Hierarchy{Unified: true}, root, "x"); err != nil {
		t.Fatal(err)
	}
	// A file keeps the last write only; the kernel's adds up.
	if b, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control")); err != nil || string(b) != "+pids" {
		t.Errorf("subtree_control %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(root, "x")); err != nil || !st.IsDir() {
		t.Errorf("no folder: %v", err)
	}
}

func TestRemoveTree(t *testing.T) {
	root := filepath.Join(t.TempDir(), "x")
	if err := os.MkdirAll(filepath.Join(root, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("still there")
	}
	if err := removeTree(root); err != nil {
		t.Errorf("what is gone is removed: %v", err)
	}
	if err := Remove(context.Background(), "gl-no-such-cluster-was-ever-made"); err != nil {
		t.Error(err)
	}
}
