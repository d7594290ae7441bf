package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/garrison-mesh/garrison/internal/admission"
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

// flags declares what concerns the process. Each may be given as a flag or as a variable
// (GARRISON_ and the name in capitals, - as _), and the flag counts first. What concerns
// injection stands in the file of settings.
func flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("injector", pflag.ContinueOnError)
	f.SortFlags = false
	f.String("settings", "", "file of settings of injection, YAML; docs/injection.md lists them (required)")
	f.String("listen", fmt.Sprintf(":%d", mesh.WebhookPort), "address of the webhook, HTTPS")
	f.String("admin", fmt.Sprintf(":%d", mesh.MonitorPort), "address of /healthz, /readyz and /metrics, plain HTTP")
	f.String("log-level", "info", "debug, info, warn or error")
	f.Bool("profile", false, "whether /debug/pprof/ is served beside /metrics")
	f.String("kubeconfig", "", "file that says how to reach the API server; default: as a pod of its cluster")
	f.Int("concurrent-reviews", 0, "reviews held in memory at a time, others wait; 0: a default that fits 512 MiB")
	return f
}

// parse reads flags, variables and the file of settings. The error reports every mistake at once;
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
	s.viper.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	s.viper.AutomaticEnv()
	if err := s.viper.BindPFlags(f); err != nil {
		return nil, err
	}

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
	c.settings = s.settings()
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

// settings reads the file of settings.
func (s *source) settings() inject.Settings {
	name := s.text("settings")
	if name == "" {
		s.fail("settings", errors.New("missing: the file of settings of injection"))
		return inject.Settings{}
	}
	file, err := os.ReadFile(name)
	if err != nil {
		s.fail("", err) // it names the file
		return inject.Settings{}
	}
	options, err := inject.ParseOptions(file)
	if err == nil {
		var settings inject.Settings
		if settings, err = inject.NewSettings(options); err == nil {
			return settings
		}
	}
	s.fail(name, err)
	return inject.Settings{}
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
