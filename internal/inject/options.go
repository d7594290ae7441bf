package inject

import (
	"errors"
	"fmt"
	"regexp"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// options is what a pod's annotations ask for, checked.
type options struct {
	inject        bool
	rewriteProbes bool
	resources     resources
	ownResources  bool // differ from the settings'
}

// resources are the requests and limits of the sidecar.
type resources struct{ cpu, cpuLimit, memory, memoryLimit resource.Quantity }

// parsers read the annotations that users write. Their names, and what may be
// written, are those of [mesh.Annotations]; a test holds the two together.
var parsers = map[string]func(*options, string) error{
	mesh.InjectLabel:      func(o *options, v string) (err error) { o.inject, err = parseBool(v); return err },
	mesh.RewriteProbes:    func(o *options, v string) (err error) { o.rewriteProbes, err = parseBool(v); return err },
	mesh.ProxyCPU:         func(o *options, v string) (err error) { o.resources.cpu, err = parseQuantity(v); return err },
	mesh.ProxyCPULimit:    func(o *options, v string) (err error) { o.resources.cpuLimit, err = parseQuantity(v); return err },
	mesh.ProxyMemory:      func(o *options, v string) (err error) { o.resources.memory, err = parseQuantity(v); return err },
	mesh.ProxyMemoryLimit: func(o *options, v string) (err error) { o.resources.memoryLimit, err = parseQuantity(v); return err },
}

// parseOptions reads what annotations ask for, over the defaults given.
func parseOptions(annotations map[string]string, defaults resources) (options, error) {
	o := options{rewriteProbes: true, resources: defaults}
	if len(annotations) == 0 {
		return o, nil
	}
	var errs []error
	for _, known := range mesh.Annotations() {
		value, ok := annotations[known.Name]
		if !ok || known.Written || known.Name == mesh.InjectLabel { // Decide has read that one
			continue
		}
		o.ownResources = o.ownResources || known.Name != mesh.RewriteProbes
		if err := parsers[known.Name](&o, value); err != nil {
			errs = append(errs, annotationRefusal(known.Name, value, err.Error()))
		}
	}
	if len(errs) == 0 && o.ownResources {
		errs = append(errs, o.resources.check(func(request, limit string, asked, allowed resource.Quantity) error {
			field := request // the one that the pod's author wrote
			if _, ok := annotations[request]; !ok {
				field = limit
			}
			return &Refusal{Reason: BadAnnotation, Field: "metadata.annotations[" + field + "]", Problem: fmt.Sprintf(
				"the sidecar would ask for %s (%s) and be limited to %s (%s)", &asked, request, &allowed, limit)}
		}))
	}
	return o, errors.Join(errs...)
}

// check holds requests to their limits. Each pair that breaks this is told to
// broken by its annotations and values.
func (r resources) check(broken func(request, limit string, asked, allowed resource.Quantity) error) error {
	var errs []error
	if r.cpu.Cmp(r.cpuLimit) > 0 {
		errs = append(errs, broken(mesh.ProxyCPU, mesh.ProxyCPULimit, r.cpu, r.cpuLimit))
	}
	if r.memory.Cmp(r.memoryLimit) > 0 {
		errs = append(errs, broken(mesh.ProxyMemory, mesh.ProxyMemoryLimit, r.memory, r.memoryLimit))
	}
	return errors.Join(errs...)
}

func parseBool(value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("neither true nor false")
}

// quantityForm bounds what is handed to the parser, which works exponents out
// digit by digit: comparing 1e2147483647 with anything takes minutes and gigabytes.
var quantityForm = regexp.MustCompile(`^[-+]?[0-9.]{1,32}([eE][-+]?[0-9]{1,2}|[a-zA-Z]{0,2})$`)

func parseQuantity(value string) (resource.Quantity, error) {
	var q resource.Quantity
	err := resource.ErrFormatWrong
	if quantityForm.MatchString(value) {
		q, err = resource.ParseQuantity(value)
	}
	if err != nil {
		return q, errors.New("not a quantity, such as 100m or 128Mi")
	}
	if q.Sign() <= 0 {
		return q, errors.New("not more than zero")
	}
	return q, nil
}
