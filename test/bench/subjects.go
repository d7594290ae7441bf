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

// newCitadel returns Citadel's CSR service with a new root, and with an authenticator
// that takes everybody for the same caller: asking the API server is left out.
func newCitadel(log *slog.Logger, now time.Time) (securityapi.IstioCertificateServiceServer, error) {
	root, err := ca.NewRoot(ca.RootOptions{}, now)
	if err != nil {
		return nil, err
	}
	authority, err := ca.Open(root, ca.Options{})
	if err != nil {
		return nil, err
	}
	caller := ca.Caller{
		Account: mesh.ServiceAccount{Namespace: "shop", Name: "cart"},
		PodName: "cart-6d4b75cb6d-x7k2p",
	}
	auth := func(context.Context, string) (ca.Caller, error) { return caller, nil }
	return ca.NewService(authority, auth, ca.ServiceOptions{
		Log: log, Metrics: ca.NewMetrics(prometheus.NewRegistry(), authority),
	}), nil
}
