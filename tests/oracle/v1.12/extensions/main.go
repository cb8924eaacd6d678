// The oracle of extensions of Talos 1.12.
package main

import (
	"fmt"
	"os"

	"go.yaml.in/yaml/v4"

	"oracle/extensions"
)

// version is the tag of the library in go.mod.
const version = "v1.12.7"

func main() {
	line := extensions.Line{
		Version:   version,
		Unmarshal: func(text []byte, into any) error { return yaml.Unmarshal(text, into) },
		Marshal:   func(from any) ([]byte, error) { return yaml.Marshal(from) },
	}

	if err := extensions.Serve(line, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
