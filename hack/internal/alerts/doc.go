// Package alerts holds Citadel's alert rules, in manifests/monitoring, to the language that
// they are written in: its tests evaluate them, as Prometheus does, on what servers would show.
// There is nothing else in it.
package alerts
