package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/garrison-mesh/garrison/internal/ledger"
)

func caLog(env Env) *cobra.Command {
	return group(&cobra.Command{
		Use:   "log",
		Short: "Check and search the issuance log",
	},
		caLogVerify(env),
		caLogSearch(env),
	)
}

func caLogVerify(env Env) *cobra.Command {
	var leaf, format string
	c := &cobra.Command{
		Use:   "verify [-f FILE]... | verify --pod POD",
		Short: "Say whether an issuance log is what Citadel wrote",
		Long: `Say whether an issuance log is what Citadel wrote: no line changed, removed, repeated or
moved, checkpoints signed, and its end where it was when the last checkpoint was
published. The first break of each chain is told with its line. The exit code is 3 where
there is any, or where --leaf is not in the log.

FILE may hold other text as well, and what container runtimes and kubectl put before a
line. Files of one log are given in their order. Without the published checkpoints
(--published), a log that was cut off at its end, or made again as a whole, looks whole.

Without files it reads Citadel's pods, of which the kubelet keeps the end of the output.`,
		Example: `  garrison ca log verify
  garrison ca log verify -f /var/log/garrison --published configmap.yaml
  kubectl -n istio-system logs citadel-5d9c7b9c4-x2x8p | garrison ca log verify -f - --leaf cert.pem`,
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&leaf, "leaf", "", "file with a certificate (PEM), or its SHA-256, that must be in the log")
	f.StringVarP(&format, "output", "o", "", "json or yaml: chains and breaks, with fields that stay")
	s := newLogSources(env, f)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := errors.Join(s.check(), checkFormat(format)); err != nil {
			return mistaken(c, err)
		}
		q, err := leafQuery(leaf)
		if err != nil {
			return err
		}
		var found logFound
		found.Report, err = s.read(c, func(l located) {
			if q.Leaf != "" && q.Matches(l.Record) {
				found.Included = append(found.Included, l)
			}
		})
		if err != nil {
			return err
		}
		name(found.Included, found.Report)
		if format != "" {
			err = asData(c.OutOrStdout(), format, found)
		} else {
			err = writeVerified(c.OutOrStdout(), found, s.published != "" || len(s.files) == 0)
		}
		switch {
		case err != nil:
			return err
		case len(found.Breaks) > 0:
			return foundError{fmt.Errorf("the log is broken: %w", &found.Breaks[0])}
		case q.Leaf != "" && len(found.Included) == 0:
			return foundError{fmt.Errorf("certificate %s is not in the log", q.Leaf)}
		}
		return nil
	}
	return c
}

// check reports flags that contradict each other.
func (s *logSources) check() error {
	if s.pod != "" && len(s.files) > 0 {
		return errors.New("--pod: not with --filename")
	}
	return nil
}

// leafQuery reads what the flag --leaf says: a file, or else a hash.
func leafQuery(leaf string) (q ledger.Query, err error) {
	if leaf == "" {
		return q, nil
	}
	text, err := os.ReadFile(leaf)
	if err != nil {
		text = []byte(leaf)
	}
	if q.Leaf, err = ledger.LeafOf(text); err != nil {
		return q, fmt.Errorf("--leaf %s: %w", leaf, err)
	}
	return q, nil
}

// name says whose records they are, which only the whole log knows.
func name(records []located, r ledger.Report) {
	for i := range records {
		for _, c := range r.Chains {
			if slices.Contains(c.Runs, records[i].Run) {
				records[i].Replica = c.Replica
			}
		}
	}
}

