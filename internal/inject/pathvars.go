package inject

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Bounds of what a path may set: whoever reaches the port writes it.
const (
	maxPathVariables = 16
	maxPathPart      = 256     // bytes of a name or a value
	maxPath          = 4 << 10 // bytes, so that nothing larger is split
)

var envName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)

// PathVariables reads the variables that a webhook configuration sets on the
// sidecars it asks for, by what it adds to the path of its URL: /cluster/c/net/n, in
// pairs. The key cluster means ISTIO_META_CLUSTER_ID, net means ISTIO_META_NETWORK,
// any other is the variable's name, where capitals and _ may be written as an API
// server takes them in a path: in small letters and as - or a dot. In values,
// --slash-- stands for a slash. The old form, :ENV:cluster=c:ENV:net=n, fits only
// into a whole URL and takes values as they are.
//
// Variables come in the order of the path. The error names the part that is wrong.
func PathVariables(path string) ([]Variable, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil, nil
	}
	if len(path) > maxPath {
		return nil, fmt.Errorf("more than %d bytes", maxPath)
	}
	pairs, err := pathPairs(path)
	if err != nil {
		return nil, err
	}
	if len(pairs) > maxPathVariables {
		return nil, fmt.Errorf("sets %d variables, at most %d", len(pairs), maxPathVariables)
	}
	var vars []Variable
	for _, pair := range pairs {
		v, err := pathVariable(pair)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(vars, func(other Variable) bool { return other.Name == v.Name }) {
			return nil, fmt.Errorf("sets %s twice", v.Name)
		}
		vars = append(vars, v)
	}
	return vars, nil
}

// pathPairs splits a path into keys and values.
func pathPairs(path string) ([][2]string, error) {
	var pairs [][2]string
	if old, ok := strings.CutPrefix(path, ":ENV:"); ok {
		for pair := range strings.SplitSeq(old, ":ENV:") {
			key, value, ok := strings.Cut(pair, "=")
			if !ok {
				return nil, fmt.Errorf("%.64q is not of the form :ENV:key=value", pair)
			}
			pairs = append(pairs, [2]string{key, value})
		}
		return pairs, nil
	}
	parts := strings.Split(path, "/")
	if len(parts)%2 != 0 {
		return nil, fmt.Errorf("%.64q has no value", parts[len(parts)-1])
	}
	for pair := range slices.Chunk(parts, 2) {
		pairs = append(pairs, [2]string{pair[0], strings.ReplaceAll(pair[1], "--slash--", "/")})
	}
	return pairs, nil
}

// pathVariable checks one pair.
func pathVariable(pair [2]string) (v Variable, err error) {
	key, value := pair[0], pair[1]
	v.Value = value
	if len(key) > maxPathPart || len(value) > maxPathPart {
		return v, fmt.Errorf("%.64q: more than %d bytes", key, maxPathPart)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return v, fmt.Errorf("%q: the value %q is not text", key, value)
	}
	switch key {
	case "cluster":
		v.Name = mesh.ClusterEnv
	case "net":
		v.Name = mesh.NetworkEnv
	default:
		v.Name = strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToUpper(key))
	}
	switch {
	case key == "":
		return v, errors.New("a variable has no name")
	case !envName.MatchString(v.Name):
		return v, fmt.Errorf("%q is not the name of a variable", key)
	case ownVariable(v.Name):
		return v, fmt.Errorf("%q: %s is the injector's to set", key, v.Name)
	}
	return v, nil
}

// ownVariable reports whether the injector itself sets a variable, on this pod or
// on others. Those that a path is meant for are not among them.
func ownVariable(name string) bool {
	switch name {
	case mesh.PodNameEnv, mesh.PodNamespaceEnv, mesh.ServiceAccountEnv, mesh.InstanceIPEnv, mesh.HostIPsEnv,
		mesh.CAAddressEnv, mesh.TrustDomainEnv, mesh.ProbersEnv, mesh.PrometheusEnv, mesh.ScrapeTargetsEnv:
		return true
	}
	return false
}
