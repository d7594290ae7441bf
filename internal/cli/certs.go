package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-mesh/garrison/internal/ca"
)

// heldAt is what a place in the cluster holds. Its JSON is for programs: fields stay.
type heldAt struct {
	Kind      string   `json:"kind"` // as kubectl takes it
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name"`
	Entries   []string `json:"entries,omitempty"` // of a webhook configuration: which have this bundle
	ca.Held
}

func certs(env Env) *cobra.Command {
	var all, metadata bool
	var expiring, format string
	c := &cobra.Command{
		Use:   "certs",
		Short: "List the certificates that are held in the cluster, by when they end",
		Long: `List the certificates that are held in the cluster, those that end first at the top: in
Secrets istio.* of service accounts, and the roots in ConfigMaps istio-ca-root-cert. With
-n istio-system or -A also the Secrets of the CA, and the caBundle of the webhooks. For
each it says what signed it, which root it chains to, and what is wrong with it: a key
that is another certificate's, a name that is another account's, roots that are not those
in use.

SIGNER and ROOT are the beginning of the SHA-256 of a certificate, as garrison ca status
and the metrics have it. Keys are compared here and never printed. With --metadata no
content of Secrets of service accounts is asked for: of them the list says what Citadel
has noted in their annotations, which nothing vouches for. To the API server that takes
the same right, to list Secrets.

Where your rights do not suffice, that is said on standard error, and the rest is listed.
With --expiring the exit code is 3 where anything ends by then, or nobody can tell when
it does. It is 1 where nothing is found and not everything could be read.`,
		Example: `  garrison certs -n shop
  garrison certs -A --expiring 30d
  garrison certs -A -o json`,
		Args: noArgs,
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVarP(&all, "all-namespaces", "A", false, "those of all namespaces, and the webhooks'")
	f.StringVar(&expiring, "expiring", "", "only those that end within this time, such as 30d or 12h, or have ended")
	f.BoolVar(&metadata, "metadata", false, "do not read the Secrets of service accounts, only their annotations")
	f.StringVarP(&format, "output", "o", "", "json or yaml: a list, with fields that stay")
	a := newAccess(env, f)
	c.RunE = func(c *cobra.Command, _ []string) error {
		within, err := ahead(expiring)
		err = errors.Join(err, checkFormat(format))
		if all && a.overrides.Context.Namespace != "" {
			err = errors.Join(err, errors.New("--all-namespaces: not with --namespace"))
		}
		if err != nil {
			return mistaken(c, err)
		}
		client, err := a.needed()
		if err != nil {
			return err
		}
		namespace := ""
		if !all {
			if namespace, err = a.namespace(); err != nil {
				return err
			}
		}
		r := &certReader{client: client, namespace: namespace, metadata: metadata, now: time.Now()}
		r.read(c.Context())
		for _, err := range r.unread {
			fmt.Fprintf(c.ErrOrStderr(), "note: %s\n", oneLine(err))
		}
		if expiring != "" {
			r.found = slices.DeleteFunc(r.found, func(h heldAt) bool { return h.NotAfter.After(r.now.Add(within)) })
		}
		if format != "" {
			err = asData(c.OutOrStdout(), format, r.found)
		} else {
			err = writeCerts(c.OutOrStdout(), r.found)
		}
		switch {
		case err != nil:
			return err
		case expiring != "" && len(r.found) > 0:
			return foundError{fmt.Errorf("%d end within %s", len(r.found), expiring)}
		case len(r.found) == 0 && len(r.unread) > 0:
			return errors.New("nothing found, but not everything could be read")
		}
		return nil
	}
	return c
}

// ahead reads how long from now something is: a duration, or days; "" is none.
func ahead(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16) // 179 years
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("--expiring %q: neither days such as 30d nor a duration such as 12h", text)
	}
	return d, nil
}

func writeCerts(w io.Writer, found []heldAt) error {
	if len(found) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "EXPIRES\tNAMESPACE\tOBJECT\tHOLDS\tSIGNER\tROOT\tSTATE")
	for _, h := range found {
		expires := "unknown"
		if !h.NotAfter.IsZero() {
			expires = h.NotAfter.UTC().Format(time.RFC3339)
		}
		var roots []string
		for _, root := range h.Roots {
			roots = append(roots, ca.Short(root))
		}
		state := strings.Join(append(slices.Clone(h.Problems), h.Notes...), "; ")
		if state == "" {
			state = "good"
		}
		fmt.Fprintf(table, "%s\t%s\t%s/%s\t%s\t%s\t%s\t%s\n", expires, orDash(h.Namespace), h.Kind, h.Name, h.Holds,
			orDash(ca.Short(h.Signer)), orDash(strings.Join(roots, ",")), plain(state))
	}
	return table.Flush()
}
