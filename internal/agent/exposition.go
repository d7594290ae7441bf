package agent

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxExposition = 64 << 20 // bytes of one target
	maxLine       = 64 << 10 // bytes of one line
	maxFamilies   = 50_000   // names of all targets that are remembered
)

// exposition joins metrics of several targets into one text that is valid even
// where a target's is not, line by line.
//
// Two targets may have families of the same name: two processes of one pod, each
// with its client library's own. Concatenation, as Istio does it, then gives a
// second TYPE line, at which strict parsers refuse the whole. Here the first
// description of a name counts and later ones are left out, but no sample is: their
// labels may well tell them apart, and where they do not, the scraper takes the
// first.
type exposition struct {
	w        *bufio.Writer
	names    map[string]said
	last     string // name of the last sample
	writeErr error  // the caller is gone; nothing can be added any more
}

// said is what has been written about a name.
type said struct{ help, kind, sample bool }

func newExposition(w io.Writer) *exposition {
	return &exposition{w: bufio.NewWriterSize(w, 32<<10), names: map[string]said{}}
}

// add passes a target's metrics on. At the first line that is no metric it returns
// an error; what came before stays, a valid part.
func (e *exposition) add(body io.Reader, openMetrics bool) error {
	limited := &io.LimitedReader{R: body, N: maxExposition + 1}
	lines := bufio.NewReaderSize(limited, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case limited.N == 0:
			return fmt.Errorf("more than %d bytes", maxExposition)
		case err == nil:
			line = line[:len(line)-1]
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("a line of more than %d bytes", maxLine)
		case !errors.Is(err, io.EOF):
			return err // of the last line there may be only half
		case len(line) == 0:
			return nil
		}
		if err := e.line(line, openMetrics); err != nil {
			return err
		}
		if e.writeErr != nil {
			return e.writeErr
		}
	}
}

func (e *exposition) line(line []byte, openMetrics bool) error {
	line = bytes.Trim(line, " \t\r")
	switch {
	case len(line) == 0:
		return nil
	case !utf8.Valid(line) || bytes.IndexByte(line, 0) >= 0:
		return errors.New("not text")
	case line[0] == '#':
		return e.describe(string(line), openMetrics)
	}
	s, err := parseSample(line, openMetrics)
	if err != nil {
		return err
	}
	if name := line[:s.name]; string(name) != e.last {
		e.last = string(name)
		if err := e.remember(e.last, func(n *said) bool { n.sample = true; return true }); err != nil {
			return err
		}
	}
	e.write(line[:s.value])
	if s.timestamp != "" {
		e.write([]byte(" " + s.timestamp))
	}
	e.write([]byte("\n"))
	return nil
}

// describe passes a HELP or TYPE line on unless one was, and leaves other comments
// out, among them the end mark of OpenMetrics.
func (e *exposition) describe(line string, openMetrics bool) error {
	word, rest := cutBlank(strings.TrimLeft(line[1:], " \t"))
	name, rest := cutBlank(rest)
	if word != "HELP" && word != "TYPE" {
		return nil
	}
	if nameLength([]byte(name), true) != len(name) || name == "" {
		return fmt.Errorf("%s of %q: not a name", word, name)
	}
	if word == "HELP" && !escaped(rest) {
		return nil // it costs only itself
	}
	if word == "TYPE" {
		rest = strings.ToLower(rest)
		if rest == "counter" && openMetrics && !strings.HasSuffix(name, "_total") {
			name += "_total" // OpenMetrics names the family, the older format its samples
		}
		switch rest {
		case "counter", "gauge", "histogram", "summary":
		default:
			rest = "untyped" // what OpenMetrics has more
		}
	}
	fresh := false
	err := e.remember(name, func(n *said) bool {
		if word == "HELP" {
			fresh = !n.help
			n.help = true
		} else {
			fresh = !n.kind && !n.sample // behind a sample it is too late
			n.kind = true
		}
		return fresh
	})
	if err == nil && fresh {
		e.write([]byte(strings.TrimRight("# "+word+" "+name+" "+rest, " ") + "\n"))
	}
	return err
}

// escaped reports whether every backslash in the text of a HELP line begins an
// escape that there is.
func escaped(text string) bool {
	for {
		at := strings.IndexByte(text, '\\')
		switch {
		case at < 0:
			return true
		case at+1 == len(text) || text[at+1] != '\\' && text[at+1] != 'n':
			return false
		}
		text = text[at+2:]
	}
}

func cutBlank(text string) (word, rest string) {
	end := strings.IndexAny(text, " \t")
	if end < 0 {
		return text, ""
	}
	return text[:end], strings.TrimLeft(text[end:], " \t")
}

