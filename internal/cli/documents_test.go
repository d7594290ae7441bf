package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func bodies(documents []document) []string {
	var all []string
	for _, d := range documents {
		all = append(all, string(d.body))
	}
	return all
}

func TestSplitDocuments(t *testing.T) {
	for content, want := range map[string][]string{
		"":                              nil,
		"a: b\n":                        {"a: b\n"},
		"a: b":                          {"a: b"},
		"---\na: b\n---\nc: d\n":        {"a: b\n", "c: d\n"},
		"# x\n---\na: b\n":              {"# x\n", "a: b\n"},
		"a: b\n---\n---\nc: d\n---\n":   {"a: b\n", "", "c: d\n", ""},
		"--- # one\r\na: b\r\n--- \r\n": {"a: b\r\n", ""},
		"--- {a: b}\n---\nc: d\n":       {" {a: b}\n", "c: d\n"},
		"--- |\n x\n":                   {" |\n x\n"},
		"a: |\n  ---\n  x\n----\n":      {"a: |\n  ---\n  x\n----\n"},
		"{\"a\": \"---\"}\n":            {"{\"a\": \"---\"}\n"},
	} {
		if diff := cmp.Diff(want, bodies(splitDocuments([]byte(content)))); diff != "" {
			t.Errorf("%q: -want +got\n%s", content, diff)
		}
	}
}

// Whatever a file is, what nobody edits comes out as it went in.
func FuzzDocuments(f *testing.F) {
	for _, seed := range []string{"a: b\n--- # c\nkind: Pod\n", "--- {a: b}\n---\n", "---", "\r\n---\r", "- 1\n", "kind: List\nitems: [1, {kind: Pod, apiVersion: v1}]\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		var out bytes.Buffer
		if err := writeDocuments(&out, splitDocuments([]byte(content))); err != nil || out.String() != content {
			t.Errorf("%q became %q, %v", content, &out, err)
		}
		out.Reset()
		err := editDocuments(&out, splitDocuments([]byte(content)), func(c carrier) (bool, error) {
			_, err := c.pod("ns")
			return false, err
		})
		if err == nil && out.String() != content || err != nil && out.Len() > 0 {
			t.Errorf("%q became %q, %v", content, &out, err)
		}
	})
}

// A document that is replaced stands where it stood, below its comments.
func TestReplacedDocuments(t *testing.T) {
	for content, want := range map[string]string{
		"# top\n\n# and\nkind: Pod\napiVersion: v1\n---\nc: d": "# top\n\n# and\napiVersion: v1\nkind: Pod\nnew: true\n---\nc: d",
		"--- {kind: Pod, apiVersion: v1}\n---\n":               "---\napiVersion: v1\nkind: Pod\nnew: true\n---\n",
		"a: b\n---\n{kind: Pod, apiVersion: v1}":               "a: b\n---\napiVersion: v1\nkind: Pod\nnew: true\n",
	} {
		var out bytes.Buffer
		err := editDocuments(&out, splitDocuments([]byte(content)), func(c carrier) (bool, error) {
			c.object["new"] = true
			return true, nil
		})
		if diff := cmp.Diff(want, out.String()); err != nil || diff != "" {
			t.Errorf("%q: %v, -want +got\n%s", content, err, diff)
		}
	}
}

// Mistakes in several documents are reported together, and nothing is printed.
func TestEditDocumentsReportsAll(t *testing.T) {
	const content = "{kind: Pod, apiVersion: v1, metadata: {name: a, namespace: b}}\n---\n- 1\n---\n{kind: Pod, apiVersion: v1, metadata: {generateName: c-}}\n"
	var out bytes.Buffer
	err := editDocuments(&out, splitDocuments([]byte(content)), func(carrier) (bool, error) { return true, io.ErrUnexpectedEOF })
	const want = "document 1: pod b/a: unexpected EOF\ndocument 2: not an object\ndocument 3: pod c-: unexpected EOF"
	if err == nil || err.Error() != want || out.Len() > 0 {
		t.Errorf("%v, printed %q; want %s", err, &out, want)
	}
}

// A file may come by standard input.
func TestStandardInput(t *testing.T) {
	const content = "# x\nkind: Service\n"
	for _, args := range [][]string{{"uninject", "-f", "-"}, {"inject", "-f", "-", "--offline", "--settings", writeFile(t, "image: a/b:c\n")}} {
		var out bytes.Buffer
		err := Run(t.Context(), Env{In: strings.NewReader(content), Out: &out, Err: io.Discard}, args...)
		if err != nil || out.String() != content {
			t.Errorf("%v: %v, %q", args, err, &out)
		}
	}
}
