package main

import (
	"context"
	"net"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	cliflag "k8s.io/component-base/cli/flag"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apioptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	manageroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	scheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// The upstream commands cannot be used here: each installs the process's signal
// handler, which may be done once. So these go through the options packages, as
// the commands themselves do.

func newAPIServer(ctx context.Context, args []string, l net.Listener) (func(context.Context) error, error) {
	o := apioptions.NewServerRunOptions()
	if err := parse("kube-apiserver", o.Flags(), args); err != nil {
		return nil, err
	}
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, err
	}
	o.SecureServing.Listener = l
	completed, err := o.Complete(ctx)
	if err != nil {
		return nil, err
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return nil, utilerrors.NewAggregate(errs)
	}
	return func(ctx context.Context) error { return apiserver.Run(ctx, completed) }, nil
}

func newControllerManager(ctx context.Context, args []string) (func(context.Context) error, error) {
	o, err := manageroptions.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	known, off, aliases := manager.KnownControllers(), manager.ControllersDisabledByDefault(), manager.ControllerAliases()
	flags := o.Flags(known, off, aliases)
	o.ParsedFlags = &flags
	if err := parse("kube-controller-manager", flags, args); err != nil {
		return nil, err
	}
	c, err := o.Config(ctx, known, off, aliases)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return manager.Run(ctx, c.Complete()) }, nil
}

func newScheduler(ctx context.Context, args []string) (func(context.Context) error, error) {
	o := scheduleroptions.NewOptions()
	if err := parse("kube-scheduler", *o.Flags, args); err != nil {
		return nil, err
	}
	c, s, err := scheduler.Setup(ctx, o)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return scheduler.Run(ctx, c, s) }, nil
}

func parse(name string, sets cliflag.NamedFlagSets, args []string) error {
	all := pflag.NewFlagSet(name, pflag.ContinueOnError)
	for _, set := range sets.FlagSets {
		all.AddFlagSet(set)
	}
	return all.Parse(args)
}
