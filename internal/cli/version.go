package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func version(env Env) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "garrison", env.Version)
			return err
		},
	}
}
