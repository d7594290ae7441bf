//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/pki"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/settings"
)

// apiserver becomes an etcd and an API server on a free port of loopback, with
// everything in o.dir. They end with this process, which is the same one.
func (l *lab) apiserver(ctx context.Context) error {
	kubernetes, err := l.builder().Kubernetes(ctx)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(l.options.dir)
	if err != nil {
		return err
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		return err
	}
	url := "https://" + listener.Addr().String()
	keys := pki.Dir(filepath.Join(dir, "pki"))
	if err := keys.Write(pki.Cluster{Name: "apiserver", Server: url, Addrs: []netip.Addr{loopback}}, time.Now()); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	// The socket is open already: nobody can take its port.
	f, err := listener.File()
	if err != nil {
		return err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 3) // unlike f's own, it survives exec
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(settings.APIServerOnly(keys, filepath.Join(dir, "etcd"), fd, "ready "+url), "", "  ")
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "server.json")
	if err := errors.Join(
		os.WriteFile(config, b, 0o600),
		copyFile(keys.Kubeconfig(pki.Admin), filepath.Join(dir, "kubeconfig")),
		copyFile(keys.ServiceAccountKey(), filepath.Join(dir, "sa.key")),
	); err != nil {
		return err
	}
	return unix.Exec(kubernetes, []string{kubernetes, "server", config}, os.Environ())
}
