package agent

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Reading back finds each expression and each element that differs from what was
// asked for.
func TestCaptureIsReadBack(t *testing.T) {
	c := everySetting()
	c.Transparent = true
	made := c.table(familyIPv4)
	newNamespace(t).do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		if err := errors.Join(made.add(conn), conn.Flush()); err != nil {
			return err
		}
		if err := made.verify(conn); err != nil {
			return err
		}
		for _, ch := range made.chains {
			for i, r := range ch.rules {
				for j, e := range r.exprs {
					other := ch
					other.rules = slices.Clone(ch.rules)
					other.rules[i].exprs = slices.Clone(r.exprs)
					other.rules[i].exprs[j] = altered(e)
					if err := other.verify(conn, made.nft()); err == nil {
						t.Errorf("chain %s: %s: expression %d passes for %+v", ch.name, r.text, j, other.rules[i].exprs[j])
					}
				}
			}
		}
		for _, s := range made.sets {
			other := s
			other.elements = slices.Clone(s.elements)
			other.elements[0].Key = slices.Clone(s.elements[0].Key)
			other.elements[0].Key[1] ^= 1
			fewer := s
			fewer.elements = s.elements[1:]
			for _, spoilt := range []set{other, fewer} {
				if err := spoilt.verify(conn, made.nft()); err == nil {
					t.Errorf("set %s: passes for %v", s.name, spoilt.elements)
				}
			}
		}
		return nil
	})
}

// altered is an expression that does something else.
func altered(e expr.Any) expr.Any {
	switch e := e.(type) {
	case *expr.Meta:
		return &expr.Meta{Key: e.Key, Register: e.Register, SourceRegister: !e.SourceRegister}
	case *expr.Ct:
		return &expr.Ct{Key: e.Key, Register: e.Register, SourceRegister: !e.SourceRegister}
	case *expr.Cmp:
		data := slices.Clone(e.Data)
		data[0] ^= 1
		return &expr.Cmp{Op: e.Op, Register: e.Register, Data: data}
	case *expr.Immediate:
		data := slices.Clone(e.Data)
		data[0] ^= 1
		return &expr.Immediate{Register: e.Register, Data: data}
	case *expr.Payload:
		return &expr.Payload{DestRegister: e.DestRegister, Base: e.Base, Offset: e.Offset + 2, Len: e.Len}
	case *expr.Bitwise:
		return &expr.Bitwise{SourceRegister: e.SourceRegister, DestRegister: e.DestRegister, Len: e.Len, Mask: []byte{1}, Xor: e.Xor}
	case *expr.Lookup:
		return &expr.Lookup{SourceRegister: e.SourceRegister, SetName: e.SetName + "s"}
	case *expr.Socket:
		return &expr.Socket{Key: expr.SocketKeyMark, Register: e.Register}
	case *expr.TProxy:
		return &expr.TProxy{Family: e.Family, RegPort: e.RegPort + 1}
	case *expr.Redir:
		return &expr.Redir{RegisterProtoMin: e.RegisterProtoMin, RegisterProtoMax: e.RegisterProtoMax}
	case *expr.Verdict:
		return &expr.Verdict{Kind: expr.VerdictDrop}
	case *expr.Reject:
		return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH}
	}
	panic(fmt.Sprintf("%T: a kind of expression that this test does not know", e))
}
