package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// document is one of the YAML documents of a file. A file is its documents in their
// order, byte for byte.
type document struct {
	separator []byte // the line before it, which the first may lack
	body      []byte
}

// readDocuments reads the file that a command was given, - for its input.
func readDocuments(c *cobra.Command, name string) ([]document, error) {
	if name == "" {
		return nil, mistaken(c, errors.New("--filename: missing: a file, or - for standard input"))
	}
	var content []byte
	var err error
	if name == "-" {
		content, err = io.ReadAll(c.InOrStdin())
	} else {
		content, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, err // it names the file
	}
	return splitDocuments(content), nil
}

// splitDocuments cuts at lines that begin with three dashes, which YAML allows nowhere
// else. What stands on such a line behind them, unless it is a comment, belongs to the
// document.
func splitDocuments(content []byte) []document {
	var all []document
	var d document
	for line := range bytes.Lines(content) {
		rest, found := bytes.CutPrefix(line, []byte("---"))
		if !found || len(rest) > 0 && !bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])) {
			d.body = append(d.body, line...)
			continue
		}
		if d.separator != nil || d.body != nil {
			all = append(all, d)
		}
		if text := bytes.TrimSpace(rest); len(text) == 0 || text[0] == '#' {
			d = document{separator: line}
		} else {
			d = document{separator: line[:3], body: bytes.Clone(rest)}
		}
	}
	if d.separator != nil || d.body != nil {
		all = append(all, d)
	}
	return all
}

// object returns what the document says, nil where it says nothing. It keeps whole
// numbers as they are.
func (d document) object() (map[string]any, error) {
	raw, err := yaml.YAMLToJSONStrict(d.body)
	if err != nil {
		return nil, err
	}
	var value any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &value); err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok && value != nil {
		return nil, errors.New("not an object")
	}
	return object, nil
}

// replaced returns the document with another object in it. The comments above the
// former one stay.
func (d document) replaced(object map[string]any) (document, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return d, err
	}
	content, err := yaml.JSONToYAML(raw)
	if err != nil {
		return d, err
	}
	var head []byte
	for line := range bytes.Lines(d.body) {
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
			break
		}
		head = append(head, line...)
	}
	d.body = append(head, content...)
	if d.separator != nil && !bytes.HasSuffix(d.separator, []byte("\n")) {
		d.separator = append(bytes.Clone(d.separator), '\n')
	}
	return d, nil
}

// writeDocuments writes a file again. A document that the next one would run into is
// ended.
func writeDocuments(w io.Writer, all []document) error {
	var out bytes.Buffer
	for _, d := range all {
		if b := out.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
			out.WriteByte('\n')
		}
		out.Write(d.separator)
		out.Write(d.body)
	}
	_, err := w.Write(out.Bytes())
	return err
}

// editDocuments prints a file with its pods and pod templates changed, and nothing at
// all where one of them is refused: half of a file is worse than none. Documents that
// edit leaves alone stay byte for byte.
func editDocuments(w io.Writer, all []document, edit func(carrier) (changed bool, err error)) error {
	var errs []error
	fail := func(i int, err error) { errs = append(errs, fmt.Errorf("document %d: %w", i+1, err)) }
	for i := range all {
		object, err := all[i].object()
		if err != nil {
			fail(i, err)
			continue
		}
		changed := false
		for _, pod := range carriers(object) {
			ok, err := edit(pod)
			if err != nil {
				fail(i, fmt.Errorf("%s: %w", pod, err))
			}
			changed = changed || ok
		}
		if !changed {
			continue
		}
		if all[i], err = all[i].replaced(object); err != nil {
			fail(i, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return writeDocuments(w, all)
}
