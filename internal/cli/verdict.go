package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// verdict is what explain says of a pod, or of the pods that a workload makes. Its JSON
// is for programs: fields stay.
type verdict struct {
	Kind      string        `json:"kind"` // pod, deployment and so on
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Outcome   string        `json:"outcome"` // injected, left-out, refused or undecided
	Reason    inject.Reason `json:"reason"`
	Why       string        `json:"why"`
	Refusals  []string      `json:"refusals,omitempty"`
	Do        string        `json:"do,omitempty"` // about it
	Entries   []entry       `json:"entries"`      // of the webhooks, in the order that they are looked at
	Sidecar   *sidecar      `json:"sidecar,omitempty"`
	Options   []option      `json:"options,omitempty"`
	Templates []string      `json:"templates,omitempty"`
	Holes     []hole        `json:"holes,omitempty"`
	Warnings  []string      `json:"warnings,omitempty"`
	Now       *now          `json:"now,omitempty"` // the pod that runs
}

type (
	sidecar struct {
		Native        bool   `json:"native"`
		Why           string `json:"why"`
		Configuration string `json:"configuration"` // its hash
		Revision      string `json:"revision"`
	}
	option struct {
		Name  string `json:"name"`
		Value string `json:"value"`
		From  string `json:"from"` // pod, namespace, mesh or default
		Beats []said `json:"beats,omitempty"`
	}
	said struct {
		Value string `json:"value"`
		From  string `json:"from"`
	}
	hole struct {
		What string `json:"what"`
		From string `json:"from"`
	}
)

// now is how a pod that exists stands to what it would be today.
type now struct {
	Sidecar       bool            `json:"sidecar"`                 // whether it has one
	Configuration string          `json:"configuration,omitempty"` // that it was made of, by its hash
	Revision      string          `json:"revision,omitempty"`
	Differs       bool            `json:"differs"` // from what it would be today
	Why           string          `json:"why,omitempty"`
	Difference    []inject.Change `json:"difference,omitempty"`
	Do            string          `json:"do,omitempty"`
}

func newVerdict(c carrier, namespace string, j judgement) verdict {
	v := verdict{
		Kind: c.kind.spoken[0], Namespace: namespace, Name: c.name(),
		Outcome: j.outcome, Reason: j.reason, Why: j.why, Do: j.advice, Entries: j.entries,
		Templates: j.Templates, Warnings: j.warnings,
	}
	if j.err != nil {
		v.Refusals = strings.Split(j.err.Error(), "\n")
	}
	for _, o := range j.Options {
		one := option{Name: o.Name, Value: o.Value, From: string(o.From)}
		for _, b := range o.Beats {
			one.Beats = append(one.Beats, said{b.Value, string(b.From)})
		}
		v.Options = append(v.Options, one)
	}
	if j.outcome != injected {
		return v
	}
	v.Sidecar = &sidecar{j.Injection.Native, j.Injection.Why, j.Injection.Hash, j.settings.Revision()}
	for _, h := range j.Injection.Holes {
		v.Holes = append(v.Holes, hole{h.What, string(h.From)})
	}
	return v
}

// page prints lines with a word in front of each, which stands once for several.
type page struct {
	w    io.Writer
	last string
	err  error
}

func (p *page) line(word, format string, args ...any) {
	shown := word
	if word == p.last {
		shown = ""
	}
	p.last = word
	if _, err := fmt.Fprintf(p.w, "  %-11s %s\n", shown, fmt.Sprintf(format, args...)); err != nil {
		p.err = cmp.Or(p.err, err)
	}
}

// write prints a verdict for people.
func (v verdict) write(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%s %s/%s: %s\n", v.Kind, v.Namespace, v.Name, strings.ReplaceAll(v.Outcome, "-", " ")); err != nil {
		return err
	}
	p := &page{w: w}
	called := false
	for _, e := range v.Entries {
		if e.Called {
			called = true
			p.line("called", "%s of %s, served by revision %s", e.Name, e.Configuration, e.Revision)
		}
	}
	for _, e := range v.Entries {
		if !called {
			p.line("not called", "%s of %s: %s", e.Name, e.Configuration, e.Why)
		}
	}
	if len(v.Refusals) == 0 {
		p.line("because", "%s", v.Why)
	}
	for _, r := range v.Refusals {
		p.line("because", "%s", r)
	}
	if v.Do != "" {
		p.line("to do", "%s", v.Do)
	}
	if s := v.Sidecar; s != nil {
		kind := "a plain container"
		if s.Native {
			kind = "native"
		}
		p.line("sidecar", "%s, since %s", kind, s.Why)
		p.line("", "of configuration %s", s.Configuration)
	}
	for _, o := range v.Options {
		p.line("options", "%s", o)
	}
	if len(v.Templates) > 0 {
		p.line("templates", "%s", strings.Join(v.Templates, ", "))
	}
	if v.Sidecar != nil && len(v.Holes) == 0 {
		p.line("holes", "none")
	}
	for _, h := range v.Holes {
		p.line("holes", "%s (%s)", h.What, h.From)
	}
	for _, warning := range v.Warnings {
		p.line("warnings", "%s", warning)
	}
	if v.Now != nil {
		v.Now.write(p)
	}
	return p.err
}

func (o option) String() string {
	text := fmt.Sprintf("%s: %s (%s)", o.Name, cut(o.Value), o.From)
	var beaten []string
	for _, b := range o.Beats {
		beaten = append(beaten, fmt.Sprintf("%s (%s)", cut(b.Value), b.From))
	}
	if beaten == nil {
		return text
	}
	return text + ", instead of " + strings.Join(beaten, ", ")
}

// cut keeps what is shown of a value to a line; JSON output has all of it.
func cut(value string) string {
	const most = 80
	value = strings.Join(strings.Fields(value), " ")
	if runes := []rune(value); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return value
}

func (n now) write(p *page) {
	switch {
	case !n.Sidecar:
		p.line("now", "without the sidecar")
	case n.Configuration != "":
		p.line("now", "with the sidecar of configuration %s, made by revision %s", n.Configuration, cmp.Or(n.Revision, mesh.DefaultRevision))
	default:
		p.line("now", "with a sidecar")
	}
	if n.Why != "" {
		p.line("now", "%s", n.Why)
	} else {
		p.line("now", "which is what it would be today")
	}
	for _, c := range n.Difference {
		p.line("differs", "%s", c)
	}
	if n.Do != "" {
		p.line("to do now", "%s", n.Do)
	}
}
