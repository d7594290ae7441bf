package inject

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Bounds of what one annotation may list: far more than anybody has written, and few
// enough for rules in a kernel and arguments of a process.
const (
	maxListed    = 256
	maxSeconds   = 24 * 60 * 60
	maxThreshold = 10_000
)

func parseBool(value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("neither true nor false")
}

// quantityForm bounds what is handed to the parser, which works exponents out
// digit by digit: comparing 1e2147483647 with anything takes minutes and gigabytes.
var quantityForm = regexp.MustCompile(`^[-+]?[0-9.]{1,32}([eE][-+]?[0-9]{1,2}|[a-zA-Z]{0,2})$`)

func parseQuantity(value string) (resource.Quantity, error) {
	var q resource.Quantity
	err := resource.ErrFormatWrong
	if quantityForm.MatchString(value) {
		q, err = resource.ParseQuantity(value)
	}
	if err != nil {
		return q, errors.New("not a quantity, such as 100m or 128Mi")
	}
	if q.Sign() <= 0 {
		return q, errors.New("not more than zero")
	}
	return q, nil
}

// parseWithin reads a whole number from low to high.
func parseWithin(value string, low, high int32) (int32, error) {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || int32(n) < low || int32(n) > high {
		return 0, fmt.Errorf("not a number from %d to %d", low, high)
	}
	return int32(n), nil
}

func parsePort(value string) (uint16, error) {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("not a port from 1 to 65535")
	}
	return uint16(n), nil
}

// everything is what a list says that leaves nothing out.
const everything = "*"

// list is a checked list of an annotation as the agent takes it: comma separated,
// without spaces, in the author's order; or [everything].
type list string

// parseList reads a comma separated list; where star is allowed it may stand alone.
// An empty list is a list.
func parseList(value string, star bool, check func(word string) (string, error)) (list, error) {
	value = strings.TrimSpace(value)
	if value == "" {
		return "", nil
	}
	if value == everything {
		if !star {
			return "", errors.New("not allowed: * has no meaning in this one")
		}
		return everything, nil
	}
	var words []string
	for word := range strings.SplitSeq(value, ",") {
		word, err := check(strings.TrimSpace(word))
		if err != nil {
			return "", fmt.Errorf("not such a list: %s is %w", quote(word), err)
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
		if len(words) > maxListed {
			return "", fmt.Errorf("a list of more than %d", maxListed)
		}
	}
	return list(strings.Join(words, ",")), nil
}

func parsePorts(value string, star bool) (list, error) {
	return parseList(value, star, func(word string) (string, error) {
		port, err := parsePort(word)
		if err != nil {
			return word, err
		}
		return strconv.Itoa(int(port)), nil
	})
}

func parseRanges(value string, star bool) (list, error) {
	return parseList(value, star, func(word string) (string, error) {
		prefix, err := netip.ParsePrefix(word)
		if err != nil || prefix.Addr().Is4In6() {
			return word, errors.New("not a range such as 10.0.0.0/8")
		}
		return prefix.Masked().String(), nil
	})
}

// reservedPorts are the sidecar's own, which nothing of the application listens on.
func reservedPorts(statusPort uint16) []uint16 {
	return []uint16{mesh.EnvoyAdminPort, mesh.OutboundPort, mesh.InboundPort, statusPort, mesh.AgentPort, mesh.ReadinessPort, mesh.EnvoyStatsPort}
}

// parseScrapeTargets reads port:path, comma separated. Which ports are reserved is
// known only with the status port.
func parseScrapeTargets(value string) (list, error) {
	return parseList(value, false, func(word string) (string, error) {
		port, path, _ := strings.Cut(word, ":")
		n, err := parsePort(port)
		if err != nil {
			return word, err
		}
		if path == "" {
			path = defaultMetricsPath
		}
		if err := checkPath(path); err != nil {
			return word, err
		}
		return strconv.Itoa(int(n)) + ":" + path, nil
	})
}

func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("not a path that begins with / and has no spaces")
	}
	return nil
}
