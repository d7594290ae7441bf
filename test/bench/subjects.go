package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/admission"
	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// newInjector returns an injector with the defaults of an installation, and with one
// overlay for pods that ask for it.
func newInjector(log *slog.Logger) (*inject.Injector, error) {
	settings, err := inject.NewSettings(inject.Options{Image: "garrison/proxy:bench"})
	if err != nil {
		return nil, err
	}
	overlays, err := inject.ParseOverlays(map[string]string{benchOverlay: benchOverlayText})
	if err != nil {
		return nil, err
	}
	if settings, err = settings.WithOverlays(overlays); err != nil {
		return nil, err
	}
	namespace := func(_ context.Context, name string) (mesh.Namespace, error) {
		return mesh.Namespace{Name: name, Labels: map[string]string{mesh.InjectionLabel: "enabled"}}, nil
	}
	return inject.NewInjector(inject.Config{Settings: settings, Namespace: namespace, Log: log, Metrics: prometheus.NewRegistry()}), nil
}

// injectorHandler puts the injector behind HTTP as cmd/injector does.
func injectorHandler(log *slog.Logger) (http.Handler, error) {
	injector, err := newInjector(log)
	if err != nil {
		return nil, err
	}
	router := chi.NewRouter()
	router.Method(http.MethodPost, mesh.InjectPath, injector.Handler(admission.Limits{}))
	return router, nil
}

// newCitadel returns Citadel's CSR service with a new root, behind a gate that is as
// good as open: one pod would otherwise soon have had its share.
func newCitadel(log *slog.Logger, auth ca.Authenticator, now time.Time) (securityapi.IstioCertificateServiceServer, error) {
	root, err := ca.NewRoot(ca.RootOptions{}, now)
	if err != nil {
		return nil, err
	}
	authority, err := ca.Open(root, ca.Options{})
	if err != nil {
		return nil, err
	}
	metrics := prometheus.NewRegistry()
	return ca.NewService(authority, auth, ca.ServiceOptions{
		Log: log, Metrics: ca.NewMetrics(metrics, authority),
		Gate: ca.NewGate(ca.GateOptions{Rate: limit, CallerRate: limit, CallerBurst: limit, Metrics: metrics}),
	}), nil
}

// anybody takes everybody for the same pod.
func anybody(context.Context, string) (ca.Caller, error) {
	return ca.Caller{
		Account: mesh.ServiceAccount{Namespace: shop, Name: cart, UID: "0f9c1f54-3f0f-4f5e-8a51-6a0f8c2a7d11"},
		PodName: "cart-6d4b75cb6d-x7k2p", PodUID: "6f1d2b0e-4a57-4b63-9d2e-0c5b8a7f1e34",
	}, nil
}

// newReviewer asks the API server of a cluster about each token.
func newReviewer(kubeconfig string) (ca.Authenticator, error) {
	api, err := cluster.Connect(kubeconfig)
	if err != nil {
		return nil, err
	}
	tokens := api.Tokens([]string{mesh.TokenAudience}, 0)
	return func(ctx context.Context, token string) (ca.Caller, error) {
		c, err := tokens.Review(ctx, token)
		return ca.Caller{
			Account: mesh.ServiceAccount{Namespace: c.Namespace, Name: c.Account, UID: c.UID}, PodName: c.PodName, PodUID: c.PodUID,
		}, err
	}, nil
}
