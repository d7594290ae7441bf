package agent

import (
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func testCapture() Capture {
	return Capture{ProxyUID: 1337, InboundPort: 15006, OutboundPort: 15001, ExcludeInbound: []uint16{15020, 15021}}
}

func (n namespace) capture() {
	n.t.Helper()
	n.do(func() error { return testCapture().Install(n.t.Context(), discardLog()) })
}

func TestCapture(t *testing.T) {
	hosts := newNetwork(t)
	for _, port := range []int{8080, 9090, 15001, 15006, 15020, 15021, 15090} {
		hosts.pod.greet(port)
		hosts.neighbour.greet(port)
	}
	const (
		pod       = podIP + ":"
		neighbour = neighbourIP + ":"
	)
	if got := hosts.neighbour.greeting(root, pod+"8080"); got != "port 8080" {
		t.Fatalf("before any rule: %s", got)
	}
	// Twice, and a third time over rules that somebody spoilt.
	hosts.pod.capture()
	hosts.pod.capture()
	hosts.pod.do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: captureTable, Family: nftables.TableFamilyIPv4}
		conn.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "inbound", Table: table},
			Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
		if err := conn.Flush(); err != nil {
			return err
		}
		if err := testCapture().chains()[1].verify(conn, table); err == nil {
			t.Error("a spoilt chain passes for what was set")
		}
		return nil
	})
	hosts.pod.capture()

	app := person{1000, 1000}
	for _, c := range []struct {
		what string
		from namespace
		who  person
		to   string
		want string
	}{
		{"incoming is captured", hosts.neighbour, root, pod + "8080", "port 15006"},
		{"even where nobody listens", hosts.neighbour, root, pod + "81", "port 15006"},
		{"excluded ports are not", hosts.neighbour, root, pod + "15020", "port 15020"},
		{"excluded ports are not", hosts.neighbour, root, pod + "15021", "port 15021"},
		{"ports not excluded are", hosts.neighbour, root, pod + "15090", "port 15006"},
		{"the inbound port is refused", hosts.neighbour, root, pod + "15006", "refused"},
		{"the outbound port is refused", hosts.neighbour, root, pod + "15001", "refused"},
		{"outgoing is captured", hosts.pod, app, neighbour + "9090", "port 15001"},
		{"root's too", hosts.pod, root, neighbour + "9090", "port 15001"},
		{"and what goes to others' proxies", hosts.pod, app, neighbour + "15006", "port 15001"},
		{"the proxy's user is exempt", hosts.pod, person{1337, 1000}, neighbour + "9090", "port 9090"},
		{"the proxy's group is no exemption", hosts.pod, person{1000, 1337}, neighbour + "9090", "port 15001"},
		{"loopback is left alone", hosts.pod, app, "127.0.0.1:8080", "port 8080"},
		{"and the pod's own address", hosts.pod, app, pod + "8080", "port 8080"},
		{"for the proxy too", hosts.pod, person{1337, 1337}, pod + "8080", "port 8080"},
		{"and for its own ports", hosts.pod, app, pod + "15006", "port 15006"},
		{"the neighbour is not captured", hosts.neighbour, app, neighbour + "8080", "port 8080"},
	} {
		if got := c.from.greeting(c.who, c.to); got != c.want {
			t.Errorf("%s: to %s answers %q, want %q", c.what, c.to, got, c.want)
		}
	}
	expectUDP(t, hosts)
}

// expectUDP proves that nothing but TCP is captured, DNS above all.
func expectUDP(t *testing.T, n network) {
	t.Helper()
	var server net.PacketConn
	n.neighbour.do(func() (err error) { server, err = net.ListenPacket("udp4", "0.0.0.0:53"); return err })
	defer server.Close()
	var client net.Conn
	n.pod.do(func() (err error) { client, err = net.Dial("udp4", neighbourIP+":53"); return err })
	defer client.Close()
	if _, err := client.Write([]byte("query")); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(5 * time.Second))
	text := make([]byte, 100)
	if size, _, err := server.ReadFrom(text); err != nil || string(text[:size]) != "query" {
		t.Errorf("UDP: %q, %v", text[:size], err)
	}
}

func TestCaptureIsIdempotentAndLeavesOthersAlone(t *testing.T) {
	ns := newNamespace(t)
	foreign := &nftables.Table{Name: "foreign", Family: nftables.TableFamilyIPv4}
	ns.do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddTable(foreign)
		conn.AddChain(&nftables.Chain{Name: "theirs", Table: foreign})
		return conn.Flush()
	})
	rules := func() (count int, chains []string) {
		ns.do(func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			all, err := conn.ListChains()
			if err != nil {
				return err
			}
			for _, ch := range all {
				chains = append(chains, ch.Table.Name+"/"+ch.Name)
				rules, err := conn.GetRules(ch.Table, ch)
				if err != nil {
					return err
				}
				count += len(rules)
			}
			return nil
		})
		return count, chains
	}
	ns.capture()
	count, chains := rules()
	if want := []string{"foreign/theirs", "garrison/refuse", "garrison/inbound", "garrison/outbound"}; !reflect.DeepEqual(chains, want) {
		t.Errorf("chains %v, want %v", chains, want)
	}
	ns.capture()
	if again, chainsAgain := rules(); again != count || !reflect.DeepEqual(chainsAgain, chains) {
		t.Errorf("%d rules in %v, then %d in %v", count, chains, again, chainsAgain)
	}
}

func TestCaptureNeedsOnlyNetAdmin(t *testing.T) {
	withOnly := func(capabilities uint32) error {
		return newNamespace(t).try(func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			data := [2]unix.CapUserData{{Effective: capabilities, Permitted: capabilities}}
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			return testCapture().Install(t.Context(), discardLog())
		})
	}
	if err := withOnly(1 << unix.CAP_NET_ADMIN); err != nil {
		t.Errorf("with NET_ADMIN: %v", err)
	}
	if err := withOnly(0); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
		t.Errorf("without: %v", err)
	}
}

func TestCaptureCheck(t *testing.T) {
	for want, spoil := range map[string]func(*Capture){
		"proxy uid":                   func(c *Capture) { c.ProxyUID = 0 },
		"must not be 0":               func(c *Capture) { c.InboundPort = 0 },
		"both 15001":                  func(c *Capture) { c.InboundPort = 15001 },
		"excluded inbound port 15006": func(c *Capture) { c.ExcludeInbound = []uint16{15006} },
		"excluded inbound port 0":     func(c *Capture) { c.ExcludeInbound = []uint16{0} },
	} {
		c := testCapture()
		spoil(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
		if err := c.Install(t.Context(), discardLog()); err == nil {
			t.Errorf("%+v: installed", c)
		}
	}
}
