package main

import (
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/go-chi/chi/v5"

	"github.com/garrison-mesh/garrison/internal/admission"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// router returns what is served to the API server. What a webhook configuration
// adds to the path sets variables of the sidecar: inject.PathVariables.
func router(i *inject.Injector, limits admission.Limits, log *slog.Logger) http.Handler {
	r := chi.NewRouter()
	r.Use(recovered(log))
	h := i.Handler(limits)
	r.Method(http.MethodPost, mesh.InjectPath, h)
	r.Method(http.MethodPost, mesh.InjectPath+"/*", h)
	return r
}

// recovered turns a panic into an answer and a line in the log: a connection that
// just breaks tells the user nothing.
func recovered(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if cause := recover(); cause != nil {
					log.ErrorContext(r.Context(), "panicked", "path", r.URL.Path, "cause", cause, "stack", string(debug.Stack()))
					http.Error(w, "internal error", http.StatusInternalServerError)
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
}
