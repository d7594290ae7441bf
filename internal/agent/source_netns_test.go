package agent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// newNode makes a node with two pods on its bridge, as the usual network plugin
// does: the bridge has the address that is the pods' default gateway.
func newNode(t *testing.T) (node, pod, neighbour namespace) {
	t.Helper()
	node, pod, neighbour = newNamespace(t), newNamespace(t), newNamespace(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "cni0"
	up := func(name, ip string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(ip + "/24")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
	}
	node.do(func() error {
		if err := netlink.LinkAdd(bridge); err != nil {
			t.Skip("needs bridges: ", err)
		}
		return up("cni0", "10.78.0.1")
	})
	for _, p := range []struct {
		namespace
		veth, ip string
	}{{pod, "veth1", "10.78.0.2"}, {neighbour, "veth2", "10.78.0.3"}} {
		node.do(func() error {
			link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(p.handle)}
			link.Name, link.MasterIndex = p.veth, bridge.Index
			return errors.Join(netlink.LinkAdd(link), netlink.LinkSetUp(link))
		})
		p.do(func() error {
			if err := up("eth0", p.ip); err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 78, 0, 1)})
		})
	}
	return node, pod, neighbour
}

// What the gateway itself is, is the next hop, whichever of its addresses is asked for;
// what it passes packets on to is not.
func TestNextHop(t *testing.T) {
	node, pod, _ := newNode(t)
	beyond := newNamespace(t)
	node.do(func() error {
		link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(beyond.handle)}
		link.Name = "uplink"
		addr, err := netlink.ParseAddr("10.79.0.1/24")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkAdd(link), netlink.AddrAdd(link, addr), netlink.LinkSetUp(link),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600))
	})
	beyond.do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("10.79.0.2/24")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link), netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 79, 0, 1)}))
	})
	pod.do(func() error {
		_, err := net.Dial("tcp", "10.79.0.2:10250")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("beyond the node: %w, so nothing is proved", err)
		}
		for address, want := range map[string]bool{"10.78.0.1": true, "10.79.0.1": true, "10.79.0.2": false, "10.99.9.9": false} {
			if got := isNextHop(t.Context(), netip.MustParseAddr(address)); got != want {
				t.Errorf("%s: %v, want %v", address, got, want)
			}
		}
		return nil
	})
}

// A neighbour learns nothing from the agent's port, whichever that is; the kubelet,
// which calls from the node's bridge, is answered, and so is the pod itself.
func TestNeighbourLearnsNothing(t *testing.T) {
	node, pod, neighbour := newNode(t)
	dir := openDir(t)
	self := filepath.Join(dir, "agent")
	if err := copyFile(os.Args[0], self); err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, pod.listen("0.0.0.0:8080"), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, port := range []uint16{mesh.AgentPort, 15999} {
		agent := fmt.Sprintf("10.78.0.2:%d", port)
		sidecar := pod.start(self, testProxy{
			Account: "sleep", Address: "10.78.0.2", CA: "10.78.0.1:1", Envoy: "/nowhere", Certs: dir, Config: dir, Root: "none", Token: "none", Port: port,
			Probers: `{"/app-health/app/readyz":{"httpGet":{"port":8080},"timeoutSeconds":60},"/app-lifecycle/app/prestopz":{"httpGet":{"port":8080}}}`,
		})
		eventually(t, "the agent's port", func() bool {
			code, _, _ := node.get(root, agent, "/app-health/app/readyz")
			return code != 0
		})
		for path, want := range map[string]int{"/app-health/app/readyz": 418, "/app-lifecycle/app/prestopz": 418, mesh.ReadyPath: 503, mesh.MetricsPath: 404, "/other": 404} {
			for name, from := range map[string]namespace{"node": node, "pod": pod} {
				if code, _, err := from.get(root, agent, path); code != want {
					t.Errorf("%s gets %d %v from %s, want %d", name, code, err, path, want)
				}
			}
			code, body, err := neighbour.get(root, agent, path)
			if err != nil || code != 403 || body != "" {
				t.Errorf("a neighbour gets %d %q %v from %s", code, body, err, path)
			}
		}
		if err := sidecar.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		sidecar.Wait()
	}
}
