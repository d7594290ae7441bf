package agent

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func (n namespace) capture(c Capture) {
	n.t.Helper()
	n.do(func() error { return c.Install(n.t.Context(), discardLog()) })
}

// Two modes and two versions of IP: what is true of one is true of all, unless a
// test says otherwise.
type world struct {
	network
	transparent              bool
	pod, neighbour, loopback string // addresses
}

func inEveryWorld(t *testing.T, test func(*testing.T, world)) {
	for _, mode := range []string{"REDIRECT", "TPROXY"} {
		t.Run(mode, func(t *testing.T) {
			hosts := newNetwork(t)
			for _, port := range []int{8080, 9090, 15001, 15006, 15020, 15021, 15090} {
				if port == 15006 && mode == "TPROXY" {
					hosts.pod.greetTransparently(port)
				} else {
					hosts.pod.greet(port)
				}
				hosts.neighbour.greet(port)
			}
			w := world{hosts, mode == "TPROXY", podIP, neighbourIP, "127.0.0.1"}
			t.Run("IPv4", func(t *testing.T) { test(t, w) })
			t.Run("IPv6", func(t *testing.T) {
				needIPv6(t)
				w.pod, w.neighbour, w.loopback = podIP6, neighbourIP6, "::1"
				test(t, w)
			})
		})
	}
}

func (w world) capture() Capture {
	c := testCapture()
	c.Transparent = w.transparent
	return c
}

// visit is one connection: who opens it, where to, and who answers.
type visit struct {
	what string
	from namespace
	who  person
	host string
	port int
	want string
}

func expectVisits(t *testing.T, visits []visit) {
	t.Helper()
	for _, v := range visits {
		to := net.JoinHostPort(v.host, fmt.Sprint(v.port))
		if got := v.from.greeting(v.who, to); got != v.want {
			t.Errorf("%s: to %s answers %q, want %q", v.what, to, got, v.want)
		}
	}
}

var app = person{1000, 1000}

func TestCapture(t *testing.T) {
	inEveryWorld(t, func(t *testing.T, w world) {
		pod, neighbour := w.network.pod, w.network.neighbour
		// Twice, and a third time over rules that somebody spoilt.
		pod.capture(w.capture())
		pod.capture(w.capture())
		pod.do(func() error {
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
			if err := w.capture().table(familyIPv4).verify(conn); err == nil {
				t.Error("a spoilt chain passes for what was set")
			}
			return nil
		})
		pod.capture(w.capture())

		self, byGroup, byUser := person{1337, 1000}, "port 15001", "port 9090"
		if w.transparent {
			self, byGroup, byUser = person{0, 1337}, byUser, byGroup
		}
		expectVisits(t, []visit{
			{"incoming is captured", neighbour, root, w.pod, 8080, "port 15006"},
			{"even where nobody listens", neighbour, root, w.pod, 81, "port 15006"},
			{"excluded ports are not", neighbour, root, w.pod, 15020, "port 15020"},
			{"excluded ports are not", neighbour, root, w.pod, 15021, "port 15021"},
			{"ports not excluded are", neighbour, root, w.pod, 15090, "port 15006"},
			{"the inbound port is refused", neighbour, root, w.pod, 15006, "refused"},
			{"the outbound port is refused", neighbour, root, w.pod, 15001, "refused"},
			{"outgoing is captured", pod, app, w.neighbour, 9090, "port 15001"},
			{"root's too", pod, root, w.neighbour, 9090, "port 15001"},
			{"and what goes to others' proxies", pod, app, w.neighbour, 15006, "port 15001"},
			{"the proxy itself is exempt", pod, self, w.neighbour, 9090, "port 9090"},
			{"its group", pod, person{1000, 1337}, w.neighbour, 9090, byGroup},
			{"its user", pod, person{1337, 1000}, w.neighbour, 9090, byUser},
			{"loopback is left alone", pod, app, w.loopback, 8080, "port 8080"},
			{"and the pod's own address", pod, app, w.pod, 8080, "port 8080"},
			{"for the proxy too", pod, self, w.pod, 8080, "port 8080"},
			{"and for its own ports", pod, app, w.pod, 15006, "port 15006"},
			{"the neighbour is not captured", neighbour, app, w.neighbour, 8080, "port 8080"},
		})
	})
}

