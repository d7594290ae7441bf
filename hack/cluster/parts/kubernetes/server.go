package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	logsapi "k8s.io/component-base/logs/api/v1"
)

// ServerConfig is the file that `kubernetes server` reads.
type ServerConfig struct {
	Data  string `json:"data"`  // folder of etcd's data
	CA    string `json:"ca"`    // certificate that the API server's own one is checked with
	Ready string `json:"ready"` // printed on standard output once the API server is ready

	Listen   string `json:"listen"`   // the API server's address, or
	ListenFD int    `json:"listenFD"` // an open socket inherited from the parent, if above zero

	APIServer         []string `json:"apiServer"`         // flags as upstream, without --etcd-servers
	ControllerManager []string `json:"controllerManager"` // flags as upstream; none: do not run it
	Scheduler         []string `json:"scheduler"`         // likewise
}

// stopGrace is how long the components may take after a signal. Their clients
// are local, and a test waits for the process to end.
const stopGrace = 2 * time.Second

// serve runs etcd, the API server and, where flags are given for them, the
// controller manager and the scheduler, until a signal or the first of them ends.
func serve(path string) error {
	cfg, err := readConfig(path)
	if err != nil {
		return err
	}
	// Each component applies its own logging flags to the one global logger; they agree.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := cfg.listener()
	if err != nil {
		return err
	}
	etcd, endpoint, err := startEtcd(ctx, cfg.Data)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	// The API server's connections are still open at the end; a gentler stop waits for them.
	defer etcd.Server.HardStop()

	ended := make(chan error, 3)
	running := 1
	start := func(name string, run func(context.Context) error) {
		go func() {
			if err := run(ctx); err != nil {
				ended <- fmt.Errorf("%s: %w", name, err)
				return
			}
			ended <- nil
		}()
	}
	api, err := newAPIServer(ctx, append(cfg.APIServer, "--etcd-servers="+endpoint), listener)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	start("API server", api)

	if err := cfg.awaitReady(ctx, listener.Addr(), ended); err != nil {
		return err
	}
	fmt.Println(cfg.Ready)

	// Set up one after the other: both write the process's feature gates.
	if len(cfg.ControllerManager) > 0 {
		manager, err := newControllerManager(ctx, cfg.ControllerManager)
		if err != nil {
			return fmt.Errorf("controller manager: %w", err)
		}
		start("controller manager", manager)
		running++
	}
	if len(cfg.Scheduler) > 0 {
		scheduler, err := newScheduler(ctx, cfg.Scheduler)
		if err != nil {
			return fmt.Errorf("scheduler: %w", err)
		}
		start("scheduler", scheduler)
		running++
	}

	select {
	case err := <-ended:
		if ctx.Err() == nil {
			return errors.Join(errors.New("ended by itself"), err)
		}
		running--
	case <-ctx.Done():
	}
	for deadline := time.After(stopGrace); running > 0; running-- {
		select {
		case <-ended:
		case <-deadline:
			return nil
		}
	}
	return nil
}

func readConfig(path string) (ServerConfig, error) {
	var cfg ServerConfig
	b, err := os.ReadFile(path)
	if err != nil {
		return cfg, err
	}
	if err := json.Unmarshal(b, &cfg); err != nil {
		return cfg, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

func (c ServerConfig) listener() (net.Listener, error) {
	if c.ListenFD <= 0 {
		return net.Listen("tcp", c.Listen)
	}
	f := os.NewFile(uintptr(c.ListenFD), "listener")
	defer f.Close()
	return net.FileListener(f)
}

// awaitReady asks the API server itself, over loopback, until it says that it is
// ready or it has ended.
func (c ServerConfig) awaitReady(ctx context.Context, addr net.Addr, ended <-chan error) error {
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
	}
	url := fmt.Sprintf("https://localhost:%d/readyz", addr.(*net.TCPAddr).Port)
	for {
		if resp, err := client.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("the API server ended before it was ready"), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
