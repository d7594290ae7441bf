package cli

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	kjson "sigs.k8s.io/json"
)

// errNotHere is behind the error of a condition that the API server may well
// evaluate, but that this program cannot: it must not guess.
var errNotHere = errors.New("cannot be evaluated here")

// podCreation is the request that match conditions are asked about.
type podCreation struct {
	namespace string
	pod       map[string]any
}

// newPodCreation reads a pod from JSON. The API server evaluates conditions on the pod
// with its defaults, so one that was read back from it serves better than a file.
func newPodCreation(namespace string, pod []byte) (podCreation, error) {
	c := podCreation{namespace: namespace}
	// An expression tells 7 from 7.0.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(pod, &c.pod); err != nil {
		return podCreation{}, fmt.Errorf("pod: %w", err)
	}
	return c, nil
}

// holds evaluates a match condition as the API server would: over object, oldObject
// and request. What is not known offline, such as who asks, is left open, and the
// condition is only without an answer if it depends on that.
//
// An error that is not errNotHere is the condition's own: the API server meets it
// too, and refuses the pod unless failurePolicy is Ignore.
func (c podCreation) holds(m admissionregistrationv1.MatchCondition) (bool, error) {
	env, err := cel.NewEnv(
		cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType), cel.Variable("request", cel.DynType),
		// What Kubernetes offers of CEL's own extensions. Its own functions (quantities,
		// addresses, authorizer and so on) exist only in the API server.
		cel.OptionalTypes(), cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		ext.Strings(ext.StringsVersion(2)), ext.Sets(), ext.TwoVarComprehensions(),
	)
	if err != nil {
		return false, err
	}
	ast, issues := env.Compile(m.Expression)
	if issues.Err() != nil {
		return false, fmt.Errorf("%w: %s", errNotHere, issues.Errors()[0].Message)
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptPartialEval))
	if err != nil {
		return false, fmt.Errorf("%w: %w", errNotHere, err)
	}
	vars, err := cel.PartialVars(
		map[string]any{"object": c.pod, "oldObject": nil, "request": c.request()},
		cel.AttributePattern("request").QualString("userInfo"),
		cel.AttributePattern("request").QualString("dryRun"),
		cel.AttributePattern("request").QualString("options"),
	)
	if err != nil {
		return false, err
	}
	value, _, err := program.Eval(vars)
	if err != nil {
		return false, err
	}
	switch value := value.(type) {
	case types.Bool:
		return bool(value), nil
	case *types.Unknown:
		return false, fmt.Errorf("%w: it depends on %s", errNotHere, unknownNames(value))
	}
	return false, fmt.Errorf("is of type %s, not bool", value.Type().TypeName())
}

// request is what the API server tells conditions of the creation of a pod. Empty
// fields are absent there.
func (c podCreation) request() map[string]any {
	kind := map[string]any{"group": "", "version": "v1", "kind": "Pod"}
	resource := map[string]any{"group": "", "version": "v1", "resource": "pods"}
	r := map[string]any{
		"kind": kind, "requestKind": kind, "resource": resource, "requestResource": resource,
		"operation": "CREATE", "namespace": c.namespace,
	}
	metadata, _ := c.pod["metadata"].(map[string]any)
	if name, _ := metadata["name"].(string); name != "" {
		r["name"] = name
	}
	return r
}

func unknownNames(u *types.Unknown) string {
	var names []string
	for _, id := range u.IDs() {
		trails, _ := u.GetAttributeTrails(id)
		for _, trail := range trails {
			names = append(names, trail.String())
		}
	}
	return strings.Join(names, " and ")
}
