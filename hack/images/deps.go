package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// deps are the programs of the host that a build runs, and the Debian packages
// that bring them.
var deps = []struct {
	check []string
	pkg   string
}{
	{[]string{"git", "--version"}, "git"},
	{[]string{"dpkg-deb", "--version"}, "dpkg"},
	{[]string{"apt-get", "--version"}, "apt"},
	{[]string{"python3", "-m", "pip", "--version"}, "python3-pip"},
}

// installDeps installs what is missing, and nothing when nothing is.
func installDeps(ctx context.Context, stdout io.Writer) error {
	var missing []string
	for _, d := range deps {
		if exec.CommandContext(ctx, d.check[0], d.check[1:]...).Run() != nil {
			missing = append(missing, d.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintf(stdout, "installing %s\n", strings.Join(missing, " "))
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
	if _, err := output(ctx, ".", "apt-get", install...); err == nil {
		return nil
	}
	if _, err := output(ctx, ".", "apt-get", "update", "-q"); err != nil { // the lists may just be old
		return errors.Join(fmt.Errorf("packages %s are missing", strings.Join(missing, ", ")), err)
	}
	_, err := output(ctx, ".", "apt-get", install...)
	return err
}
