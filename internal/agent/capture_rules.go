package agent

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// transparentMark is on packets that belong to connections which the proxy takes
// or makes in others' names. Istio's number: administrators know it.
const transparentMark = 1337

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
		whole.exprs = append(slices.Clip(whole.exprs), p.exprs...)
	}
	return whole
}

// What a rule matches.

func in(device string) rule  { return onDevice("iifname", expr.MetaKeyIIFNAME, device) }
func out(device string) rule { return onDevice("oifname", expr.MetaKeyOIFNAME, device) }

func onDevice(word string, key expr.MetaKey, device string) rule {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, device)
	return rule{fmt.Sprintf("%s %q", word, device), equal(key, name)}
}

func user(uid uint32) rule  { return owner("skuid", expr.MetaKeySKUID, uid) }
func group(gid uint32) rule { return owner("skgid", expr.MetaKeySKGID, gid) }

func owner(word string, key expr.MetaKey, id uint32) rule {
	return rule{fmt.Sprintf("meta %s %d", word, id), equal(key, binaryutil.NativeEndian.PutUint32(id))}
}

func tcp() rule {
	return rule{"meta l4proto tcp", equal(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP})}
}

func marked() rule {
	return rule{fmt.Sprintf("meta mark 0x%08x", transparentMark), equal(expr.MetaKeyMARK, binaryutil.NativeEndian.PutUint32(transparentMark))}
}

func ofMarkedConnection() rule {
	return rule{fmt.Sprintf("ct mark 0x%08x", transparentMark), []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(transparentMark)},
	}}
}

// ofTransparentSocket matches packets of connections that the proxy has taken.
func ofTransparentSocket() rule {
	return rule{"socket transparent 1", []expr.Any{
		&expr.Socket{Key: expr.SocketKeyTransparent, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}}
}

// to matches TCP to a port.
func to(port uint16) rule {
	return rule{fmt.Sprintf("tcp dport %d", port), append(destinationPort(),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)})}
}

// opening matches the first packet of a connection; it must follow a match of TCP.
func opening() rule {
	const syn, finSynRstAck = 0x02, 0x17
	return rule{"tcp flags syn / fin,syn,rst,ack", []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{finSynRstAck}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
	}}
}

// toPortsOf matches TCP to a port of the set.
func toPortsOf(set string) rule {
	return rule{"tcp dport @" + set, append(destinationPort(), &expr.Lookup{SourceRegister: 1, SetName: set})}
}

func destinationPort() []expr.Any {
	return append(tcp().exprs, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// toRangesOf matches destinations in the ranges of the set.
func toRangesOf(f family, set string) rule {
	return rule{f.name + " daddr @" + set, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: f.address.Bytes},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

func equal(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

// What a rule does.

func pass() rule   { return rule{"return", []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}} }
func accept() rule { return rule{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}} }

func reset() rule {
	return rule{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
}

func redirect(port uint16) rule {
	return rule{fmt.Sprintf("redirect to :%d", port), []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}}
}

// tproxy hands a packet to the transparent socket at the port, as it is. Where
// there is none, the rest of the rule does not count.
func tproxy(f family, port uint16) rule {
	return rule{fmt.Sprintf("tproxy to :%d", port), []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.TProxy{Family: byte(f.nft), RegPort: 1},
	}}
}

func setMark() rule {
	return rule{fmt.Sprintf("meta mark set 0x%08x", transparentMark), []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(transparentMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}}
}

func saveMark() rule {
	return rule{"ct mark set meta mark", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1},
	}}
}

func restoreMark() rule {
	return rule{"meta mark set ct mark", []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}}
}
