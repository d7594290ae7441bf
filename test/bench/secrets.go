package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// secretsGoal is what keeping the Secrets of all accounts may take, in MiB.
const secretsGoal = 200

// secrets measures the keeping of Secrets for many service accounts. The API server is
// simulated and has no limits, so the times are those of the work; with the default
// settings 50 Secrets are written in a second.
func (b bench) secrets(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.note("secrets: %d service accounts, a simulated API server", b.plan.accounts)
	k, err := b.keepAll(ctx, self)
	b.report(k.first.figures("secrets.first")...)
	b.report(k.rotation.figures("secrets.rotation")...)
	b.report(figure{name: "secrets.rotation.reads", values: []float64{float64(k.reads)}, unit: "secrets"})
	return err
}

// keptAll is what keeping the Secrets of all accounts took.
type keptAll struct {
	first    stretch // nobody has one, until everybody does
	rotation stretch // another root, until everybody has a new one
	reads    int     // of single Secrets, for the rotation
	memory   int     // the most that the process had resident, in bytes
}

// keepAll has program, which is this one, make the Secrets of all accounts, then others
// for a new root.
func (b bench) keepAll(ctx context.Context, program string) (all keptAll, err error) {
	s := newSimulated(b.plan.accounts)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return all, err
	}
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // closed and waited for below
	defer func() {
		closed := server.Close()
		if gone := <-served; !errors.Is(gone, http.ErrServerClosed) {
			closed = errors.Join(closed, gone)
		}
		err = errors.Join(err, closed)
	}()

	k, err := startKeeper(program, b.dir, "http://"+listener.Addr().String())
	if err != nil {
		return all, err
	}
	defer func() { err = errors.Join(err, k.stop()) }()
	everybody := func() bool { return s.done() == b.plan.accounts }
	if all.first, err = k.until(ctx, everybody); err != nil {
		return all, err
	}
	s.forget()
	if _, err := io.WriteString(k.stdin, "rotate\n"); err != nil {
		return all, err
	}
	if all.rotation, err = k.until(ctx, everybody); err != nil {
		return all, err
	}
	all.reads = int(s.reads.Load())
	all.memory, err = k.peak()
	return all, err
}

// keeper is this program keeping Secrets in another process.
type keeper struct{ *server }

func startKeeper(program, dir, api string) (*keeper, error) {
	kubeconfig := filepath.Join(dir, "secrets-kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"simulated": {Server: api}},
		Contexts:       map[string]*clientcmdapi.Context{"simulated": {Cluster: "simulated"}},
		CurrentContext: "simulated",
	}, kubeconfig); err != nil {
		return nil, err
	}
	k := &keeper{&server{role: "secrets", log: filepath.Join(dir, "secrets.log"), cmd: exec.Command(program, "keep", kubeconfig)}}
	file, err := os.Create(k.log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	k.cmd.Stderr = file
	k.cmd.Env = append(os.Environ(), installed()...)
	in, err := k.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	k.stdin = in
	return k, k.cmd.Start()
}

// stretch is what a stretch of work took.
type stretch struct {
	took time.Duration
	cpu  time.Duration
	peak int // resident bytes
}

func (s stretch) figures(name string) []figure {
	return []figure{
		{name: name + ".time", values: []float64{s.took.Seconds()}, unit: "s"},
		{name: name + ".cpu", values: []float64{s.cpu.Seconds()}, unit: "s"},
		{name: name + ".rss", values: []float64{float64(s.peak) / (1 << 20)}, unit: "MiB", goal: secretsGoal},
	}
}

// until watches the process until the work is done.
func (k *keeper) until(ctx context.Context, done func() bool) (s stretch, err error) {
	begin := time.Now()
	before, err := k.usage()
	if err != nil {
		return s, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for finished := false; !finished; {
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("secrets: %w: %s", context.Cause(ctx), k.said())
		case <-tick.C:
		}
		finished = done()
		now, err := k.usage()
		if err != nil {
			return s, fmt.Errorf("secrets: %w: %s", err, k.said())
		}
		s.peak = max(s.peak, now.rss)
		s.took, s.cpu = time.Since(begin), now.cpu-before.cpu
	}
	return s, nil
}

// keepSecrets keeps the Secrets of the cluster that a kubeconfig names, without a limit
// of rate, until standard input ends. Each line there is another root. It keeps besides what
// the command keeps of a cluster: its pods and accounts, and the record.
func keepSecrets(ctx context.Context, kubeconfig string, in io.Reader) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	api, err := cluster.Connect(kubeconfig)
	if err != nil {
		return err
	}
	root, err := ca.NewRoot(ca.RootOptions{}, time.Now())
	if err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	record, err := ledger.New(io.Discard, ledger.Options{Replica: "bench", Key: key})
	if err != nil {
		return err
	}
	authority, err := ca.Open(root, ca.Options{Recorder: record})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	besides := make(chan error, 1)
	go func() { // waited for below
		besides <- serve.All(ctx, serve.Parts{
			"workloads": api.WatchWorkloads(cluster.WorkloadsOptions{Log: log}).Run, "heap": serve.HeapReserve,
		})
	}()
	defer func() { cancel(); err = errors.Join(err, <-besides) }()
	again := make(chan struct{}, 1)
	go func() { // ends with standard input, or with the process
		defer cancel()
		for lines := bufio.NewScanner(in); lines.Scan(); {
			next, err := ca.NewRoot(ca.RootOptions{}, time.Now())
			if err == nil {
				_, err = authority.Replace(ca.Material{Root: next, Direct: true}, time.Now())
			}
			if err != nil {
				slog.Error("not rotated", "err", err)
				return
			}
			again <- struct{}{}
		}
	}()
	const unlimited = 1e6
	return api.KeepSecrets(cluster.SecretKeeper{
		InScope: func(*corev1.Namespace, cluster.Account) bool { return true },
		Check:   authority.CheckSecret, Make: authority.NewSecret,
		Basis: func(account mesh.ServiceAccount) cluster.Basis { return cluster.Basis(authority.Basis(account)) },
		Again: again, Rate: unlimited, ScrubRate: unlimited, Log: log,
	})(ctx)
}