func TestCaptureOfChoices(t *testing.T) {
	const others, others6 = "10.77.0.8/29", "fd77::8/125"
	for _, c := range []struct {
		name    string
		capture func(*Capture)
		in, out string // ports of the pod, and addresses of the neighbour, that are captured
	}{
		{"all", func(*Capture) {}, "8080 9090", "neighbour:8080 neighbour:9090 other:8080 other:9090"},
		{"some inbound ports, and exclusions mean nothing", func(c *Capture) {
			c.IncludeInbound, c.ExcludeInbound = Selection[uint16]{true, []uint16{9090, 7070}}, []uint16{9090}
		}, "9090", "neighbour:8080 neighbour:9090 other:8080 other:9090"},
		{"no inbound port", func(c *Capture) { c.IncludeInbound.Limited = true }, "", "neighbour:8080 neighbour:9090 other:8080 other:9090"},
		{"all inbound ports but", func(c *Capture) { c.ExcludeInbound = []uint16{9090} }, "8080", "neighbour:8080 neighbour:9090 other:8080 other:9090"},
		{"all outbound ports but", func(c *Capture) { c.ExcludePorts = []uint16{9090} }, "8080 9090", "neighbour:8080 other:8080"},
		{"all ranges but", func(c *Capture) { c.ExcludeRanges = prefixes(others, others6) }, "8080 9090", "neighbour:8080 neighbour:9090"},
		{"some ranges", func(c *Capture) { c.IncludeRanges = Selection[netip.Prefix]{true, prefixes(others, others6)} },
			"8080 9090", "other:8080 other:9090"},
		{"some ranges, and a port elsewhere", func(c *Capture) {
			c.IncludeRanges, c.IncludePorts = Selection[netip.Prefix]{true, prefixes(others, others6)}, []uint16{9090}
		}, "8080 9090", "neighbour:9090 other:8080 other:9090"},
		{"excluded ranges beat included ports and ranges", func(c *Capture) {
			c.ExcludeRanges = prefixes(others, others6)
			c.IncludeRanges, c.IncludePorts = Selection[netip.Prefix]{true, prefixes("10.0.0.0/8", "fd00::/8")}, []uint16{9090}
		}, "8080 9090", "neighbour:8080 neighbour:9090"},
		{"excluded ports beat included ports and ranges", func(c *Capture) {
			c.ExcludePorts, c.IncludePorts = []uint16{9090}, []uint16{9090}
		}, "8080 9090", "neighbour:8080 other:8080"},
		{"no range", func(c *Capture) { c.IncludeRanges.Limited = true }, "8080 9090", ""},
		{"a port only", func(c *Capture) { c.IncludeRanges.Limited, c.IncludePorts = true, []uint16{8080} }, "8080 9090", "neighbour:8080 other:8080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inEveryWorld(t, func(t *testing.T, w world) {
				pod, neighbour := w.network.pod, w.network.neighbour
				other := "10.77.0.9"
				if w.pod == podIP6 {
					other = "fd77::9"
				}
				neighbour.do(func() error { return address(other + "/24") })
				config := w.capture()
				c.capture(&config)
				pod.capture(config)
				var visits []visit
				for _, port := range []int{8080, 9090} {
					want := fmt.Sprint("port ", port)
					if strings.Contains(c.in, fmt.Sprint(port)) {
						want = "port 15006"
					}
					visits = append(visits, visit{"in", neighbour, root, w.pod, port, want})
					for name, host := range map[string]string{"neighbour": w.neighbour, "other": other} {
						want := fmt.Sprint("port ", port)
						if strings.Contains(c.out, fmt.Sprint(name, ":", port)) {
							want = "port 15001"
						}
						visits = append(visits, visit{"out", pod, app, host, port, want})
					}
				}
				visits = append(visits,
					visit{"the proxy's ports stay shut", neighbour, root, w.pod, 15006, "refused"},
					visit{"the proxy's ports stay shut", neighbour, root, w.pod, 15001, "refused"})
				expectVisits(t, visits)
			})
		})
	}
}

func TestCaptureOfTheMostThatIsAllowed(t *testing.T) {
	c := testCapture()
	for i := range maxCaptured - len(c.ExcludeInbound) {
		if i%2 == 0 {
			c.ExcludePorts = append(c.ExcludePorts, uint16(i+1))
		} else {
			c.ExcludeRanges = append(c.ExcludeRanges, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i >> 8), byte(i)}), 24))
		}
	}
	newNamespace(t).capture(c)
}

// TestCaptureLeavesUDPAlone proves that nothing but TCP is captured, DNS above all.
func TestCaptureLeavesUDPAlone(t *testing.T) {
	n := newNetwork(t)
	n.pod.capture(testCapture())
	var server net.PacketConn
	n.neighbour.do(func() (err error) { server, err = net.ListenPacket("udp4", "0.0.0.0:53"); return err })
	defer server.Close()
	var client net.Conn
	n.pod.do(func() (err error) { client, err = net.Dial("udp4", neighbourIP+":53"); return err })
	defer client.Close()
	if _, err := client.Write([]byte("query")); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(enough))
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
	ns.capture(testCapture())
	count, chains := rules()
	want := []string{"foreign/theirs", "garrison/refuse", "garrison/inbound", "garrison/outbound"}
	if len(anyHost(t)) == 2 {
		want = append(want, want[1:]...)
	}
	if !reflect.DeepEqual(chains, want) {
		t.Errorf("chains %v, want %v", chains, want)
	}
	ns.capture(testCapture())
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
