package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// A record has one encoding. These are how it begins and what it ends with: by either
// of them a line is taken for a record, so that one that is spoilt at one end is not
// passed over as other text.
const (
	lineStart = `{"seq":`
	hashStart = `,"hash":"`
	lineEnd   = `"}`

	hashLength = len(hashStart) + 2*sha256.Size + len(lineEnd)
)

// appendTo encodes the record without its end of line, sets its hash and returns the
// longer b.
func (r *Record) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, lineStart...)
	b = strconv.AppendUint(b, r.Seq, 10)
	b = append(b, `,"prev":"`...)
	b = hex.AppendEncode(b, r.Prev[:])
	b = append(b, `","run":`...)
	b = appendString(b, r.Run)
	b = append(b, `,"time":"`...)
	b = appendTime(b, r.Time)
	b = append(b, `","event":`...)
	b = appendString(b, r.Event)
	b = appendField(b, `,"id":`, r.ID)
	if len(r.DNS) > 0 {
		between := `,"dns":[`
		for _, name := range r.DNS {
			b = append(b, between...)
			b = appendString(b, name)
			between = ","
		}
		b = append(b, ']')
	}
	b = appendField(b, `,"serial":`, r.Serial)
	b = appendField(b, `,"leaf":`, r.Leaf)
	b = appendField(b, `,"spki":`, r.Key)
	b = appendField(b, `,"issuer":`, r.Issuer)
	if !r.NotAfter.IsZero() {
		b = append(b, `,"notAfter":"`...)
		b = appendTime(b, r.NotAfter)
		b = append(b, '"')
	}
	b = appendField(b, `,"how":`, r.How)
	b = appendField(b, `,"pod":`, r.Pod)
	b = appendField(b, `,"node":`, r.Node)
	b = appendField(b, `,"peer":`, r.Peer)
	b = appendField(b, `,"request":`, r.Request)
	b = appendField(b, `,"policy":`, r.Policy)
	b = appendField(b, `,"code":`, r.Code)
	b = appendField(b, `,"rule":`, r.Rule)
	b = appendField(b, `,"reason":`, r.Reason)
	if r.Count > 0 {
		b = strconv.AppendInt(append(b, `,"count":`...), int64(r.Count), 10)
	}
	b = appendField(b, `,"replica":`, r.Replica)
	b = appendBytes(b, `,"publicKey":"`, r.PublicKey)
	b = appendBytes(b, `,"signature":"`, r.Signature)
	if len(r.Torn) > 0 {
		between := `,"torn":["`
		for _, h := range r.Torn {
			b = append(b, between...)
			b = hex.AppendEncode(b, h[:])
			between = `","`
		}
		b = append(b, `"]`...)
	}
	r.Hash = sha256.Sum256(b[start:])
	b = append(b, hashStart...)
	b = hex.AppendEncode(b, r.Hash[:])
	return append(b, lineEnd...)
}

func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, name...), value)
}

func appendBytes(b []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(b, name...)
	b = base64.StdEncoding.AppendEncode(b, value)
	return append(b, '"')
}

func appendTime(b []byte, t time.Time) []byte { return t.UTC().AppendFormat(b, time.RFC3339Nano) }

// appendString writes a JSON string of printable ASCII only: no byte of a stranger ends
// a line, moves a terminal's cursor or turns the direction of writing. Bytes that are
// not UTF-8 become the replacement character.
func appendString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	escape := func(u uint16) {
		b = append(b, '\\', 'u', digits[u>>12], digits[u>>8&15], digits[u>>4&15], digits[u&15])
	}
	b = append(b, '"')
	plain := 0 // up to where nothing needs to be escaped
	for plain < len(s) && ' ' <= s[plain] && s[plain] < 0x7f && s[plain] != '"' && s[plain] != '\\' {
		plain++
	}
	b = append(b, s[:plain]...)
	for i := plain; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch i++; {
			case c == '"', c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7f:
				escape(uint16(c))
			default:
				b = append(b, c)
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
			escape(uint16(high)) //nolint:gosec // surrogates have 16 bits
			escape(uint16(low))  //nolint:gosec // likewise
		} else {
			escape(uint16(r)) //nolint:gosec // what needs no surrogates has 16 bits
		}
	}
	return append(b, '"')
}

// isRecord reports whether a line is a record, or was one.
func isRecord(line []byte) bool {
	if bytes.HasPrefix(line, []byte(lineStart)) {
		return true
	}
	end := len(line) - hashLength
	return end > 0 && bytes.HasPrefix(line[end:], []byte(hashStart)) && bytes.HasSuffix(line, []byte(lineEnd))
}

var (
	errForm = errors.New("not in the form that a log writes")
	errHash = errors.New("does not fit its own hash")
)

// parseRecord reads a line. What it accepts is, byte for byte, what appendTo makes of
// the result.
func parseRecord(line []byte) (Record, error) {
	end := len(line) - hashLength
	if end <= 0 || !bytes.HasPrefix(line[end:], []byte(hashStart)) {
		return Record{}, errors.New("not a whole line")
	}
	var have Hash
	if have.UnmarshalText(line[end+len(hashStart):len(line)-len(lineEnd)]) != nil || have != sha256.Sum256(line[:end]) {
		return Record{}, errHash
	}
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", errForm, err)
	}
	if again := r.appendTo(nil); !bytes.Equal(again, line) {
		return Record{}, fmt.Errorf("%w; a newer version may read it", errForm)
	}
	return r, nil
}
