package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/admission"
	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// config is what the command was told, checked.
type config struct {
	listen, admin      string
	level              slog.Level
	profile            bool
	kubeconfig         string
	namespace, podName string
	limits             admission.Limits
	settings           inject.Settings
}

// flags declares the settings. Each may be given as a flag, as a variable
// (GARRISON_ and the name in capitals, - and . as _), or in the file, and counts in
// that order.
func flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("injector", pflag.ContinueOnError)
	f.SortFlags = false
	f.String("config", "", "file of settings by these names, YAML")
	f.String("listen", fmt.Sprintf(":%d", mesh.WebhookPort), "address of the webhook, HTTPS")
	f.String("admin", fmt.Sprintf(":%d", mesh.MonitorPort), "address of /healthz, /readyz and /metrics, plain HTTP")
	f.String("log-level", "info", "debug, info, warn or error")
	f.Bool("profile", false, "whether /debug/pprof/ is served beside /metrics")
	f.String("kubeconfig", "", "file that says how to reach the API server; default: as a pod of its cluster")
	f.Int("concurrent-reviews", 0, "reviews held in memory at a time, others wait; 0: a default that fits 512 MiB")
	f.String("image", "", "image of the sidecar, a full reference (required)")
	f.String("debug-image", "", "image of the sidecar where proxy.privileged; default: image with -debug before its tag")
	f.String("image-pull-policy", string(corev1.PullIfNotPresent), "Always, IfNotPresent or Never")
	f.String("trust-domain", identity.DefaultTrustDomain.String(), "trust domain of the mesh")
	f.String("ca-address", "", "host:port of Citadel; default: its Service")
	f.String("revision", mesh.DefaultRevision, "revision that injected pods are marked with")
	f.Bool("proxy.privileged", false, "whether sudo and tcpdump work in the sidecar (uses debug-image)")
	f.String("proxy.cpu", "", "CPU request of the sidecar where the pod's annotations name none")
	f.String("proxy.cpu-limit", "", "CPU limit, likewise")
	f.String("proxy.memory", "", "memory request, likewise")
	f.String("proxy.memory-limit", "", "memory limit, likewise")
	return f
}

// parse reads flags, variables and file. The error reports every mistake at once;
// a nil config without one means that help was asked for and given.
func parse(args []string, out io.Writer) (*config, error) {
	f := flags()
	f.SetOutput(out)
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("argument %q: only flags are taken", f.Arg(0))
	}
	s := source{viper: viper.New()}
	s.viper.SetEnvPrefix("garrison")
	s.viper.SetEnvKeyReplacer(strings.NewReplacer("-", "_", ".", "_"))
	s.viper.AutomaticEnv()
	if err := s.viper.BindPFlags(f); err != nil {
		return nil, err
	}
	s.file(f)

	c := &config{
		listen:     s.address("listen"),
		admin:      s.address("admin"),
		profile:    s.flag("profile"),
		kubeconfig: s.text("kubeconfig"),
		namespace:  cmp.Or(os.Getenv("POD_NAMESPACE"), mesh.SystemNamespace),
		podName:    os.Getenv("POD_NAME"),
		limits:     admission.Limits{Concurrent: s.count("concurrent-reviews")},
	}
	if c.podName == "" { // outside a cluster: a developer's machine
		host, err := os.Hostname()
		s.fail("host name", err)
		c.podName = host
	}
	s.fail("log-level", c.level.UnmarshalText([]byte(s.text("log-level"))))
	domain, err := identity.ParseTrustDomain(s.text("trust-domain"))
	s.fail("trust-domain", err)
	c.settings, err = inject.NewSettings(inject.Options{
		Image:       s.text("image"),
		DebugImage:  s.text("debug-image"),
		PullPolicy:  corev1.PullPolicy(s.text("image-pull-policy")),
		Privileged:  s.flag("proxy.privileged"),
		TrustDomain: domain,
		CAAddress:   s.text("ca-address"),
		Revision:    s.text("revision"),
		CPU:         s.text("proxy.cpu"),
		CPULimit:    s.text("proxy.cpu-limit"),
		Memory:      s.text("proxy.memory"),
		MemoryLimit: s.text("proxy.memory-limit"),
	})
	s.fail("", err)
	return c, errors.Join(s.errs...)
}

// source looks settings up by name and gathers what is wrong with them.
type source struct {
	viper *viper.Viper
	errs  []error
}

func (s *source) fail(name string, err error) {
	switch {
	case err == nil:
	case name == "":
		s.errs = append(s.errs, err)
	default:
		s.errs = append(s.errs, fmt.Errorf("%s: %w", name, err))
	}
}

// file adds the file of settings, if one is named, below flags and variables.
func (s *source) file(f *pflag.FlagSet) {
	name := s.text("config")
	if name == "" {
		return
	}
	file := viper.New()
	file.SetConfigFile(name)
	file.SetConfigType("yaml")
	if err := file.ReadInConfig(); err != nil {
		s.fail("config", err)
		return
	}
	keys := file.AllKeys()
	slices.Sort(keys)
	for _, key := range keys {
		if f.Lookup(key) == nil || key == "config" {
			s.fail("config "+name, fmt.Errorf("%q is no setting", key))
		}
	}
	s.fail("config "+name, s.viper.MergeConfigMap(file.AllSettings()))
}

func (s *source) text(name string) string { return s.viper.GetString(name) }

func (s *source) flag(name string) bool {
	value, err := strconv.ParseBool(s.text(name))
	if err != nil {
		s.fail(name, fmt.Errorf("%q is neither true nor false", s.text(name)))
	}
	return value
}

func (s *source) count(name string) int {
	value, err := strconv.Atoi(s.text(name))
	if err != nil || value < 0 {
		s.fail(name, fmt.Errorf("%q is not a number from 0 on", s.text(name)))
	}
	return value
}

func (s *source) address(name string) string {
	if _, _, err := net.SplitHostPort(s.text(name)); err != nil {
		s.fail(name, fmt.Errorf("%q is not of the form host:port", s.text(name)))
	}
	return s.text(name)
}
