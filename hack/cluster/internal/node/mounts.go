package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/settings"
)

// hidden are the host's folders that the node's programs would write to at
// fixed paths. The node has empty ones in memory instead, so that the host need
// not even have them.
var hidden = [...]string{"/run", "/var/lib", "/var/log"}

// mounts makes this mount namespace the node's own: nothing done in it reaches
// the host, while within the node mounts propagate, as the kubelet needs.
func mounts(keep []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the host's propagation: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share within the node: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	for _, dir := range hidden {
		if err := hide(dir, keep); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return os.MkdirAll(settings.Run, 0o755)
}

// hide puts an empty folder in memory over dir, and those of keep that lie in it
// back into sight.
func hide(dir string, keep []string) (err error) {
	open := map[string]int{}
	defer func() {
		for _, fd := range open {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	for _, k := range keep {
		if !strings.HasPrefix(k, dir+"/") {
			continue
		}
		fd, err := unix.Open(k, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		open[k] = fd
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for k, fd := range open {
		if err := os.MkdirAll(k, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), k, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	return nil
}

// checkOverlay says in time, and in words, what containerd would else only show
// as pods that do not start.
func checkOverlay(dir string) (err error) {
	at := func(name string) string { return filepath.Join(dir, "overlay-check", name) }
	defer func() { err = errors.Join(err, os.RemoveAll(at(""))) }()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.MkdirAll(at(name), 0o700); err != nil {
			return err
		}
	}
	options := "lowerdir=" + at("lower") + ",upperdir=" + at("upper") + ",workdir=" + at("work")
	if err := unix.Mount("overlay", at("merged"), "overlay", 0, options); err != nil {
		return fmt.Errorf("overlayfs does not work on the file system of %s, which must be a plain one such as ext4: %w", dir, err)
	}
	return unix.Unmount(at("merged"), 0)
}

// kubeletSysctls are the kernel's settings that the kubelet insists on. They
// belong to the whole machine.
var kubeletSysctls = [...]struct{ path, value string }{
	{"vm/overcommit_memory", "1"},
	{"vm/panic_on_oom", "0"},
	{"kernel/panic", "10"},
	{"kernel/panic_on_oops", "1"},
	{"kernel/keys/root_maxkeys", "1000000"},
	{"kernel/keys/root_maxbytes", "25000000"},
}

// KubeletMarker is argument zero of the process that becomes the kubelet.
const KubeletMarker = "garrison-lab-kubelet"

// BecomeKubelet shows the kubelet files that hold what it wants to find in
// /proc/sys, and turns into it: args are the program and its arguments. It runs
// in a mount namespace below the node's, as mounts over the node's own /proc
// would stop pods with user namespaces.
func BecomeKubelet(args []string) error {
	if len(args) < 2 || os.Getpid() == 1 {
		return errors.New("only a node starts its kubelet")
	}
	if err := unix.Mount("", "/proc", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	for _, s := range kubeletSysctls {
		file := filepath.Join(settings.Run, "sysctl", strings.ReplaceAll(s.path, "/", "."))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(s.value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+s.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", s.path, err)
		}
	}
	return unix.Exec(args[0], args, os.Environ())
}