func writeVerified(w io.Writer, found logFound, held bool) error {
	var b strings.Builder
	for _, c := range found.Chains {
		fmt.Fprintf(&b, "replica %s: records %d to %d, from %s to %s; %d issued, %d refused\n",
			cmp.Or(plain(c.Replica), "unknown"), c.First, c.Last,
			c.Begun.Format(time.RFC3339), c.Ended.Format(time.RFC3339), c.Issued, c.Refused)
		fmt.Fprintf(&b, "  signed: up to record %d\n", c.Signed)
		if c.Unchecked > 0 {
			fmt.Fprintf(&b, "  not checked: %d checkpoints, whose key is not known here; --key or --published has it\n", c.Unchecked)
		}
		if held {
			fmt.Fprintf(&b, "  published: up to record %d\n", c.Published)
		}
	}
	for _, l := range found.Included {
		fmt.Fprintf(&b, "certificate %s: record %d, %s:%d\n", l.Leaf, l.Seq, l.File, l.Line)
	}
	for _, broken := range found.Breaks {
		fmt.Fprintf(&b, "broken: %s\n", plain(broken.Error()))
	}
	switch {
	case len(found.Breaks) > 0:
	case held:
		b.WriteString("whole\n")
	default:
		b.WriteString("whole, as far as it goes: held to no published checkpoint, a log without its end looks the same\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func caLogSearch(env Env) *cobra.Command {
	var q ledger.Query
	var leaf, since, until, format string
	c := &cobra.Command{
		Use:   "search [-f FILE]... [--id ID] [--serial SERIAL] ...",
		Short: "List entries of an issuance log",
		Long: `List the entries of an issuance log that have all that is asked for: certificates that
were issued, and requests that were refused. Of many that were refused in a minute there are
entries with their number, for a caller and a rule or for a rule. Where the log is broken,
that is said on standard error, and the entries are listed that fit their own hash.`,
		Example: `  garrison ca log search --id spiffe://cluster.local/ns/shop/sa/cart --since 24h
  garrison ca log search -f citadel.log --serial 5e:0a:…
  garrison ca log search --event refused --since 1h -o json`,
		Args:                  noArgs,
		DisableFlagsInUseLine: true,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&q.ID, "id", "", "SPIFFE ID in the certificate, or asked for")
	f.StringVar(&q.Serial, "serial", "", "serial number, hexadecimal")
	f.StringVar(&leaf, "leaf", "", "file with the certificate (PEM), or its SHA-256")
	f.StringVar(&q.Pod, "pod-uid", "", "UID of the pod that asked")
	f.StringVar(&q.Request, "request", "", "id of the request, as the client was told")
	f.StringVar(&q.Event, "event", "", "issued or refused")
	f.StringVar(&since, "since", "", "time in RFC 3339, or how long ago: 90m")
	f.StringVar(&until, "until", "", "likewise; entries before it")
	f.StringVarP(&format, "output", "o", "", "json or yaml: a list of entries, with fields that stay")
	s := newLogSources(env, f)
	c.RunE = func(c *cobra.Command, _ []string) error {
		from, errFrom := moment(since, time.Now())
		to, errTo := moment(until, time.Now())
		if err := errors.Join(s.check(), checkFormat(format), errFrom, errTo); err != nil {
			return mistaken(c, err)
		}
		byLeaf, err := leafQuery(leaf)
		if err != nil {
			return err
		}
		q.Leaf, q.From, q.To = byLeaf.Leaf, from, to
		found, err := s.find(c, q.Matches)
		if err != nil {
			return err
		}
		if format != "" {
			return asData(c.OutOrStdout(), format, found)
		}
		return writeEntries(c.OutOrStdout(), found)
	}
	return c
}

// find returns the records that are looked for, in the order of their time. That the log is
// broken does not keep them back.
func (s *logSources) find(c *cobra.Command, is func(ledger.Record) bool) ([]located, error) {
	found := []located{}
	report, err := s.read(c, func(l located) {
		if is(l.Record) {
			found = append(found, l)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(report.Breaks) > 0 {
		fmt.Fprintf(c.ErrOrStderr(), "note: the log is broken: %s\n", plain(report.Breaks[0].Error()))
	}
	slices.SortStableFunc(found, func(a, b located) int { return a.Time.Compare(b.Time) })
	name(found, report)
	return found, nil
}

// moment reads a time, or how long ago it is; "" is the zero time.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: neither a time such as 2026-01-02T15:04:05Z nor a duration such as 90m", text)
	}
	return at, nil
}

func writeEntries(w io.Writer, found []located) error {
	if len(found) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TIME\tEVENT\tID\tHOW\tSERIAL\tRULE\tREQUEST\tREPLICA")
	for _, l := range found {
		row, event := []string{l.Time.UTC().Format(time.RFC3339)}, l.Event
		if l.Count > 0 {
			event = fmt.Sprintf("%d %s", l.Count, l.Event)
		}
		for _, text := range []string{event, l.ID, l.How, l.Serial, l.Rule, l.Request, l.Replica} {
			row = append(row, orDash(plain(text)))
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

// plain returns text as a terminal may get it, quoted where strangers have put anything
// into it that does not only print.
func plain(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}
