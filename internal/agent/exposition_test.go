package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// merge adds texts in turn, and returns the whole and each one's error.
func merge(openMetrics bool, texts ...string) (string, []error) {
	var b strings.Builder
	e := newExposition(&b)
	var errs []error
	for _, text := range texts {
		errs = append(errs, e.add(strings.NewReader(text), openMetrics))
	}
	e.flush()
	return b.String(), errs
}

// strict is what the strictest of parsers says.
func strict(text string) error {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	_, err := parser.TextToMetricFamilies(strings.NewReader(text))
	return err
}

func TestExpositionJoins(t *testing.T) {
	const process = `# HELP go_goroutines Number of goroutines.
# TYPE go_goroutines gauge
go_goroutines 7
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{handler="/a",code="200"} 3
`
	for name, c := range map[string]struct {
		openMetrics bool
		texts       []string
		want        string
	}{
		"one passes as it is": {texts: []string{process}, want: process},
		"a family of both is described once, and no sample is lost": {
			texts: []string{process, strings.ReplaceAll(process, "/a", "/b")},
			want:  process + "go_goroutines 7\nhttp_requests_total{handler=\"/b\",code=\"200\"} 3\n"},
		"a type behind a sample": {
			texts: []string{"a 1\n", "# HELP a What.\n# TYPE a counter\na{b=\"c\"} 2\n"},
			want:  "a 1\n# HELP a What.\na{b=\"c\"} 2\n"},
		"twice within one": {
			texts: []string{"# TYPE a gauge\na 1\n# TYPE a gauge\na 1\n"}, want: "# TYPE a gauge\na 1\na 1\n"},
		"every spelling of a sample": {
			texts: []string{"a 1\na\t+1.5e3\na{} NaN 1700000000000\n a { b = \"c\" , d=\"}\\\"\\\\\\n,\", } -Inf \na:b_0{l=\"ä\"} 1e-9 -5\r\n"},
			want:  "a 1\na\t+1.5e3\na{} NaN 1700000000000\na { b = \"c\" , d=\"}\\\"\\\\\\n,\", } -Inf\na:b_0{l=\"ä\"} 1e-9 -5\n"},
		"comments, empty lines and what is no help": {
			texts: []string{"# a comment\n#\n\n# EOF\n# HELP a \\x\n# HELP b a\\\\b\\n\n#TYPE b GAUGE\n# HELP c\nb 1"},
			want:  "# HELP b a\\\\b\\n\n# TYPE b gauge\n# HELP c\nb 1\n"},
		"OpenMetrics": {openMetrics: true,
			texts: []string{"# TYPE a counter\n# UNIT a seconds\n# HELP a What.\na_total{b=\"# {\"} 1 1.5 # {trace=\"x\"} 1 2\na_created 1e9\n" +
				"# TYPE b info\nb_info{v=\"1\"} 1\n# TYPE c unknown\nc 3 # {t=\"y\"} 4\n# TYPE d gauge\nd 1 -0.001\n# EOF\n"},
			want: "# TYPE a_total counter\n# HELP a What.\na_total{b=\"# {\"} 1 1500\na_created 1e9\n" +
				"# TYPE b untyped\nb_info{v=\"1\"} 1\n# TYPE c untyped\nc 3\n# TYPE d gauge\nd 1 -1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, errs := merge(c.openMetrics, c.texts...)
			if err := errors.Join(errs...); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if err := strict(got); err != nil {
				t.Errorf("invalid: %v\n%s", err, got)
			}
		})
	}
}

