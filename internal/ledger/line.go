package ledger

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine is how much of a line is kept, in bytes. The longest record is far below.
const maxLine = 1 << 20

// line is one line of input, without what a container runtime or kubectl puts before
// it, put together from its parts.
type line struct {
	text   []byte // valid until the next one is read
	number int    // of its first part
	other  bool   // of another stream than the log's
	ended  bool   // by the end of a line
}

// lineReader reads the lines of a file of log, or of a container's output as a container
// runtime keeps it: time, stream, tag, text. Long lines come in parts there, all but the
// last of them with the tag P.
type lineReader struct {
	r      *bufio.Reader
	number int
	buffer []byte
	parts  []byte // of standard output
	first  int    // line number of parts, 0: none
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns [io.EOF] after the last line.
func (lr *lineReader) next() (line, error) {
	for {
		raw, ended, err := lr.raw()
		if err != nil {
			if errors.Is(err, io.EOF) && lr.first > 0 { // the rest of a line is not there
				l := line{text: lr.parts, number: lr.first}
				lr.first = 0
				return l, nil
			}
			return line{}, err
		}
		l := line{text: raw, number: lr.number, ended: ended}
		stream, partial, text, ok := runtimeLine(raw)
		switch {
		case !ok:
		case stream != "stdout":
			l.other = true
			return l, nil
		case partial:
			if lr.first == 0 {
				lr.first, lr.parts = lr.number, lr.parts[:0]
			}
			lr.parts = append(lr.parts, text[:min(len(text), maxLine-len(lr.parts))]...)
			continue
		case lr.first > 0:
			lr.parts = append(lr.parts, text[:min(len(text), maxLine-len(lr.parts))]...)
			l.text, l.number, lr.first = lr.parts, lr.first, 0
		default:
			l.text = text
		}
		if i := bytes.Index(l.text, []byte(lineStart)); i > 0 { // behind what kubectl puts before it
			l.text = l.text[i:]
		}
		return l, nil
	}
}

// raw reads up to the end of a line and keeps its first maxLine bytes.
func (lr *lineReader) raw() (text []byte, ended bool, err error) {
	lr.buffer = lr.buffer[:0]
	lr.number++
	for {
		part, err := lr.r.ReadSlice('\n')
		if len(part) > 0 && part[len(part)-1] == '\n' {
			part, ended = part[:len(part)-1], true
		}
		lr.buffer = append(lr.buffer, part[:min(len(part), maxLine-len(lr.buffer))]...)
		switch {
		case ended:
			return lr.buffer, true, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(lr.buffer) > 0:
			return lr.buffer, false, nil
		case err != nil:
			return nil, false, err
		}
	}
}

// runtimeLine takes apart a line as container runtimes write it:
// 2026-01-02T03:04:05.678901234Z stdout F text.
func runtimeLine(raw []byte) (stream string, partial bool, text []byte, ok bool) {
	at, rest, ok := bytes.Cut(raw, []byte(" "))
	if !ok || len(at) < len("2026-01-02T03:04:05Z") || at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' {
		return "", false, nil, false
	}
	name, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok || string(name) != "stdout" && string(name) != "stderr" {
		return "", false, nil, false
	}
	tag, text, ok := bytes.Cut(rest, []byte(" "))
	first, _, _ := bytes.Cut(tag, []byte(":"))
	if !ok || string(first) != "F" && string(first) != "P" {
		return "", false, nil, false
	}
	return string(name), string(first) == "P", text, true
}
