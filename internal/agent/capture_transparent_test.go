package agent

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestTransparentKeepsTheCaller has a proxy of a few lines in Envoy's place: what
// it takes and what it dials bear the addresses of caller and application.
func TestTransparentKeepsTheCaller(t *testing.T) {
	inEveryWorld(t, func(t *testing.T, w world) {
		if !w.transparent {
			return
		}
		pod, neighbour := w.network.pod, w.network.neighbour
		each(pod.listen(net.JoinHostPort(w.pod, "7000")), func(conn net.Conn) {
			fmt.Fprintf(conn, "%s calls %s", hostOf(conn.RemoteAddr()), hostOf(conn.LocalAddr()))
		})
		proxy := w.capture()
		proxy.InboundPort = 15016 // not the one that only says its name
		pod.capture(proxy)
		expectVisits(t, []visit{{"without a proxy", neighbour, root, w.pod, 7000, "refused"}})
		host := "0.0.0.0"
		if w.loopback == "::1" {
			host = "::"
		}
		each(pod.listenTransparently(net.JoinHostPort(host, "15016")), func(conn net.Conn) {
			pod.passOn(conn)
		})
		expectVisits(t, []visit{
			{"through the proxy", neighbour, root, w.pod, 7000, w.neighbour + " calls " + w.pod},
			{"the proxy's port", neighbour, root, w.pod, 15016, "refused"},
			{"within the pod", pod, app, w.pod, 7000, w.pod + " calls " + w.pod},
		})
		pod.capture(proxy)
		pod.do(func() error {
			rules, err := netlink.RuleList(netlink.FAMILY_ALL)
			rules = slices.DeleteFunc(rules, func(r netlink.Rule) bool { return r.Mark != transparentMark })
			if want := len(anyHost(t)); len(rules) != want {
				t.Errorf("rules of the mark: %v, want %d", rules, want)
			}
			return err
		})
		expectVisits(t, []visit{{"installed again", neighbour, root, w.pod, 7000, w.neighbour + " calls " + w.pod}})
	})
}

// passOn dials where a connection was meant to go, as the one who opened it, and
// says what comes back.
func (n namespace) passOn(conn net.Conn) {
	caller := net.TCPAddr{IP: conn.RemoteAddr().(*net.TCPAddr).IP}
	to := conn.LocalAddr().String()
	var onward net.Conn
	err := n.try(func() (err error) {
		dialer := net.Dialer{LocalAddr: &caller, Control: transparent(transparentMark), Timeout: enough}
		onward, err = dialer.Dial(tcpOf(to), to)
		return err
	})
	if err != nil {
		fmt.Fprint(conn, "proxy: ", err)
		return
	}
	defer onward.Close()
	onward.SetDeadline(time.Now().Add(enough))
	text := make([]byte, 100)
	size, _ := onward.Read(text) // an error shows as an answer that is missing
	conn.Write(text[:size])
}

func hostOf(a net.Addr) string { return a.(*net.TCPAddr).IP.String() }

// greetTransparently is greet for packets that name anybody's address.
func (n namespace) greetTransparently(port int) {
	n.t.Helper()
	for _, host := range anyHost(n.t) {
		each(n.listenTransparently(fmt.Sprintf("%s:%d", host, port)), func(conn net.Conn) { fmt.Fprintf(conn, "port %d", port) })
	}
}

func (n namespace) listenTransparently(addr string) net.Listener {
	n.t.Helper()
	var l net.Listener
	n.do(func() (err error) {
		config := net.ListenConfig{Control: transparent(0)}
		l, err = config.Listen(n.t.Context(), tcpOf(addr), addr)
		return err
	})
	n.t.Cleanup(func() { l.Close() })
	return l
}

// transparent gives a socket the right to others' addresses, and a mark.
func transparent(mark int) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if network == "tcp6" {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		var set error
		return errors.Join(c.Control(func(fd uintptr) {
			set = errors.Join(
				unix.SetsockoptInt(int(fd), level, option, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark))
		}), set)
	}
}