// Whatever a target says, what came before stays and what comes behind follows.
func TestExpositionOutlivesAFailingTarget(t *testing.T) {
	for name, text := range map[string]string{
		"HTML":                   "<!DOCTYPE html>\n<p>hello</p>\n",
		"protobuf":               "\x10\x0a\x08metric_a\x12\x01\n",
		"no value":               "a\n",
		"a word for a value":     "a one\n",
		"a value of Go's":        "a 1_000\n",
		"a value of C's":         "a 0x1p3\n",
		"too much":               "a 1 2 3\n",
		"an exemplar":            "a 1 # {x=\"y\"} 1\n",
		"a wrong timestamp":      "a 1 2.5\n",
		"open labels":            "a{b=\"c\" 1\n",
		"open quotes":            "a{b=\"c} 1\n",
		"a wrong escape":         "a{b=\"\\x\"} 1\n",
		"no comma":               "a{b=\"c\"d=\"e\"} 1\n",
		"only a comma":           "a{,} 1\n",
		"a label twice":          "a{b=\"c\",b=\"d\"} 1\n",
		"a name in the labels":   "a{__name__=\"c\"} 1\n",
		"a quoted name":          "{\"a.b\"} 1\n",
		"an unfit name":          "1a 1\n",
		"a type of no name":      "# TYPE \n",
		"a type of an odd name":  "# TYPE a.b gauge\n",
		"not UTF-8":              "a{b=\"\xff\"} 1\n",
		"a null":                 "a{b=\"\x00\"} 1\n",
		"a line without end":     "a{b=\"" + strings.Repeat("x", maxLine) + "\"} 1\n",
		"a label without a name": "a{=\"c\"} 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, errs := merge(false, "first 1\n", "good 1\n"+text+"unseen 1\n", "last 1\n")
			if errs[0] != nil || errs[1] == nil || errs[2] != nil {
				t.Errorf("%v, want only the second to fail", errs)
			}
			if want := "first 1\ngood 1\nlast 1\n"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// endless says the same for ever.
type endless string

func (e endless) Read(p []byte) (int, error) {
	if len(p) < len(e) {
		return copy(p, "\n"), nil
	}
	return copy(p, e), nil
}

func TestExpositionIsBounded(t *testing.T) {
	e := newExposition(io.Discard)
	if err := e.add(endless(`a{b="`+strings.Repeat("x", 1000)+"\"} 1\n"), false); err == nil || !strings.Contains(err.Error(), "67108864 bytes") {
		t.Errorf("without end: %v", err)
	}
	var names bytes.Buffer
	for i := range maxFamilies + 1 {
		fmt.Fprintf(&names, "a%d 1\n", i)
	}
	if err := e.add(&names, false); err == nil || !strings.Contains(err.Error(), "50000 names") {
		t.Errorf("names without end: %v", err)
	}
	if err := e.add(io.MultiReader(strings.NewReader("a 1\na 2"), broken{}), false); err == nil {
		t.Error("a body that breaks off")
	}
	if len(e.names) > maxFamilies {
		t.Errorf("%d names", len(e.names))
	}
	gone := newExposition(broken{})
	if err := gone.add(endless("a 1\n"), false); err == nil || gone.writeErr == nil {
		t.Errorf("a caller that is gone: %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errors.New("broken") }
func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }

// FuzzExposition holds the law of joining: whatever two targets say, the whole is
// valid, and adding it to nothing changes nothing.
func FuzzExposition(f *testing.F) {
	f.Add("# HELP a b\n# TYPE a counter\na{b=\"c\"} 1 5\n", "# TYPE a gauge\na 2\n", false)
	f.Add("# TYPE a counter\na_total 1 1.5 # {t=\"x\"} 1\n# EOF\n", "a_total{x=\"\\\"\"} NaN\n", true)
	f.Add("a{b=\"\\x\"} 1\n", "a{b=\"c\",b=\"d\"} 1\n", false)
	f.Add("# TYPE a unknown\na 1e999\n", "\xff\n# HELP a \\y\n", true)
	f.Fuzz(func(t *testing.T, one, two string, openMetrics bool) {
		got, _ := merge(openMetrics, one, two)
		if again, errs := merge(false, got); again != got || errs[0] != nil {
			t.Errorf("%q became %q, %v", got, again, errs)
		}
		// Of histograms and summaries the parser checks what the samples mean.
		if low := strings.ToLower(got); strings.Contains(low, " histogram\n") || strings.Contains(low, " summary\n") {
			return
		}
		if err := strict(got); err != nil {
			t.Errorf("%q and %q give %q: %v", one, two, got, err)
		}
	})
}
