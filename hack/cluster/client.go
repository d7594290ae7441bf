//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/pki"
)

// client asks the API server the three questions that up has.
type client struct {
	http   *http.Client
	server string
}

func (l *lab) client() (*client, error) {
	b, err := os.ReadFile(l.kubeconfig())
	if err != nil {
		return nil, err
	}
	var config struct {
		Clusters []struct {
			Cluster struct{ Server string } `json:"cluster"`
		} `json:"clusters"`
	}
	if err := json.Unmarshal(b, &config); err != nil || len(config.Clusters) != 1 {
		return nil, fmt.Errorf("%s: not as the lab writes it: %w", l.kubeconfig(), err)
	}
	ca, err := os.ReadFile(l.pki().CA())
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(l.pki().Cert(pki.Admin), l.pki().Key(pki.Admin))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	return &client{
		http:   &http.Client{Timeout: 5 * time.Second, Transport: transport},
		server: config.Clusters[0].Cluster.Server,
	}, nil
}

// await asks until the answer is no error, and names the last one otherwise.
func (c *client) await(ctx context.Context, what string, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last: %w)", what, context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *client) ready(ctx context.Context) error { return c.get(ctx, "/readyz", nil) }

func (c *client) nodesReady(ctx context.Context, want int) error {
	var list struct {
		Items []struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
	}
	if err := c.get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	ready, why := 0, []string{}
	for _, n := range list.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type == "Ready" && cond.Status == "True" {
				ready++
			} else if cond.Type == "Ready" {
				why = append(why, cond.Message)
			}
		}
	}
	if ready < want {
		return fmt.Errorf("%d of %d ready: %s", ready, want, strings.Join(why, "; "))
	}
	return nil
}

func (c *client) coreDNSReady(ctx context.Context) error {
	var d struct {
		Status struct{ AvailableReplicas int }
	}
	if err := c.get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &d); err != nil {
		return err
	}
	if d.Status.AvailableReplicas == 0 {
		return errors.New("no replica is available")
	}
	return nil
}

// get asks for a path; into may be nil.
func (c *client) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
