package settings

import (
	"encoding/json"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
)

const corefile = `.:53 {
    errors
    health :8181
    ready :8182
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    reload
}
`

// CoreDNS is a List of everything that the cluster's name server needs, as
// `kubectl apply` takes it.
func CoreDNS(c plan.Cluster) ([]byte, error) {
	const name, namespace = "coredns", "kube-system"
	meta := func(name string) object { return object{"name": name, "namespace": namespace} }
	labels := object{"k8s-app": "kube-dns"}
	probe := func(path string, port, period int) object {
		return object{"httpGet": object{"path": path, "port": port}, "periodSeconds": period}
	}
	read := func(group string, resources ...string) object {
		return object{"apiGroups": []string{group}, "resources": resources, "verbs": []string{"list", "watch"}}
	}
	return json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": []object{
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name)},
		{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": object{"name": "system:coredns"},
			"rules": []object{
				read("", "endpoints", "services", "pods", "namespaces"),
				read("discovery.k8s.io", "endpointslices"),
			},
		},
		{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": object{"name": "system:coredns"},
			"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
			"subjects": []object{{"kind": "ServiceAccount", "name": name, "namespace": namespace}},
		},
		{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name), "data": object{"Corefile": corefile}},
		{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name),
			"spec": object{
				"replicas": 1,
				"selector": object{"matchLabels": labels},
				"template": object{
					"metadata": object{"labels": labels},
					"spec": object{
						"serviceAccountName":            name,
						"dnsPolicy":                     "Default",
						"priorityClassName":             "system-cluster-critical",
						"terminationGracePeriodSeconds": 1,
						"containers": []object{{
							"name":           name,
							"image":          CoreDNSImage,
							"args":           []string{"-conf", "/etc/coredns/Corefile"},
							"ports":          []object{{"containerPort": 53, "protocol": "UDP", "name": "dns"}, {"containerPort": 53, "protocol": "TCP", "name": "dns-tcp"}},
							"readinessProbe": probe("/ready", 8182, 1),
							"livenessProbe":  probe("/health", 8181, 10),
							"securityContext": object{
								"allowPrivilegeEscalation": false,
								"readOnlyRootFilesystem":   true,
								"capabilities":             object{"add": []string{"NET_BIND_SERVICE"}, "drop": []string{"ALL"}},
							},
							"volumeMounts": []object{{"name": "config", "mountPath": "/etc/coredns", "readOnly": true}},
						}},
						"volumes": []object{{"name": "config", "configMap": object{"name": name}}},
					},
				},
			},
		},
		{
			"apiVersion": "v1", "kind": "Service",
			"metadata": object{"name": "kube-dns", "namespace": namespace, "labels": labels},
			"spec": object{
				"clusterIP": c.DNS().String(),
				"selector":  labels,
				"ports":     []object{{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}},
			},
		},
	}})
}
