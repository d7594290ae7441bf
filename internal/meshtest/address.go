package meshtest

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// Address returns an address of loopback, host:port, for a server that starts later and
// says by itself where it listens, maybe in another process. Until then nobody listens
// there: who connects is refused.
//
// Until the test ends the port is kept from whoever takes any that is free, other tests and
// outgoing connections among them: to listen at one, and stop, gives it back to all of them.
// A server gets it nevertheless, as it asks for that very port and, as Go and Envoy do,
// for SO_REUSEADDR.
func Address(t testing.TB) string {
	t.Helper()
	bound, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(bound) })
	syscall.CloseOnExec(bound)
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if err := syscall.SetsockoptInt(bound, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(bound, &syscall.SockaddrInet4{Addr: loopback.As4()}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(bound)
	if err != nil {
		t.Fatal(err)
	}
	taken, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		t.Fatalf("a socket of %T", name)
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback, uint16(taken.Port))).String()
}
