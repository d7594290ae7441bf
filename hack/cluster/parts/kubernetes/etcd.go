package main

import (
	"context"
	"fmt"
	"net"
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcdTries bounds how often startEtcd looks for free ports: somebody else may
// take one between its choice and etcd's listening.
const etcdTries = 5

// startEtcd starts a single member on free loopback ports and returns it with
// its client address.
func startEtcd(ctx context.Context, dir string) (*embed.Etcd, string, error) {
	var err error
	for range etcdTries {
		var client, peer url.URL
		if client, err = freeAddress(); err != nil {
			return nil, "", err
		}
		if peer, err = freeAddress(); err != nil {
			return nil, "", err
		}
		c := embed.NewConfig()
		c.Dir, c.LogLevel = dir, "error"
		c.UnsafeNoFsync = true // the data does not outlive the cluster
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		c.InitialCluster = c.InitialClusterFromName(c.Name)
		// Only the first start reads the peer address; a later one finds the member in its data.
		var etcd *embed.Etcd
		if etcd, err = embed.StartEtcd(c); err != nil {
			continue
		}
		select {
		case <-etcd.Server.ReadyNotify():
			return etcd, client.String(), nil
		case err := <-etcd.Err():
			etcd.Close()
			return nil, "", err
		case <-ctx.Done():
			etcd.Close()
			return nil, "", ctx.Err()
		}
	}
	return nil, "", fmt.Errorf("%d tries: %w", etcdTries, err)
}

func freeAddress() (url.URL, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return url.URL{}, err
	}
	defer l.Close()
	return url.URL{Scheme: "http", Host: l.Addr().String()}, nil
}
