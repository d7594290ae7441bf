package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Goals, as factors of the floor measured in the same repeat. They are hopes, and
// nothing fails that falls short.
const (
	webhookGoal = 3   // × roleTyped
	caGoal      = 1.5 // × roleFloorCA
)

// plan says how long to measure.
type plan struct {
	repeats    int
	window     time.Duration // of one server in one repeat
	podWindow  time.Duration // the same, with one kind of pod alone
	podRepeats int
	benchtime  string // of what runs inside this process
	profile    string // folder for the servers' CPU profiles; "": none
}

// limit keeps a window's memory bounded on machines faster than any of today.
const limit = 1_000_000

// bench runs the sections of a measurement.
type bench struct {
	plan   plan
	dir    string // for the servers' logs
	report func(...figure)
}

// all measures everything, or the one section that is named. Its error means that
// something could not be measured; the other sections are measured all the same.
func (b bench) all(ctx context.Context, only string) error {
	var errs []error
	known := only == ""
	for _, section := range []struct {
		name    string
		measure func(context.Context) error
	}{{"webhook", b.webhook}, {"ca", b.ca}, {"process", b.process}} {
		if only == "" || only == section.name {
			known = true
			if ctx.Err() != nil {
				break
			}
			errs = append(errs, section.measure(ctx))
		}
	}
	if !known {
		return fmt.Errorf("no section %q: there are webhook, ca and process", only)
	}
	return errors.Join(errs...)
}

// webhook measures the injector beside both floors with the mix of pods, then the
// injector and the typed floor with each kind of pod alone.
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

	injector := newWebhook(servers[1], mix)
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
	return b.eachPod(ctx, servers[:2], mix)
}

func (b bench) mixed(ctx context.Context, servers []*server, mix []review) error {
	var contenders []contender
	for _, s := range servers {
		w := newWebhook(s, mix)
		defer w.client.CloseIdleConnections()
		contenders = append(contenders, contender{s, w.call})
	}
	samples, err := rounds(ctx, b.plan.repeats, load{webhookClients, b.plan.window, limit}, contenders...)
	if err != nil {
		return err
	}
	decode, typed, injector := values(samples[roleDecode], cpu), values(samples[roleTyped], cpu), values(samples[roleInjector], cpu)
	b.report(standard("webhook."+roleDecode, samples[roleDecode], 0)...)
	b.report(standard("webhook."+roleTyped, samples[roleTyped], 0)...)
	b.report(standard("webhook."+roleInjector, samples[roleInjector], webhookGoal*median(typed))...)
	b.report(
		figure{name: "webhook.ratio-to-decode", values: ratios(injector, decode), unit: "x"},
		figure{name: "webhook.ratio", values: ratios(injector, typed), unit: "x", goal: webhookGoal},
	)
	return nil
}

func (b bench) eachPod(ctx context.Context, servers []*server, mix []review) error {
	spent := make(map[string][]float64) // CPU by role and pod
	for _, r := range mix {
		var contenders []contender
		for _, s := range servers {
			w := newWebhook(s, []review{r})
			defer w.client.CloseIdleConnections()
			contenders = append(contenders, contender{s, w.call})
		}
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

// ca measures Citadel beside its floor.
func (b bench) ca(ctx context.Context) (err error) {
	requests, err := newRequests()
	if err != nil {
		return err
	}
	servers, stop, err := b.start(ctx, roleFloorCA, roleCitadel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	var contenders []contender
	for _, s := range servers {
		a, err := newAgents(s, requests)
		if err != nil {
			return err
		}
		defer a.close()
		if err := a.verify(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.role, err)
		}
		contenders = append(contenders, contender{s, a.call})
	}
	samples, err := rounds(ctx, b.plan.repeats, load{caClients, b.plan.window, limit}, contenders...)
	if err != nil {
		return err
	}
	floor, citadel := values(samples[roleFloorCA], cpu), values(samples[roleCitadel], cpu)
	b.report(standard("ca."+roleFloorCA, samples[roleFloorCA], 0)...)
	b.report(standard("ca."+roleCitadel, samples[roleCitadel], caGoal*median(floor))...)
	b.report(figure{name: "ca.ratio", values: ratios(citadel, floor), unit: "x", goal: caGoal})
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
