// The oracle of Talos 1.13.
package main

import (
	"fmt"
	"os"

	"oracle/machineconfig"
)

// version is the tag of the library in go.mod.
const version = "v1.13.9"

func main() {
	line := machineconfig.Line{Version: version, Tree: tree}

	if err := machineconfig.Serve(line, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
