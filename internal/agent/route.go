package agent

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const routeGateway = 0x2 // RTF_GATEWAY of the kernel's route flags

// defaultGateways reads the gateways of this network namespace's default routes. A
// kernel without IPv6, or one that hides its routes, has none to tell.
func defaultGateways() ([]netip.Addr, error) {
	v4, err4 := readRoutes("/proc/net/route")
	v6, err6 := readRoutes("/proc/net/ipv6_route")
	return append(parseRoutes4(v4), parseRoutes6(v6)...), errors.Join(err4, err6)
}

// kubeletPort is one at which nodes answer, if only by refusing.
const kubeletPort = 10250

// isNextHop reports whether an address is reached without a router in between: by a
// connection whose packets may not be passed on. Being refused is an answer.
func isNextHop(ctx context.Context, a netip.Addr) bool {
	d := net.Dialer{Timeout: time.Second, Control: func(network, _ string, c syscall.RawConn) error {
		var err error
		if failed := c.Control(func(fd uintptr) {
			if network == "tcp6" {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, 1)
			}
		}); failed != nil {
			return failed
		}
		return err
	}}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, kubeletPort).String())
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = conn.Close() // nothing was sent
	return true
}

func readRoutes(file string) (string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return string(text), err
}

// parseRoutes4 finds the default gateways in /proc/net/route, whose addresses are
// numbers in the machine's own byte order. What it does not understand it passes
// over.
func parseRoutes4(text string) []netip.Addr {
	var gateways []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line) // interface, destination, gateway, flags, ref, use, metric, mask, …
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		gateway, err := strconv.ParseUint(f[2], 16, 32)
		if err != nil || !throughGateway(f[3]) {
			continue
		}
		gateways = append(gateways, netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, uint32(gateway)))))
	}
	return gateways
}

// parseRoutes6 does the same for /proc/net/ipv6_route.
func parseRoutes6(text string) []netip.Addr {
	var gateways []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line) // destination, its length, source, its length, gateway, metric, ref, use, flags, interface
		if len(f) < 10 || strings.Trim(f[0], "0") != "" || f[1] != "00" {
			continue
		}
		gateway, err := hex.DecodeString(f[4])
		if err != nil || len(gateway) != 16 || !throughGateway(f[8]) {
			continue
		}
		gateways = append(gateways, netip.AddrFrom16([16]byte(gateway)))
	}
	return gateways
}

func throughGateway(flags string) bool {
	n, err := strconv.ParseUint(flags, 16, 32)
	return err == nil && n&routeGateway != 0
}
