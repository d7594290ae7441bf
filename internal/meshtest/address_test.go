package meshtest

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// The port is for the server that asks for it, and before that nobody's.
func TestAddress(t *testing.T) {
	addr := Address(t)
	if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("before anybody listens: %v, %v", conn, err)
	}
	// What the kernel hands out by chance is as good as asked for without SO_REUSEADDR.
	alone := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		return errors.Join(c.Control(func(fd uintptr) {
			set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0)
		}), set)
	}}
	if l, err := alone.Listen(t.Context(), "tcp", addr); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("for somebody else: %v, %v", l, err)
	}
	var server net.ListenConfig
	for range 2 { // it may be started again
		l, err := server.Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
