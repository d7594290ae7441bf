package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// asData prints what a command found as JSON or YAML.
func asData(w io.Writer, format string, found any) error {
	content, err := json.MarshalIndent(found, "", "  ")
	if err != nil {
		return err
	}
	content = append(content, '\n')
	if format == formatYAML {
		if content, err = yaml.JSONToYAML(content); err != nil {
			return err
		}
	}
	_, err = w.Write(content)
	return err
}

const (
	formatJSON = "json"
	formatYAML = "yaml"
)

func checkFormat(format string) error {
	switch format {
	case "", formatJSON, formatYAML:
		return nil
	}
	return fmt.Errorf("--output %q: neither %s nor %s", format, formatJSON, formatYAML)
}
