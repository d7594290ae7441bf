package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// proxyConfig is what of Istio's ProxyConfig means something here. Zero values are
// what nobody said.
type proxyConfig struct {
	hold        bool // the application until the proxy runs
	statusPort  uint16
	concurrency int32
	drain       time.Duration
	ignored     []string // keys that have no effect, sorted
}

// maxConfig bounds the YAML that is parsed for one pod.
const maxConfig = 16 << 10

// proxyConfigKeys read the keys of proxy.istio.io/config. The drain of listeners is
// one in Garrison: terminationDrainDuration is how long connections may take to end
// when the pod does, and drainDuration says it where that does not.
var proxyConfigKeys = map[string]func(*proxyConfig, json.RawMessage) error{
	"holdApplicationUntilProxyStarts": func(c *proxyConfig, v json.RawMessage) error { return read(v, &c.hold, "neither true nor false") },
	"statusPort": func(c *proxyConfig, v json.RawMessage) error {
		err := read(v, &c.statusPort, "not a port")
		if err == nil && c.statusPort == 0 {
			err = errors.New("not a port from 1 to 65535")
		}
		return err
	},
	"concurrency": func(c *proxyConfig, v json.RawMessage) error {
		err := read(v, &c.concurrency, "not a number")
		if err == nil && (c.concurrency < 0 || c.concurrency > maxConcurrency) {
			err = fmt.Errorf("not a number from 0 to %d", maxConcurrency)
		}
		return err
	},
	"drainDuration":            func(c *proxyConfig, v json.RawMessage) (err error) { c.drain, err = readDuration(v); return err },
	"terminationDrainDuration": func(c *proxyConfig, v json.RawMessage) (err error) { c.drain, err = readDuration(v); return err },
}

const (
	maxConcurrency = 128
	maxDrain       = time.Hour
)

// parse reads the annotation over what the mesh or the namespace said: each key by
// itself.
func (c *proxyConfig) parse(value string) error {
	if len(value) > maxConfig {
		return fmt.Errorf("longer than %d bytes", maxConfig)
	}
	raw, err := yaml.YAMLToJSONStrict([]byte(value))
	if err != nil {
		return errors.New("not YAML: " + cut(strings.ReplaceAll(err.Error(), "\n", " ")))
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return errors.New("not an object of settings")
	}
	c.ignored = nil
	for _, key := range slices.Sorted(maps.Keys(keys)) { // drainDuration before the one that beats it
		set, known := proxyConfigKeys[key]
		if !known {
			c.ignored = append(c.ignored, key)
			continue
		}
		if err := set(c, keys[key]); err != nil {
			return fmt.Errorf("wrong at %s: %s is %w", key, cut(string(keys[key])), err)
		}
	}
	return nil
}

// read decodes one value; problem is what it is otherwise.
func read[T any](raw json.RawMessage, into *T, problem string) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return errors.New(problem)
	}
	return nil
}

func readDuration(raw json.RawMessage) (time.Duration, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return 0, errors.New("not a duration such as 10s")
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > maxDrain {
		return 0, fmt.Errorf("not a duration from 1s to %v", maxDrain)
	}
	return d, nil
}
