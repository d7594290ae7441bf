package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Ranges of one version of IP leave the other alone.
func TestCaptureOfRangesOfIPv4Only(t *testing.T) {
	needIPv6(t)
	hosts := newNetwork(t)
	hosts.pod.greet(15001)
	hosts.neighbour.greet(8080)
	c := testCapture()
	c.IncludeRanges = Selection[netip.Prefix]{true, prefixes("0.0.0.0/0")}
	hosts.pod.capture(c)
	expectVisits(t, []visit{
		{"IPv4", hosts.pod, app, neighbourIP, 8080, "port 15001"},
		{"IPv6", hosts.pod, app, neighbourIP6, 8080, "port 8080"},
	})
}

// The link's own addresses are no way around the proxy.
func TestCaptureOfLinkLocal(t *testing.T) {
	needIPv6(t)
	hosts := newNetwork(t)
	hosts.pod.greet(8080)
	hosts.pod.greet(15006)
	hosts.pod.capture(testCapture())
	var local string
	eventually(t, "a link-local address", func() bool {
		hosts.pod.do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			all, err := netlink.AddrList(link, netlink.FAMILY_V6)
			for _, a := range all {
				if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
					local = a.IP.String()
				}
			}
			return err
		})
		return local != ""
	})
	eventually(t, "the neighbour's link-local address", func() bool {
		// Without one of its own, it cannot dial.
		return hosts.neighbour.greeting(root, net.JoinHostPort(local+"%eth0", "8080")) == "port 15006"
	})
}

// Pods get IPv6 switched off in their namespace, and whole nodes.
func TestCaptureWithoutIPv6(t *testing.T) {
	for _, transparent := range []bool{false, true} {
		c := testCapture()
		c.Transparent = transparent
		t.Run(fmt.Sprint("namespace, transparent ", transparent), func(t *testing.T) {
			needIPv6(t)
			ns := newNamespace(t)
			if err := ns.try(func() error {
				return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
			}); errors.Is(err, unix.EROFS) {
				t.Skip("needs a writable /proc/sys: ", err)
			} else if err != nil {
				t.Fatal(err)
			}
			ns.capture(c)
			ns.capture(c)
		})
		t.Run(fmt.Sprint("node, transparent ", transparent), func(t *testing.T) {
			newNamespace(t).do(func() error {
				if err := refuseIPv6(); err != nil {
					return err
				}
				if six, err := hasIPv6(); six || err != nil {
					t.Errorf("IPv6 found: %v, %v", six, err)
				}
				if err := c.Install(t.Context(), discardLog()); err != nil {
					return err
				}
				conn, err := nftables.New()
				if err != nil {
					return err
				}
				tables, err := conn.ListTables()
				if err == nil && (len(tables) != 1 || tables[0].Family != nftables.TableFamilyIPv4) {
					t.Errorf("%d tables", len(tables))
				}
				return err
			})
		})
	}
}

// refuseIPv6 makes the thread see a kernel without IPv6.
func refuseIPv6() error {
	numbers := map[string]uint32{"amd64": 41, "arm64": 198} // of socket(2)
	const number, firstArgument = 0, 16                     // where a filter finds these
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: numbers[runtime.GOARCH], Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: firstArgument},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_INET6, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}
