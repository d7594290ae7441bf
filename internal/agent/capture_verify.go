package agent

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// verify compares what the kernel holds with what was asked for.
func (t *table) verify(conn *nftables.Conn) error {
	for _, s := range t.sets {
		if err := s.verify(conn, t.nft()); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	for _, ch := range t.chains {
		if err := ch.verify(conn, t.nft()); err != nil {
			return fmt.Errorf("chain %s: %w", ch.name, err)
		}
	}
	return nil
}

func (s set) verify(conn *nftables.Conn, t *nftables.Table) error {
	held, err := conn.GetSetByName(t, s.name)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if held.Interval != s.interval || held.KeyType.Bytes != s.key.Bytes {
		return errors.New("read back as another kind of set")
	}
	elements, err := conn.GetSetElements(held)
	if err != nil {
		return fmt.Errorf("reading back elements: %w", err)
	}
	// The kernel has them in an order of its own. No two have the same key: see
	// intervals.
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
	if !slices.EqualFunc(elements, s.elements, func(got, want nftables.SetElement) bool {
		return bytes.Equal(got.Key, want.Key) && got.IntervalEnd == want.IntervalEnd
	}) {
		return fmt.Errorf("%d elements read back, not the %d that were set", len(elements), len(s.elements))
	}
	return nil
}

func (c chain) verify(conn *nftables.Conn, t *nftables.Table) error {
	held, err := conn.ListChain(t, c.name)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if held.Type != c.kind || held.Hooknum == nil || *held.Hooknum != *c.hook ||
		held.Priority == nil || *held.Priority != *c.priority {
		return errors.New("read back as another kind of chain")
	}
	rules, err := heldRules(t, c.name)
	if err != nil {
		return fmt.Errorf("reading back rules: %w", err)
	}
	if !slices.EqualFunc(rules, c.rules, func(got []heldExpr, want rule) bool {
		return slices.EqualFunc(got, want.exprs, func(got heldExpr, want expr.Any) bool {
			return got.is(byte(t.Family), want)
		})
	}) {
		return fmt.Errorf("%d rules read back, not the %d that were set", len(rules), len(c.rules))
	}
	return nil
}

// heldExpr is an expression as the kernel describes it.
type heldExpr struct {
	name string
	data []byte
}

// heldRules reads a chain. [nftables.Conn.GetRules] would silently leave out
// expressions that it does not know, tproxy and socket among them.
func heldRules(t *nftables.Table, chain string) ([][]heldExpr, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(t.Family)})
	req.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)))
	req.AddData(nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(chain)))
	messages, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, err
	}
	rules := make([][]heldExpr, len(messages))
	for i, m := range messages {
		attributes, err := attributesOf(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, err
		}
		list, err := nl.ParseRouteAttr(attributes[unix.NFTA_RULE_EXPRESSIONS])
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			held, err := decodeExpr(e.Value)
			if err != nil {
				return nil, err
			}
			rules[i] = append(rules[i], held)
		}
	}
	return rules, nil
}

// is reports whether the expression is the one that was asked for: by its
// attributes, or where the kernel adds or leaves out defaults, by what they mean.
// Decoding alone would not do, since it does not know all of tproxy and ct.
func (h heldExpr) is(family byte, want expr.Any) bool {
	whole, err := expr.Marshal(family, want)
	if err != nil {
		return false
	}
	asked, err := decodeExpr(whole)
	if err != nil || asked.name != h.name {
		return false
	}
	got, errGot := attributesOf(h.data)
	ask, errAsk := attributesOf(asked.data)
	if errGot == nil && errAsk == nil && maps.EqualFunc(got, ask, bytes.Equal) {
		return true
	}
	decoded := reflect.New(reflect.TypeOf(want).Elem()).Interface().(expr.Any)
	return expr.Unmarshal(family, h.data, decoded) == nil && reflect.DeepEqual(decoded, want)
}

func decodeExpr(whole []byte) (heldExpr, error) {
	parts, err := attributesOf(whole)
	return heldExpr{strings.TrimRight(string(parts[unix.NFTA_EXPR_NAME]), "\x00"), parts[unix.NFTA_EXPR_DATA]}, err
}

// attributesOf reads netlink attributes of which each is there at most once.
func attributesOf(data []byte) (map[uint16][]byte, error) {
	list, err := nl.ParseRouteAttr(data)
	if err != nil {
		return nil, err
	}
	attributes := make(map[uint16][]byte, len(list))
	for _, a := range list {
		attributes[a.Attr.Type&^(syscall.NLA_F_NESTED|syscall.NLA_F_NET_BYTEORDER)] = a.Value
	}
	return attributes, nil
}
