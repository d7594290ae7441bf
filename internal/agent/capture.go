package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// captureTable is ours alone: Install replaces it as a whole and touches nothing
// beside it.
const captureTable = "garrison"

// Capture says which IPv4 TCP connections of a network namespace go through the
// proxy: those that arrive from outside to InboundPort, those that leave to
// OutboundPort. Loopback is left alone, so containers of a pod talk to each other
// directly, and so is everything that the proxy's user sends, or the proxy would
// feed itself. Its group is no exemption: any container may ask for a group.
type Capture struct {
	ProxyUID       uint32 // user of the proxy
	InboundPort    uint16
	OutboundPort   uint16
	ExcludeInbound []uint16 // ports that stay reachable without the proxy
}

// Check reports values that would not capture, or would capture for ever.
func (c Capture) Check() error {
	var errs []error
	if c.ProxyUID == 0 {
		errs = append(errs, errors.New("proxy uid: 0 would exempt every process of root"))
	}
	if c.InboundPort == 0 || c.OutboundPort == 0 {
		errs = append(errs, errors.New("inbound and outbound port: must not be 0"))
	}
	if c.InboundPort == c.OutboundPort {
		errs = append(errs, fmt.Errorf("inbound and outbound port: both %d", c.InboundPort))
	}
	for _, port := range c.ExcludeInbound {
		if port == 0 || port == c.InboundPort || port == c.OutboundPort {
			errs = append(errs, fmt.Errorf("excluded inbound port %d: not a port that could be reached", port))
		}
	}
	return errors.Join(errs...)
}

// Install puts the rules into the current network namespace in one transaction,
// in place of those of an earlier call, and reads them back. It needs NET_ADMIN
// and Linux 5.9, the first to refuse connections before they are redirected.
func (c Capture) Install(ctx context.Context, log *slog.Logger) error {
	if err := c.Check(); err != nil {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("netfilter: %w", err)
	}
	chains := c.chains()
	table := &nftables.Table{Name: captureTable, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table) // deleting what is not there would fail the transaction
	conn.DelTable(table)
	conn.AddTable(table)
	for _, ch := range chains {
		added := conn.AddChain(ch.in(table))
		for _, r := range ch.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: added, Exprs: r.exprs})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("netfilter table ip %s: %w", captureTable, err)
	}
	for _, ch := range chains {
		if err := ch.verify(conn, table); err != nil {
			return fmt.Errorf("netfilter table ip %s: chain %s: %w", captureTable, ch.name, err)
		}
		for _, r := range ch.rules {
			log.InfoContext(ctx, "capture rule set", "chain", ch.name, "rule", r.text)
		}
	}
	return nil
}

// chains is the whole of the rules, as a pure function.
func (c Capture) chains() []chain {
	inbound := []rule{join(in("lo"), pass())}
	for _, port := range c.ExcludeInbound {
		inbound = append(inbound, join(tcp(), to(port), pass()))
	}
	inbound = append(inbound, join(tcp(), redirect(c.InboundPort)))
	return []chain{
		{
			// Runs before the redirect, where a captured connection still bears the
			// port that its sender dialled. One that names the proxy's own port
			// would make the proxy dial itself.
			name: "refuse", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityMangle,
			rules: []rule{
				join(in("lo"), pass()),
				join(tcp(), to(c.InboundPort), reset()),
				join(tcp(), to(c.OutboundPort), reset()),
			},
		},
		{
			name: "inbound", kind: nftables.ChainTypeNAT,
			hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityNATDest,
			rules: inbound,
		},
		{
			name: "outbound", kind: nftables.ChainTypeNAT,
			hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityNATDest,
			rules: []rule{
				join(out("lo"), pass()),
				join(user(c.ProxyUID), pass()),
				join(tcp(), redirect(c.OutboundPort)),
			},
		},
	}
}

type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

func (c chain) in(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Name: c.name, Table: t, Type: c.kind, Hooknum: c.hook, Priority: c.priority}
}

// verify compares what the kernel holds with what was asked for.
func (c chain) verify(conn *nftables.Conn, t *nftables.Table) error {
	held, err := conn.ListChain(t, c.name)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if held.Type != c.kind || held.Hooknum == nil || *held.Hooknum != *c.hook ||
		held.Priority == nil || *held.Priority != *c.priority {
		return fmt.Errorf("read back as another kind of chain")
	}
	rules, err := conn.GetRules(t, held)
	if err != nil {
		return fmt.Errorf("reading back rules: %w", err)
	}
	if !slices.EqualFunc(rules, c.rules, func(got *nftables.Rule, want rule) bool {
		return reflect.DeepEqual(got.Exprs, want.exprs)
	}) {
		return fmt.Errorf("%d rules read back, not the %d that were set", len(rules), len(c.rules))
	}
	return nil
}

// rule is one rule or a piece of one: the kernel's expressions, and the same in
// nft's own language for people.
type rule struct {
	text  string
	exprs []expr.Any
}

func join(pieces ...rule) rule {
	whole := pieces[0]
	for _, p := range pieces[1:] {
		whole.text += " " + p.text
		whole.exprs = append(whole.exprs, p.exprs...)
	}
	return whole
}

func in(device string) rule  { return onDevice("iifname", expr.MetaKeyIIFNAME, device) }
func out(device string) rule { return onDevice("oifname", expr.MetaKeyOIFNAME, device) }

func onDevice(word string, key expr.MetaKey, device string) rule {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, device)
	return rule{fmt.Sprintf("%s %q", word, device), equal(key, name)}
}

func user(uid uint32) rule {
	return rule{fmt.Sprintf("meta skuid %d", uid), equal(expr.MetaKeySKUID, binaryutil.NativeEndian.PutUint32(uid))}
}

func tcp() rule {
	return rule{"meta l4proto tcp", equal(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP})}
}

// to matches the destination port; it must follow tcp.
func to(port uint16) rule {
	return rule{fmt.Sprintf("tcp dport %d", port), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}}
}

func equal(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

func pass() rule {
	return rule{"return", []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}}
}

func redirect(port uint16) rule {
	return rule{fmt.Sprintf("redirect to :%d", port), []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}}
}

func reset() rule {
	return rule{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
}
