package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// sidecarVolumes are what the sidecar mounts, and what no volume of the pod's own
// may be named.
func sidecarVolumes() []corev1.Volume {
	memory := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}
	return []corev1.Volume{
		{Name: mesh.EnvoyVolume, VolumeSource: memory},
		{Name: mesh.CertVolume, VolumeSource: memory},
		{Name: mesh.TokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience:          mesh.TokenAudience,
				ExpirationSeconds: new(int64(mesh.TokenSeconds)),
				Path:              path.Base(mesh.TokenFile),
			}}},
		}}},
		{Name: mesh.RootVolume, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: mesh.RootConfigMap},
		}}},
		{Name: mesh.NoTokenVolume, VolumeSource: memory},
	}
}

// isSidecarVolume reports whether injection adds a volume of that name.
func isSidecarVolume(name string) bool {
	switch name {
	case mesh.EnvoyVolume, mesh.CertVolume, mesh.TokenVolume, mesh.RootVolume, mesh.NoTokenVolume:
		return true
	}
	return false
}

// noToken covers the place where Kubernetes would mount the pod's own token for the
// API server, with which neither of our containers has any business.
func noToken() corev1.VolumeMount {
	return corev1.VolumeMount{Name: mesh.NoTokenVolume, MountPath: mesh.APITokenDir, ReadOnly: true}
}

// parseVolumes reads volumes in either of the forms that are in use: an object from
// name to volume, which is what Istio's templates take, and a list, which is what its
// documentation says. The result is in the order of the list, or of the names.
func parseVolumes(value string) ([]corev1.Volume, error) {
	volumes, err := parseNamed(value, func(v *corev1.Volume, name string) { v.Name = name })
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		switch {
		case v.Name == "":
			return nil, errors.New("without a name")
		case isSidecarVolume(v.Name):
			return nil, fmt.Errorf("not allowed: %s is the name of an injected volume", v.Name)
		case v.VolumeSource == corev1.VolumeSource{}:
			return nil, fmt.Errorf("not a volume: %s names no kind, such as emptyDir", quote(v.Name))
		}
	}
	return volumes, nil
}

func parseMounts(value string) ([]corev1.VolumeMount, error) {
	mounts, err := parseNamed(value, func(m *corev1.VolumeMount, name string) { m.Name = name })
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		switch {
		case m.Name == "":
			return nil, errors.New("without a name")
		case !strings.HasPrefix(m.MountPath, "/"):
			return nil, fmt.Errorf("not a mount: %s has no mountPath that begins with /", quote(m.Name))
		}
		if err := checkMountPath(m.MountPath); err != nil {
			return nil, err
		}
	}
	return mounts, nil
}

// checkMountPath refuses to put anything in the place of what the sidecar runs or reads.
func checkMountPath(mountPath string) error {
	at := path.Clean(mountPath)
	for _, kept := range []string{
		"/bin", "/dev", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr", "/etc/ld.so.cache", "/etc/ld.so.preload",
		mesh.CertDir, mesh.ProxyConfigDir, mesh.RootDir, mesh.TokenDir, mesh.APITokenDir,
	} {
		if at == "/" || at == kept || strings.HasPrefix(at, kept+"/") || strings.HasPrefix(kept, at+"/") {
			return fmt.Errorf("not allowed: %s would hide %s, which is the sidecar's own", mountPath, kept)
		}
	}
	return nil
}

// parseNamed reads a list, or an object whose names go into its values.
func parseNamed[T any](value string, name func(*T, string)) ([]T, error) {
	decode := func(raw []byte, into any) error {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields() // a misspelt field would silently mount something else
		if err := d.Decode(into); err != nil {
			return errors.New("not the JSON wanted: " + cut(strings.TrimPrefix(err.Error(), "json: ")))
		}
		return nil
	}
	if strings.HasPrefix(strings.TrimSpace(value), "[") {
		var listed []T
		if err := decode([]byte(value), &listed); err != nil {
			return nil, err
		}
		if len(listed) > maxListed {
			return nil, fmt.Errorf("a list of more than %d", maxListed)
		}
		return listed, nil
	}
	var named map[string]T
	if err := decode([]byte(value), &named); err != nil {
		return nil, err
	}
	if len(named) > maxListed {
		return nil, fmt.Errorf("an object of more than %d", maxListed)
	}
	all := make([]T, 0, len(named))
	for _, key := range slices.Sorted(maps.Keys(named)) {
		one := named[key]
		name(&one, key)
		all = append(all, one)
	}
	return all, nil
}

// volumeKinds returns the names of the members that say what a volume is: one, unless
// its author wants the API server to refuse it.
func volumeKinds(v corev1.Volume) []string {
	raw, err := json.Marshal(v.VolumeSource)
	if err != nil {
		return nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(members))
}
