// Package agent is what runs beside every application in the mesh: it captures
// the pod's traffic, keeps the pod's certificate, runs Envoy, and answers the
// kubelet's probes in the application's stead.
//
//   - [Capture] is the init container's work: netfilter rules in the pod's network
//     namespace that lead TCP connections through Envoy, by IPv4 and by IPv6.
//   - [Proxy] is the sidecar: it asks Citadel for a certificate, starts Envoy when
//     it has one, renews it, and serves the agent's port.
//
// The package knows no Kubernetes API, reads no environment and trusts no
// neighbour: where the node's addresses can be known, its port answers others with
// 403, and with the application's metrics where the pod asked to be scraped. Who is
// answered learns a status code and can cause at most one request per configured
// probe at a time. What is no TCP is not captured, UDP above all.
//
// Start reading at [Proxy.Run], then capture.go; source.go says who is answered.
package agent
