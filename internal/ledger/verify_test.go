package ledger

import (
	"bytes"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestVerify(t *testing.T) {
	for name, key := range map[string]func() ([]byte, Checkpoint){
		"Ed25519": func() ([]byte, Checkpoint) { return sample(t, "a", newKey(t)) },
		"P-256":   func() ([]byte, Checkpoint) { return sample(t, "a", newP256(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			text, published := key()
			r := verify(t, VerifyOptions{Published: []Checkpoint{published}}, text)
			expectWhole(t, r, 1)
			want := Chain{Replica: "a", Runs: []string{published.Run}, First: 1, Last: 7, Issued: 3, Refused: 1, Signed: 7, Published: 7,
				Head: published.Head, PublicKey: published.PublicKey}
			if diff := cmp.Diff(want, r.Chains[0], cmpopts.IgnoreUnexported(Chain{}), cmpopts.IgnoreFields(Chain{}, "Begun", "Ended")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A line may stand for many refusals, and what is counted is they.
func TestCountedRefusals(t *testing.T) {
	var out bytes.Buffer
	l, err := New(&out, Options{Replica: "a", Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, entry(1), Entry{Event: Refused, Rule: "busy", Request: "r"}, Entry{Event: Refused, Rule: "busy", Count: 37})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	counted := 0
	r := verify(t, VerifyOptions{See: func(r Record, _ Position) { counted += r.Count }}, out.Bytes())
	if expectWhole(t, r, 1); r.Chains[0].Refused != 38 || r.Chains[0].Issued != 1 || counted != 37 {
		t.Errorf("%+v, %d counted", r.Chains[0], counted)
	}
	for _, spelt := range []string{`"count":38`, `"count":037`, `"count":3.7e1`, `"count":-37`} {
		text := bytes.Replace(out.Bytes(), []byte(`"count":37`), []byte(spelt), 1)
		if r := verify(t, VerifyOptions{}, text); len(r.Breaks) == 0 {
			t.Errorf("%s: not found", spelt)
		}
	}
}

// TestNoChangeGoesUnseen holds the log to its one promise: whatever single bit is
// flipped, line removed, repeated or moved, it is found, with a published checkpoint to
// hold the end; and all but the loss of the end without one.
func TestNoChangeGoesUnseen(t *testing.T) {
	key := newKey(t)
	closed, published := sample(t, "a", key)
	broken, ends := torn(t, key)
	for name, c := range map[string]struct {
		text      []byte
		published Checkpoint
		step      int // of the bits, for time's sake: each is flipped in every so many bytes
	}{"closed": {closed, published, 2}, "torn": {broken, ends, 8}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alone, held := VerifyOptions{}, VerifyOptions{Published: []Checkpoint{c.published}}
			expectWhole(t, verify(t, held, c.text), 1)
			found := func(what string, text []byte, options ...VerifyOptions) {
				t.Helper()
				for _, o := range options {
					if r := verify(t, o, text); len(r.Breaks) == 0 {
						t.Errorf("%s: not found, with %d published checkpoints", what, len(o.Published))
					}
				}
			}
			for i := range c.text {
				for bit := i % c.step; bit < 8; bit += c.step {
					text := bytes.Clone(c.text)
					text[i] ^= 1 << bit
					found(fmt.Sprintf("byte %d, bit %d", i, bit), text, alone)
				}
			}
			lines := bytes.SplitAfter(c.text, []byte("\n"))
			lines = lines[:len(lines)-1]
			for i := range lines {
				without := bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil)
				found(fmt.Sprintf("line %d removed", i+1), without, held)
				if i < len(lines)-1 {
					found(fmt.Sprintf("line %d removed", i+1), without, alone)
				}
				twice := bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil)
				found(fmt.Sprintf("line %d repeated", i+1), twice, alone, held)
				for j := range i {
					swapped := slices.Clone(lines)
					swapped[i], swapped[j] = swapped[j], swapped[i]
					found(fmt.Sprintf("lines %d and %d swapped", j+1, i+1), bytes.Join(swapped, nil), alone, held)
					cut := bytes.Join(slices.Delete(slices.Clone(lines), j, i+1), nil)
					found(fmt.Sprintf("lines %d to %d removed", j+1, i+1), cut, held)
				}
			}
			for end := range len(c.text) - 1 { // the last line is whole without its end
				found(fmt.Sprintf("cut after %d bytes", end), c.text[:end], held)
			}
		})
	}
}

// torn returns a log whose writer was killed in mid-write, and so was the next one.
func torn(t *testing.T, key crypto.Signer) ([]byte, Checkpoint) {
	t.Helper()
	dir := t.TempDir()
	o := Options{Replica: "a", Key: key, NoSync: true}
	l := openDir(t, dir, o)
	appendAll(t, l, entry(1))
	closeLog(t, l)
	names, texts := files(t, dir)
	line, _, _ := bytes.Cut(texts[0], []byte("\n"))
	text := slices.Concat(texts[0], line[:50], []byte("\n"), line[:120])
	if err := os.WriteFile(names[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	l = openDir(t, dir, o)
	appendAll(t, l, entry(3))
	c := closeLog(t, l)
	_, texts = files(t, dir)
	return texts[0], c
}

// signedBy returns the checkpoint, signed by a key.
func signedBy(t *testing.T, key crypto.Signer, c Checkpoint) Checkpoint {
	t.Helper()
	s, err := newSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = s.sign(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// resigned makes a chain again whose checkpoints another key signs than it says.
func resigned(t *testing.T, text []byte, key crypto.Signer) []byte {
	t.Helper()
	var out []byte
	var head Hash
	for line := range bytes.Lines(text) {
		r, err := parseRecord(bytes.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		if r.Prev = head; r.Event == checkpoint {
			r.Signature = signedBy(t, key, Checkpoint{Replica: r.Replica, Run: r.Run, Seq: r.Seq - 1, Head: head, Time: r.Time}).Signature
		}
		out = append(r.appendTo(out), '\n')
		head = r.Hash
	}
	return out
}

// replaced puts another record into the place of one, with a hash that fits.
func replaced(t *testing.T, lines [][]byte, number int) []byte {
	t.Helper()
	r, err := parseRecord(bytes.TrimSpace(lines[number-1]))
	if err != nil {
		t.Fatal(err)
	}
	r.ID = "spiffe://cluster.local/ns/shop/sa/thief"
	lines = slices.Clone(lines)
	lines[number-1] = append(r.appendTo(nil), '\n')
	return bytes.Join(lines, nil)
}

func TestBreaks(t *testing.T) {
	key, other := newKey(t), newKey(t)
	text, published := sample(t, "a", key)
	lines := bytes.SplitAfter(text, []byte("\n"))
	join := func(numbers ...int) []byte {
		var all []byte
		for _, n := range numbers {
			all = append(all, lines[n-1]...)
		}
		return all
	}
	remade, _ := sample(t, "a", key)
	stranger, theirs := sample(t, "a", other)
	later := published
	later.Seq, later.Head = 9, Hash{1}
	rewritten := published
	rewritten.Head = Hash{1}
	ofAnother := published
	ofAnother.Replica, ofAnother.Run = "b", "b"
	held := func(c Checkpoint) VerifyOptions { return VerifyOptions{Published: []Checkpoint{c}} }
	for name, c := range map[string]struct {
		o    VerifyOptions
		text []byte
		kind Kind
		line int
	}{
		"changed":                    {VerifyOptions{}, bytes.Replace(text, []byte("cart"), []byte("card"), 1), Changed, 2},
		"replaced":                   {VerifyOptions{}, replaced(t, lines, 5), Changed, 6},
		"removed":                    {VerifyOptions{}, join(1, 2, 4, 5, 6, 7), Missing, 3},
		"reordered":                  {VerifyOptions{}, join(1, 2, 4, 3, 5, 6, 7), Reordered, 3},
		"repeated":                   {VerifyOptions{}, join(1, 2, 2, 3, 4, 5, 6, 7), Repeated, 3},
		"no beginning":               {VerifyOptions{}, join(3, 4, 5, 6, 7), Missing, 1},
		"beginning moved":            {VerifyOptions{}, join(2, 1, 3), Reordered, 1},
		"last line torn":             {VerifyOptions{}, text[:len(text)-20], Torn, 7},
		"end cut":                    {held(published), join(1, 2, 3, 4), Truncated, 0},
		"end cut at a checkpoint":    {held(published), join(1, 2, 3, 4, 5, 6), Truncated, 0},
		"checkpoint of more":         {held(signedBy(t, key, later)), text, Truncated, 0},
		"made again":                 {held(published), remade, Truncated, 0},
		"made again, same run":       {held(signedBy(t, key, rewritten)), text, Remade, 7},
		"made again, other key":      {held(published), stranger, OtherKey, 1},
		"of an unknown replica":      {held(signedBy(t, key, ofAnother)), remade, Unknown, 0},
		"other key than trusted":     {VerifyOptions{Keys: [][]byte{theirs.PublicKey}}, text, OtherKey, 1},
		"two keys":                   {VerifyOptions{}, append(bytes.Clone(text), stranger...), OtherKey, 8},
		"signature of a key of none": {VerifyOptions{}, resigned(t, text, other), Signature, 4},
		"whole":                      {held(published), text, "", 0},
		"two runs of one replica":    {held(published), append(bytes.Clone(remade), text...), "", 0},
		"partial":                    {VerifyOptions{Partial: true, Published: []Checkpoint{published}}, join(3, 4, 5, 6, 7), "", 0},
		"partial, hole":              {VerifyOptions{Partial: true}, join(3, 5, 6, 7), Missing, 2},
		"other text":                 {held(published), append([]byte("hello\n{\n\n"), text...), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := verify(t, c.o, c.text)
			var got Break
			if len(r.Breaks) > 0 {
				got = r.Breaks[0]
			}
			if got.Kind != c.kind || got.Line != c.line {
				t.Errorf("%v, want %q in line %d", &got, c.kind, c.line)
			}
		})
	}
	if r := verify(t, VerifyOptions{Partial: true}, join(3, 4, 5, 6, 7)); len(r.Breaks) > 0 || r.Chains[0].Unchecked != 2 {
		t.Errorf("signatures without a key: %+v", r)
	}
	if _, err := NewVerifier(VerifyOptions{Published: []Checkpoint{later}}); err == nil {
		t.Error("took a published checkpoint with a wrong signature")
	}
	if _, err := NewVerifier(VerifyOptions{Published: []Checkpoint{published}, Keys: [][]byte{theirs.PublicKey}}); err == nil {
		t.Error("took a published checkpoint of a key that is not trusted")
	}
}

// TestMixed reads two replicas' logs in one stream, as container runtimes and kubectl
// show them.
func TestMixed(t *testing.T) {
	key := newKey(t)
	a, ofA := sample(t, "a", key)
	b, ofB := sample(t, "b", key)
	linesA, linesB := strings.Split(strings.TrimSpace(string(a)), "\n"), strings.Split(strings.TrimSpace(string(b)), "\n")
	var runtime, kubectl strings.Builder
	for i := range linesA {
		const at = "2026-01-02T03:04:05.678901234Z"
		fmt.Fprintf(&runtime, "%s stdout F %s\n%s stderr F {\"msg\":\"other\"}\n%s stderr F %s\n", at, linesA[i], at, at, linesA[0])
		half := len(linesB[i]) / 2
		fmt.Fprintf(&runtime, "%s stdout P %s\n%s stderr F text\n%s stdout P %s\n%s stdout F %s\n",
			at, linesB[i][:half], at, at, linesB[i][half:half+7], at, linesB[i][half+7:])
		fmt.Fprintf(&kubectl, "[pod/a/citadel] %s\n%s %s\nsome text\n", linesA[i], at, linesB[i])
	}
	for name, text := range map[string]string{"runtime": runtime.String(), "kubectl": kubectl.String()} {
		t.Run(name, func(t *testing.T) {
			v, err := NewVerifier(VerifyOptions{Published: []Checkpoint{ofA, ofB}})
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Read(name, iotest.OneByteReader(strings.NewReader(text))); err != nil {
				t.Fatal(err)
			}
			expectWhole(t, v.Report(), 2)
			cut := text[:len(text)-len(text)/3]
			if r := verify(t, VerifyOptions{Published: []Checkpoint{ofA, ofB}}, []byte(cut)); len(r.Breaks) == 0 {
				t.Error("a cut was not found")
			}
		})
	}
}

// See shows what stands in the log, wherever a search is to find it, and only that.
func TestSeeAndSearch(t *testing.T) {
	text, _ := sample(t, "a", newKey(t))
	leaf := entry(2).Leaf
	for name, c := range map[string]struct {
		q    Query
		want []int
	}{
		"all":     {Query{}, []int{2, 3, 5, 6}},
		"event":   {Query{Event: Refused}, []int{5}},
		"log's":   {Query{Event: "checkpoint"}, nil},
		"id":      {Query{ID: "spiffe://cluster.local/ns/shop/sa/cart"}, []int{2, 3, 6}},
		"serial":  {Query{Serial: "00:04"}, []int{6}},
		"leaf":    {Query{Leaf: strings.ToUpper(leaf)}, []int{3}},
		"pod":     {Query{Pod: "x"}, nil},
		"request": {Query{Request: "r"}, []int{5}},
		"past":    {Query{To: time.Now().Add(-time.Hour)}, nil},
		"present": {Query{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour), Request: "r"}, []int{5}},
		"future":  {Query{From: time.Now().Add(time.Hour)}, nil},
	} {
		var got []int
		verify(t, VerifyOptions{See: func(r Record, at Position) {
			if c.q.Matches(r) {
				got = append(got, at.Line)
			}
		}}, text)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: lines %v, want %v", name, got, c.want)
		}
	}
}

// kept returns a log from testdata, and its last checkpoint. It was written by the first
// version: what this one cannot read of it, nobody can read any more.
func kept(t testing.TB) ([]byte, Checkpoint) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "sample.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	published, err := os.ReadFile(filepath.Join("testdata", "checkpoint.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCheckpoint(published)
	if err != nil {
		t.Fatal(err)
	}
	return text, c
}

func TestReadsWhatWasKept(t *testing.T) {
	text, published := kept(t)
	expectWhole(t, verify(t, VerifyOptions{Published: []Checkpoint{published}}, text), 1)
}

// What a stranger makes of a log is never seen as records that do not read back as they
// were, and never passes for the log that a checkpoint was published of.
func FuzzVerify(f *testing.F) {
	text, published := kept(f)
	f.Add(text)
	f.Add([]byte("2026-01-02T03:04:05.6Z stdout P {\"seq\":\n2026-01-02T03:04:05.6Z stdout F 1\n"))
	for _, line := range bytes.SplitAfter(text, []byte("\n")) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var seen []Record
		o := VerifyOptions{Published: []Checkpoint{published}, See: func(r Record, _ Position) { seen = append(seen, r) }}
		r := verify(t, o, text)
		for _, record := range seen {
			line := record.appendTo(nil)
			if again, err := parseRecord(line); err != nil || !bytes.Equal(again.appendTo(nil), line) {
				t.Errorf("%s: %v", line, err)
			}
		}
		for _, c := range r.Chains {
			if c.Published > 0 && (len(r.Chains) != 1 || c.Head != published.Head) && len(r.Breaks) == 0 {
				t.Errorf("another log passes for the published one: %+v", c)
			}
		}
	})
}
