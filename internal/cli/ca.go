package cli

import (
	"github.com/spf13/cobra"
)

// caCommand has what is about Citadel and the certificates that it issues.
func caCommand(env Env) *cobra.Command {
	return group(&cobra.Command{
		Use:   "ca",
		Short: "Look into Citadel and what it has issued",
		Long: `Look into Citadel and what it has issued.

Citadel keeps an issuance log: a line for each certificate that it makes and each request
that it refuses, in a chain that shows when somebody has changed it.`,
	},
		caStatus(env),
		caLog(env),
		caWhy(env),
		caRevoke(env),
	)
}
