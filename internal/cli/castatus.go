package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// caStanding is how Citadel stands. Its JSON is for programs: fields stay.
type caStanding struct {
	Signs       *ca.Status       `json:"signs,omitempty"` // nil where nothing can, or it cannot be told
	Leader      leadership       `json:"leader"`
	Replicas    []replica        `json:"replicas"`
	Checkpoints []lastCheckpoint `json:"checkpoints"` // of replicas that are gone, too
	Revocations []ca.Revocation  `json:"revocations"` // in force
	Attention   []string         `json:"attention"`   // what wants somebody to act
	Notes       []string         `json:"notes"`       // what is well, and worth knowing
	Unread      []string         `json:"unread"`      // what could not be told, and why
}

// leadership is who writes Secrets and ConfigMaps.
type leadership struct {
	Holder  string    `json:"holder,omitempty"`
	Renewed time.Time `json:"renewed,omitzero"`
	Leads   bool      `json:"leads"` // has renewed its lease in time
}

// replica is a pod of Citadel.
type replica struct {
	Pod      string    `json:"pod"`
	Ready    bool      `json:"ready"`
	Since    time.Time `json:"since,omitzero"` // it is ready, or is not
	Node     string    `json:"node,omitempty"`
	Restarts int32     `json:"restarts"`
	Why      string    `json:"why,omitempty"` // it is not ready
}

// lastCheckpoint is the newest one that a replica has published of its issuance log.
type lastCheckpoint struct {
	Replica string      `json:"replica"`
	Seq     uint64      `json:"seq"`
	Time    time.Time   `json:"time"`
	Head    ledger.Hash `json:"head"`
	Runs    bool        `json:"runs"` // there is a pod of this name
}

func caStatus(env Env) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what signs, who leads, and how the replicas are",
		Long: `Say what signs certificates, with every certificate of its chain and every root, where the
root's key is and when the intermediate is due; which replica leads; whether the replicas
are ready; how far each has published its issuance log; and who is revoked.

What signs is read from the Secrets of the CA and judged as a Citadel would that starts
now; one that runs may go on with what it had before, and its /readyz says so. Reading
them takes the right to read the CA's keys, which are never printed; without it the rest
is told. Whether replicas are ready is what the API server has noted of their pods: no
right to reach into pods is needed.

The exit code is 3 where anything wants somebody to act: nothing can sign, nobody leads,
a replica is not ready, the root's key is needed. What you may not read is said on
standard error, and does not count.`,
		Example: `  garrison ca status
  garrison ca status -o json`,
		Args: noArgs,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&format, "output", "o", "", "json or yaml: the same, with fields that stay")
	a := newAccess(env, f)
	f.Lookup("namespace").Usage = "namespace of Citadel; none: " + mesh.SystemNamespace
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkFormat(format); err != nil {
			return mistaken(c, err)
		}
		client, err := a.needed()
		if err != nil {
			return err
		}
		r := standingReader{client: client, namespace: cmp.Or(a.overrides.Context.Namespace, mesh.SystemNamespace), now: time.Now()}
		s, err := r.read(c.Context())
		if err != nil {
			return err
		}
		if format != "" {
			err = asData(c.OutOrStdout(), format, s)
		} else {
			for _, note := range s.Unread {
				fmt.Fprintf(c.ErrOrStderr(), "note: %s\n", note)
			}
			err = s.write(c.OutOrStdout())
		}
		if err == nil && len(s.Attention) > 0 {
			err = foundError{errors.New(strings.Join(s.Attention, "; "))}
		}
		return err
	}
	return c
}

func (s *caStanding) write(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-13s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	if s.Signs == nil {
		line("signs", "unknown")
	} else {
		line("signs", "%s, from %s", s.Signs.Source, s.Signs.From)
		line("root key", "%s", s.Signs.RootKey)
		if !s.Signs.Renewal.IsZero() {
			line("intermediate", "due %s", at(s.Signs.Renewal))
		}
		line("ends", "%s", at(s.Signs.Ends))
	}
	switch {
	case s.Leader.Holder == "":
		line("leads", "nobody")
	case s.Leader.Leads:
		line("leads", "%s", plain(s.Leader.Holder))
	default:
		line("leads", "nobody; %s did until %s", plain(s.Leader.Holder), at(s.Leader.Renewed))
	}
	for _, text := range s.Attention {
		line("to do", "%s", plain(text))
	}
	for _, text := range s.Notes {
		line("note", "%s", plain(text))
	}
	tables := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if s.Signs != nil {
		fmt.Fprintln(tables, "\nROLE\tEXPIRES\tSHA-256\tKEY\tSUBJECT")
		for _, c := range s.Signs.Certificates {
			fmt.Fprintf(tables, "%s\t%s\t%s\t%s\t%s\n", c.Role, at(c.NotAfter), ca.Short(c.Fingerprint), c.Key, plain(c.Subject))
		}
		_ = tables.Flush() // into memory
	}
	if len(s.Replicas) > 0 {
		fmt.Fprintln(tables, "\nREPLICA\tREADY\tSINCE\tRESTARTS\tNODE\tWHY NOT")
		for _, r := range s.Replicas {
			ready, since := "no", "-"
			if r.Ready {
				ready = "yes"
			}
			if !r.Since.IsZero() {
				since = at(r.Since)
			}
			fmt.Fprintf(tables, "%s\t%s\t%s\t%d\t%s\t%s\n", r.Pod, ready, since, r.Restarts, orDash(r.Node), orDash(plain(r.Why)))
		}
		_ = tables.Flush()
	}
	if len(s.Checkpoints) > 0 {
		fmt.Fprintln(tables, "\nISSUANCE LOG OF\tRECORDS\tPUBLISHED\tHEAD\tRUNS")
		for _, c := range s.Checkpoints {
			runs := "no"
			if c.Runs {
				runs = "yes"
			}
			fmt.Fprintf(tables, "%s\t%d\t%s\t%s\t%s\n", plain(c.Replica), c.Seq, at(c.Time), ca.Short(c.Head.String()), runs)
		}
		_ = tables.Flush()
	}
	if len(s.Revocations) > 0 {
		fmt.Fprintln(tables, "\nREVOKED\tPROVEN BEFORE\tREASON")
		for _, r := range s.Revocations {
			before := "always"
			if r.Before != nil {
				before = at(*r.Before)
			}
			fmt.Fprintf(tables, "%s\t%s\t%s\n", cmp.Or(r.ID, r.Serial), before, plain(r.Reason))
		}
		_ = tables.Flush()
	}
	_, err := io.WriteString(w, b.String())
	return err
}
