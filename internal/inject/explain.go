package inject

import "github.com/garrison-mesh/garrison/internal/mesh"

// Explanation is all that is known of why a pod gets what it gets.
type Explanation struct {
	Decision  Decision
	Injection Injection // where the decision is to inject
	Refused   error     // why the pod is refused, by the decision or by the injection
	Options   []Option  // what pod, namespace and mesh say, in the order of the vocabulary
	Templates []string  // what the pod is made with, aliases written out
}

// Option is one annotation that somebody wrote, with what it beats.
type Option struct {
	Name, Value string
	From        Place
	Beats       []Said // from the nearest to the pod on
}

// Said is a value and where it stands.
type Said struct {
	Value string
	From  Place
}

// Explain decides and injects as the webhook does, and keeps the reasons.
func Explain(pod *Pod, at Situation, s Settings) Explanation {
	x := Explanation{Options: s.said(pod, at.Namespace)}
	if x.Decision, x.Refused = Decide(pod, at.Namespace, s); x.Refused != nil || !x.Decision.Inject {
		return x
	}
	x.Templates = s.templatesOf(pod, at.Namespace)
	x.Injection, x.Refused = Edit(pod, at, s)
	return x
}

// templatesOf returns none where the pod or its namespace asks for what is not offered.
func (s Settings) templatesOf(pod *Pod, ns mesh.Namespace) []string {
	o, err := parseOptions(pod, ns, s)
	if err != nil {
		return nil
	}
	chosen, err := s.overlaysFor(o.templates)
	if err != nil {
		return nil
	}
	templates := []string{sidecarTemplate}
	for _, c := range chosen {
		templates = append(templates, c.name)
	}
	return templates
}

// said lists the annotations that are written anywhere.
func (s Settings) said(pod *Pod, ns mesh.Namespace) []Option {
	var all []Option
	for _, a := range mesh.Annotations() {
		if a.Written {
			continue
		}
		var said []Said
		if value, ok := pod.meta.Annotations[a.Name]; ok {
			said = append(said, Said{value, OnPod})
		}
		if value, ok := ns.Annotations[a.Name]; ok && !a.PodOnly {
			said = append(said, Said{value, OnNamespace})
		}
		if value, ok := s.defaults[a.Name]; ok {
			said = append(said, Said{value, OfMesh})
		}
		if len(said) == 0 {
			continue
		}
		if a.Default != "" {
			said = append(said, Said{a.Default, Builtin})
		}
		all = append(all, Option{Name: a.Name, Value: said[0].Value, From: said[0].From, Beats: said[1:]})
	}
	return all
}
