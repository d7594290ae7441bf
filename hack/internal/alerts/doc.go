// Package alerts holds the alert rules of manifests/monitoring to the language that they
// are written in: its tests evaluate them, as Prometheus does, on what servers would show.
// There is nothing else in it.
package alerts
