package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A network with two hosts, each a network namespace: a pod, and a neighbour on
// the other end of its only link.
const (
	podIP        = "10.77.0.2"
	neighbourIP  = "10.77.0.1"
	podIP6       = "fd77::2" // where the kernel has IPv6
	neighbourIP6 = "fd77::1"
)

type network struct{ pod, neighbour namespace }

type namespace struct {
	t      testing.TB
	handle netns.NsHandle
}

func newNetwork(t testing.TB) network {
	t.Helper()
	n := network{newNamespace(t), newNamespace(t)}
	n.neighbour.do(func() error {
		link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(n.pod.handle)}
		link.Name = "eth0"
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		return hostAddresses(neighbourIP, neighbourIP6)
	})
	n.pod.do(func() error { return hostAddresses(podIP, podIP6) })
	return n
}

// hostAddresses gives a host its addresses, the second where there is IPv6.
func hostAddresses(ip, ip6 string) error {
	six, err := hasIPv6()
	if err != nil || !six {
		return errors.Join(err, address(ip+"/24"))
	}
	return errors.Join(address(ip+"/24"), address(ip6+"/64"))
}

// address adds one to eth0.
func address(cidr string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD // usable at once
	}
	return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
}

func needIPv6(t testing.TB) {
	t.Helper()
	six, err := hasIPv6()
	if err != nil {
		t.Fatal(err)
	}
	if !six {
		t.Skip("needs IPv6")
	}
}

func newNamespace(t testing.TB) namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	made := make(chan error)
	ns := namespace{t: t}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		var err error
		if ns.handle, err = netns.New(); err == nil {
			var lo netlink.Link
			if lo, err = netlink.LinkByName("lo"); err == nil {
				err = netlink.LinkSetUp(lo)
			}
		}
		made <- err
	}()
	if err := <-made; errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make network namespaces: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.handle.Close() })
	return ns
}

// do runs f on a thread of its own in the namespace. What f opens stays there.
func (n namespace) do(f func() error) {
	n.t.Helper()
	if err := n.try(f); err != nil {
		n.t.Fatal(err)
	}
}

func (n namespace) try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: f may have changed who the thread is
		err := netns.Set(n.handle)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// tcpOf is the network of an address. Go's "tcp" would listen at 0.0.0.0 for IPv6,
// too.
func tcpOf(addr string) string {
	if strings.HasPrefix(addr, "[") {
		return "tcp6"
	}
	return "tcp4"
}

func (n namespace) listen(addr string) net.Listener {
	n.t.Helper()
	var l net.Listener
	n.do(func() (err error) { l, err = net.Listen(tcpOf(addr), addr); return err })
	n.t.Cleanup(func() { l.Close() })
	return l
}

// root stands for an application that runs as root; others are numbers.
var root = person{}

type person struct{ uid, gid int }

// dial opens a connection from the namespace on behalf of a user.
func (n namespace) dial(who person, addr string) (conn net.Conn, err error) {
	err = n.try(func() error {
		// The kernel knows a socket's owner by the thread's file system ids.
		if _, err := unix.SetfsgidRetGid(who.gid); err != nil {
			return err
		}
		if _, err := unix.SetfsuidRetUid(who.uid); err != nil {
			return err
		}
		conn, err = net.DialTimeout(tcpOf(addr), addr, enough)
		return err
	})
	return conn, err
}

// greet makes a port say its name to whoever connects.
func (n namespace) greet(port int) {
	n.t.Helper()
	for _, host := range anyHost(n.t) {
		each(n.listen(fmt.Sprintf("%s:%d", host, port)), func(conn net.Conn) { fmt.Fprintf(conn, "port %d", port) })
	}
}

// anyHost is every address, of each version of IP that there is.
func anyHost(t testing.TB) []string {
	t.Helper()
	if six, err := hasIPv6(); err != nil {
		t.Fatal(err)
	} else if six {
		return []string{"0.0.0.0", "[::]"}
	}
	return []string{"0.0.0.0"}
}

// each serves the listener's connections until it is closed.
func each(l net.Listener, serve func(net.Conn)) {
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
}

// greeting tells who answers: "port N", "refused" or the error.
func (n namespace) greeting(who person, addr string) string {
	conn, err := n.dial(who, addr)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "refused"
	}
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(enough))
	text := make([]byte, 100)
	size, err := conn.Read(text)
	if err != nil {
		return err.Error()
	}
	return string(text[:size])
}
