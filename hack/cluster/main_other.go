//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "cluster: the lab needs Linux.\n"+ownCluster)
	os.Exit(1)
}
