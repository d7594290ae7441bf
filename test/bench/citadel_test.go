package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestInstalled(t *testing.T) {
	manifest, err := os.ReadFile("../../manifests/base/citadel.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range installed() {
		name, value, _ := strings.Cut(e, "=")
		entry := fmt.Sprintf("{name: %s, value: %s}", name, value)
		if !strings.Contains(strings.ReplaceAll(string(manifest), `"`, ""), entry) {
			t.Errorf("the manifest has no %s", entry)
		}
	}
}
