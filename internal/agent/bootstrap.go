package agent

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// object is a message of Envoy's API in its JSON form. Plain values instead of
// generated types: docs/decisions/0003-bootstrap-as-plain-json.md says why.
type object = map[string]any

// Clusters of the bootstrap. Where Istio has a name for the same thing it is
// used: people know these from logs and metrics.
const (
	clusterOutbound  = "PassthroughCluster"
	clusterInbound   = "InboundPassthroughCluster"
	clusterBlackHole = "BlackHoleCluster"
	clusterAgent     = "agent"
	clusterAdmin     = "prometheus_stats"
)

// bootstrap is Envoy's whole configuration: whatever is captured goes on to where
// it was sent. With ipv6, which the kernel must know, it takes what is sent by IPv6
// as well, whatever the pod's own address. Equal input gives equal bytes.
func bootstrap(p Proxy, ipv6 bool) ([]byte, error) {
	inbound := captured("virtualInbound", "INBOUND", mesh.InboundPort, clusterInbound,
		mesh.InboundPort, mesh.OutboundPort)
	if p.Transparent {
		keepCaller(inbound)
	}
	listeners := []object{
		inbound,
		// A port 15006 elsewhere is somebody's service, perhaps; 15001 seen
		// here is this listener itself, dialled by the application.
		captured("virtualOutbound", "OUTBOUND", mesh.OutboundPort, clusterOutbound,
			mesh.OutboundPort),
		relay("readiness", mesh.ReadinessPort, mesh.ReadyPath, clusterAgent),
		relay("metrics", mesh.EnvoyStatsPort, "/stats/prometheus", clusterAdmin),
	}
	if ipv6 {
		for _, l := range listeners {
			addIPv6(l)
		}
	}
	text, err := json.MarshalIndent(object{
		"node": object{
			"id": fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.%s",
				p.Address, p.Pod, p.ID.Namespace(), p.ID.Namespace(), mesh.DefaultClusterDomain),
			"cluster": p.ID.Account() + "." + p.ID.Namespace(),
		},
		"admin": object{"address": socketAddress("127.0.0.1", mesh.EnvoyAdminPort)},
		// Envoy warns at every start unless a bound is set. This one is beyond what
		// file descriptors allow: the application's own bounds are those that count.
		"overload_manager": object{"resource_monitors": []object{typed(
			"envoy.resource_monitors.global_downstream_max_connections",
			"envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
			object{"max_active_downstream_connections": 1 << 20})}},
		"static_resources": object{
			"listeners": listeners,
			"clusters": []object{
				originalDestination(clusterInbound),
				originalDestination(clusterOutbound),
				{"name": clusterBlackHole, "type": "STATIC", "connect_timeout": "1s"},
				loopback(clusterAgent, int(p.port())),
				loopback(clusterAdmin, mesh.EnvoyAdminPort),
			},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return append(text, '\n'), nil
}

// captured is a listener that redirected connections arrive at. The listener
// filter restores the address that the sender dialled; use_original_dst, which
// also looks for another listener at that address, would hand an outbound
// connection to somebody's port 15006 over to our inbound listener. Connections
// to the forbidden ports end in the black hole: on these, the original
// destination is the proxy itself.
func captured(name, direction string, port int, cluster string, forbidden ...int) object {
	chains := make([]object, 0, len(forbidden)+1)
	for _, f := range forbidden {
		chains = append(chains, object{
			"name":               fmt.Sprintf("self-%d", f),
			"filter_chain_match": object{"destination_port": f},
			"filters":            []object{tcpProxy(clusterBlackHole)},
		})
	}
	chains = append(chains, object{"name": "passthrough", "filters": []object{tcpProxy(cluster)}})
	return object{
		"name":              name,
		"traffic_direction": direction,
		"address":           socketAddress("0.0.0.0", port),
		"listener_filters": []object{typed("envoy.filters.listener.original_dst",
			"envoy.extensions.filters.listener.original_dst.v3.OriginalDst", object{})},
		"filter_chains": chains,
	}
}

// keepCaller makes a captured listener take connections that bear the addresses of
// both of their ends, and what is dialled for them come from the caller's.
func keepCaller(listener object) {
	listener["transparent"] = true
	listener["listener_filters"] = append(listener["listener_filters"].([]object),
		typed("envoy.filters.listener.original_src",
			"envoy.extensions.filters.listener.original_src.v3.OriginalSrc", object{"mark": transparentMark}))
}

// addIPv6 gives a listener its port by IPv6, too. IPv4 stays the first, also in a
// pod that has none: statistics name the listener by it.
func addIPv6(listener object) {
	address := listener["address"].(object)["socket_address"].(object)
	listener["additional_addresses"] = []object{{"address": socketAddress("::", address["port_value"].(int))}}
}

// tcpProxy passes bytes on. It ends no idle connection: applications that kept
// theirs for days without a proxy keep them with one.
func tcpProxy(cluster string) object {
	return typed("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
		object{"stat_prefix": cluster, "cluster": cluster, "idle_timeout": "0s"})
}

// relay is a listener for strangers that passes GET of one path on, and answers
// 404 to everything else.
func relay(name string, port int, path, cluster string) object {
	return object{
		"name":    name,
		"address": socketAddress("0.0.0.0", port),
		"filter_chains": []object{{"filters": []object{typed("envoy.filters.network.http_connection_manager",
			"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
				"stat_prefix":             name,
				"request_headers_timeout": "5s",
				"http_filters": []object{typed("envoy.filters.http.router",
					"envoy.extensions.filters.http.router.v3.Router", object{"suppress_envoy_headers": true})},
				"route_config": object{"name": name, "virtual_hosts": []object{{
					"name":    name,
					"domains": []string{"*"},
					"routes": []object{{
						"match": object{
							"path":    path,
							"headers": []object{{"name": ":method", "string_match": object{"exact": "GET"}}},
						},
						"route": object{"cluster": cluster, "timeout": "10s"},
					}},
				}}},
			})}}},
	}
}

// originalDestination dials what the sender dialled. Envoy's own bound of 1024
// connections protects servers behind a load balancer; here it would break an
// application that has more.
func originalDestination(name string) object {
	return object{
		"name":            name,
		"type":            "ORIGINAL_DST",
		"lb_policy":       "CLUSTER_PROVIDED",
		"connect_timeout": "10s",
		"circuit_breakers": object{"thresholds": []object{{
			"max_connections": uint32(math.MaxUint32), "max_pending_requests": uint32(math.MaxUint32),
			"max_requests": uint32(math.MaxUint32), "max_retries": uint32(math.MaxUint32),
		}}},
	}
}

func loopback(name string, port int) object {
	return object{
		"name":            name,
		"type":            "STATIC",
		"connect_timeout": "1s",
		"load_assignment": object{"cluster_name": name, "endpoints": []object{{
			"lb_endpoints": []object{{"endpoint": object{"address": socketAddress("127.0.0.1", port)}}},
		}}},
	}
}

func socketAddress(ip string, port int) object {
	return object{"socket_address": object{"address": ip, "port_value": port}}
}

func typed(name, message string, config object) object {
	config["@type"] = "type.googleapis.com/" + message
	return object{"name": name, "typed_config": config}
}
