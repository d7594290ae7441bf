package ledger

import (
	"bytes"
	"strings"
	"testing"
)

// What strangers send stays within its line, in printable ASCII, and holds no secrets.
func TestStrangersText(t *testing.T) {
	var out bytes.Buffer
	l, err := New(&out, Options{Replica: "a", Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("ü", 4000)
	for text, want := range map[string]string{
		"a\r\nb\x00c\x1b[2J\x7f":     "a\r\nb\x00c\x1b[2J\x7f",
		`"},{"seq":1,"hash":"`:       `"},{"seq":1,"hash":"`,
		"\xff\xfe\xc3":               "\ufffd\ufffd\ufffd",
		"\u202eevil\u2028\u0085 😀 é": "\u202eevil\u2028\u0085 😀 é",
		long:                         long[:2048] + "...",
		"x" + long:                   "x" + long[:2046] + "...",
		"bearer eyJhbGciOi.e.s":      "(left out: may hold a key or a token)",
		"-----BEGIN EC PRIVATE KEY-": "(left out: may hold a key or a token)",
	} {
		out.Reset()
		appendAll(t, l, Entry{Event: Refused, Reason: text, DNS: []string{text}, Peer: text})
		for _, c := range out.Bytes() {
			if c != '\n' && (c < ' ' || c > '~') {
				t.Fatalf("%q: byte %#x in %q", text, c, out.Bytes())
			}
		}
		if n := strings.Count(out.String(), "\n"); n != 1 {
			t.Errorf("%q: %d lines", text, n)
		}
		r, err := parseRecord(bytes.TrimSpace(out.Bytes()))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if r.Reason != want || r.Peer != want || r.DNS[0] != want {
			t.Errorf("%q: %q, want %q", text, r.Reason, want)
		}
	}
}
