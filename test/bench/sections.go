package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Goals. They are hopes, and nothing fails that falls short.
const (
	webhookGoal = 1.25 // CPU time × roleTyped's of the same repeat
	crowdGoal   = 1.5  // p99 × roleTyped's of the same repeat
	caGoal      = 1.4  // CPU time × roleFloorCA's of the same repeat
	caCrowdGoal = 1.5  // p99 × roleFloorCA's of the same repeat
	issueGoal   = 1.35 // CPU time of issuing alone × the standard library's
	rssGoal     = 60   // MiB
)

// plan says how long to measure, and with what beside this program.
type plan struct {
	repeats        int
	window         time.Duration // of one server in one repeat
	podWindow      time.Duration // the same, with one kind of pod alone
	podRepeats     int
	benchtime      string // of what runs inside this process
	processRepeats int
	starts         int // of the command
	creates        int // by dry run
	agents         int // in a storm
	reviews        int // tokens that the cluster's API server is asked about
	accounts       int // that have Secrets

	profile    string // folder for the servers' CPU profiles; "": none
	lab        string // the lab's command, which starts an API server
	kubeconfig string // of a cluster with Garrison installed; "": none
}

// limit keeps a window's memory bounded on machines faster than any of today.
const limit = 1_000_000

// bench runs the sections of a measurement.
type bench struct {
	plan   plan
	dir    string // for the servers' logs
	report func(...figure)
	note   func(format string, args ...any) // what there is to say beside figures
}

// missing is why a section cannot be measured here.
type missing string

func (m missing) Error() string { return string(m) }

// all measures everything, or the one section that is named. What is missing for a
// section is noted, unless it was asked for by name. An error means that something
// could not be measured; the other sections are measured all the same.
func (b bench) all(ctx context.Context, only string) error {
	var errs []error
	known := only == ""
	for _, section := range []struct {
		name    string
		measure func(context.Context) error
	}{{"webhook", b.webhook}, {"ca", b.ca}, {"process", b.process}, {"secrets", b.secrets}, {"command", b.command}, {"apiserver", b.apiserver},
		{"csr", b.csr}, {"storm", b.storm}, {"reviews", b.reviews}} {
		if only != "" && only != section.name {
			continue
		}
		known = true
		if ctx.Err() != nil {
			break
		}
		err := section.measure(ctx)
		if what, ok := errors.AsType[missing](err); ok && only == "" {
			b.note("%s: not measured: %s", section.name, what)
			continue
		}
		errs = append(errs, err)
	}
	if !known {
		return fmt.Errorf("no section %q: there are webhook, ca, process, secrets, command, apiserver, csr, storm and reviews", only)
	}
	return errors.Join(errs...)
}

// webhook measures the injector beside both floors with the mix of pods, then the
// injector and the typed floor with many clients, and with each kind of pod alone.
func (b bench) webhook(ctx context.Context) (err error) {
	mix, err := reviews()
	if err != nil {
		return err
	}
	servers, stop, err := b.start(ctx, roleTyped, roleInjector, roleDecode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	injector := newWebhook(servers[1], mix, 1)
	defer injector.client.CloseIdleConnections()
	for _, r := range mix {
		patch, err := injector.patch(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: pod %s: %w", roleInjector, r.name, err)
		}
		b.report(figure{name: "webhook." + r.name + ".pod", values: []float64{float64(len(r.pod))}, unit: "bytes"},
			figure{name: "webhook." + r.name + ".patch", values: []float64{float64(len(patch))}, unit: "bytes"})
	}
	if err := b.mixed(ctx, servers, mix); err != nil {
		return err
	}
	if err := b.crowd(ctx, servers[:2], mix); err != nil {
		return err
	}
	return b.eachPod(ctx, servers[:2], mix)
}

func (b bench) mixed(ctx context.Context, servers []*server, mix []review) error {
	contenders, done := webhooks(servers, mix, webhookClients)
	defer done()
	samples, err := rounds(ctx, b.plan.repeats, load{webhookClients, b.plan.window, limit}, contenders...)
	if err != nil {
		return err
	}
	decode, typed, injector := values(samples[roleDecode], cpu), values(samples[roleTyped], cpu), values(samples[roleInjector], cpu)
	b.report(standard("webhook."+roleDecode, samples[roleDecode], hopes{})...)
	b.report(standard("webhook."+roleTyped, samples[roleTyped], hopes{})...)
	b.report(standard("webhook."+roleInjector, samples[roleInjector], hopes{cpu: webhookGoal * median(typed), rss: rssGoal})...)
	b.report(
		figure{name: "webhook.ratio-to-decode", values: ratios(injector, decode), unit: "x"},
		figure{name: "webhook.ratio", values: ratios(injector, typed), unit: "x", goal: webhookGoal},
	)
	return nil
}

// crowd measures how long the last of many clients wait.
func (b bench) crowd(ctx context.Context, servers []*server, mix []review) error {
	contenders, done := webhooks(servers, mix, crowdClients)
	defer done()
	samples, err := rounds(ctx, b.plan.repeats, load{crowdClients, b.plan.window, limit}, contenders...)
	if err != nil {
		return err
	}
	typed, injector := values(samples[roleTyped], p99), values(samples[roleInjector], p99)
	b.report(standard("webhook.crowd."+roleTyped, samples[roleTyped], hopes{})...)
	b.report(standard("webhook.crowd."+roleInjector, samples[roleInjector], hopes{p99: crowdGoal * median(typed), rss: rssGoal})...)
	b.report(figure{name: "webhook.crowd.p99-ratio", values: ratios(injector, typed), unit: "x", goal: crowdGoal})
	return nil
}

func (b bench) eachPod(ctx context.Context, servers []*server, mix []review) error {
	spent := make(map[string][]float64) // CPU by role and pod
	for _, r := range mix {
		contenders, done := webhooks(servers, []review{r}, webhookClients)
		defer done()
		samples, err := rounds(ctx, b.plan.podRepeats, load{webhookClients, b.plan.podWindow, limit}, contenders...)
		if err != nil {
			return fmt.Errorf("pod %s: %w", r.name, err)
		}
		for role, s := range samples {
			spent[role+r.name] = values(s, cpu)
		}
		floor, injector := spent[roleTyped+r.name], spent[roleInjector+r.name]
		b.report(
			figure{name: "webhook." + r.name + "." + roleTyped + ".cpu", values: floor, unit: "ms"},
			figure{name: "webhook." + r.name + "." + roleInjector + ".cpu", values: injector, unit: "ms"},
			figure{name: "webhook." + r.name + ".ratio", values: ratios(injector, floor), unit: "x", goal: webhookGoal},
		)
	}
	for _, role := range []string{roleTyped, roleInjector} {
		b.report(figure{name: "webhook." + role + ".growth", values: ratios(spent[role+podLarge], spent[role+podSimple]), unit: "x"})
	}
	return nil
}

// start starts a server for each role. stop ends them all and waits for them.
func (b bench) start(ctx context.Context, roles ...string) (servers []*server, stop func() error, err error) {
	stop = func() error {
		var errs []error
		for _, s := range servers {
			errs = append(errs, s.stop())
		}
		return errors.Join(errs...)
	}
	for _, role := range roles {
		s, err := startServer(ctx, role, b.dir, b.plan.profile)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		servers = append(servers, s)
	}
	return servers, stop, nil
}
