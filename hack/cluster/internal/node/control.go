package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/settings"
)

// What the host may ask of node 1.
const (
	StopAPIServer  = "stop-apiserver"  // and with it the whole control plane; pods go on
	StartAPIServer = "start-apiserver" // which does not wait until it is ready
	Load           = "load"            // the images of the layouts, as they are now
)

const controlSocket = "control.sock"

// Ask asks the node whose first process is pid, and waits for its answer. The
// way to its socket leads through that process's own view of the file system:
// no path is too long for a socket, and none is left behind.
func Ask(ctx context.Context, pid int, request string) error {
	path := filepath.Join("/proc", strconv.Itoa(pid), "root", settings.Run, controlSocket)
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintln(c, request); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if a := strings.TrimSpace(string(answer)); a != "ok" {
		return fmt.Errorf("%s: %s", request, a)
	}
	return nil
}

// control answers the host, one request a connection.
type control struct {
	log       *slog.Logger
	apiserver *toggle      // nil on a node without one
	load      func() error // nil on a node without a mirror
}

func (c *control) serve(ctx context.Context, socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		c.answer(conn)
	}
}

// answer is called for one connection at a time: the host waits its turn.
func (c *control) answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	line, err := bufio.NewReader(io.LimitReader(conn, 256)).ReadString('\n')
	if err != nil {
		return
	}
	request := strings.TrimSpace(line)
	answer := "ok"
	if err := c.do(request); err != nil {
		answer = err.Error()
	}
	c.log.Info("asked", "request", request, "answer", answer)
	fmt.Fprintln(conn, answer)
}

func (c *control) do(request string) error {
	switch {
	case c.apiserver == nil || c.load == nil:
		return errors.New("only node 1 can be asked")
	case request == StopAPIServer:
		c.apiserver.off()
	case request == StartAPIServer:
		c.apiserver.on()
	case request == Load:
		return c.load()
	default:
		return errors.New("unknown request")
	}
	return nil
}

// toggle is a program that is kept running or kept stopped.
type toggle struct {
	run func(context.Context) // until the context ends

	mu     sync.Mutex
	cancel context.CancelFunc // nil while off
	ended  chan struct{}
}

func (t *toggle) on() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel, t.ended = cancel, make(chan struct{})
	go func() { defer close(t.ended); t.run(ctx) }()
}

// off returns when the program has ended.
func (t *toggle) off() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel == nil {
		return
	}
	t.cancel()
	<-t.ended
	t.cancel = nil
}