// remember notes what was said of a name.
func (e *exposition) remember(name string, note func(*said) bool) error {
	n, ok := e.names[name]
	if !ok && len(e.names) >= maxFamilies {
		return fmt.Errorf("more than %d names", maxFamilies)
	}
	if note(&n) {
		e.names[name] = n
	}
	return nil
}

func (e *exposition) write(text []byte) {
	if e.writeErr == nil {
		_, e.writeErr = e.w.Write(text)
	}
}

func (e *exposition) flush() { e.writeErr = errors.Join(e.writeErr, e.w.Flush()) }

// sample says where the parts of a line end.
type sample struct {
	name, value int
	timestamp   string // to be written behind the value, in milliseconds; may be none
}

// parseSample checks a sample as strictly as any scraper does, for whom one wrong
// line spoils all the others. Of OpenMetrics it takes what the older format can say:
// exemplars are left out, and timestamps become milliseconds.
func parseSample(line []byte, openMetrics bool) (sample, error) {
	s := sample{name: nameLength(line, true)}
	if s.name == 0 {
		return s, fmt.Errorf("%.40q: not a sample", line)
	}
	at := skipBlank(line, s.name)
	if at < len(line) && line[at] == '{' {
		if at = labelsEnd(line, at); at < 0 {
			return s, fmt.Errorf("%.40q: labels", line)
		}
		at = skipBlank(line, at)
	}
	end := wordEnd(line, at)
	if _, err := strconv.ParseFloat(string(line[at:end]), 64); err != nil || bytes.ContainsAny(line[at:end], "pP_") {
		return s, fmt.Errorf("%.40q: value", line)
	}
	s.value = end
	at = skipBlank(line, end)
	end = wordEnd(line, at)
	word, rest := line[at:end], line[skipBlank(line, end):]
	if openMetrics {
		if len(word) > 0 && word[0] != '#' {
			seconds, err := strconv.ParseFloat(string(word), 64)
			if err != nil || math.Abs(seconds) > math.MaxInt64/2000 {
				return s, fmt.Errorf("%.40q: timestamp", line)
			}
			s.timestamp = strconv.FormatInt(int64(math.Round(seconds*1000)), 10)
		}
		return s, nil // the rest is an exemplar or nothing
	}
	if len(word) > 0 {
		if _, err := strconv.ParseInt(string(word), 10, 64); err != nil {
			return s, fmt.Errorf("%.40q: timestamp", line)
		}
		s.timestamp = string(word)
	}
	if len(rest) > 0 {
		return s, fmt.Errorf("%.40q: more than a sample", line)
	}
	return s, nil
}

// nameLength returns the length of the name of a metric, or of a label, at the start
// of text; 0 is none.
func nameLength(text []byte, metric bool) int {
	n := 0
	for n < len(text) {
		c := text[n]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || metric && c == ':'
		if !letter && (n == 0 || c < '0' || c > '9') {
			break
		}
		n++
	}
	return n
}

// labelsEnd returns what follows the labels that open at a brace, or -1.
func labelsEnd(line []byte, at int) int {
	var few [16][]byte
	names := few[:0]
	at = skipBlank(line, at+1)
	for at < len(line) && line[at] != '}' {
		name := line[at : at+nameLength(line[at:], false)]
		if len(name) == 0 || string(name) == "__name__" || slices.ContainsFunc(names, func(n []byte) bool { return bytes.Equal(n, name) }) {
			return -1
		}
		names = append(names, name)
		at = skipBlank(line, at+len(name))
		if at >= len(line) || line[at] != '=' {
			return -1
		}
		at = skipBlank(line, at+1)
		if at >= len(line) || line[at] != '"' {
			return -1
		}
		if at = quotedEnd(line, at); at < 0 {
			return -1
		}
		at = skipBlank(line, at)
		if at < len(line) && line[at] == ',' {
			at = skipBlank(line, at+1)
		} else if at < len(line) && line[at] != '}' {
			return -1
		}
	}
	if at >= len(line) {
		return -1
	}
	return at + 1
}

// quotedEnd returns what follows the quoted text that opens at a quote, or -1.
func quotedEnd(line []byte, at int) int {
	for at++; at < len(line); at++ {
		switch line[at] {
		case '"':
			return at + 1
		case '\\':
			at++
			if at >= len(line) || !strings.ContainsRune(`\"n`, rune(line[at])) {
				return -1
			}
		}
	}
	return -1
}

func skipBlank(line []byte, at int) int {
	for at < len(line) && (line[at] == ' ' || line[at] == '\t') {
		at++
	}
	return at
}

func wordEnd(line []byte, at int) int {
	for at < len(line) && line[at] != ' ' && line[at] != '\t' {
		at++
	}
	return at
}
