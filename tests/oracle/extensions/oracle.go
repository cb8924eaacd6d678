// Package extensions answers questions about Talos system extensions with the official library.
//
// One question is one line of JSON on standard input, its answer one line of JSON on standard output.
// The package is compiled once per Talos line, each time against that line's library.
package extensions

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/blang/semver/v4"
	"github.com/siderolabs/talos/pkg/machinery/extensions"
	"github.com/siderolabs/talos/pkg/machinery/extensions/services"
)

// Line is what differs between the Talos lines and cannot be told from the library itself.
type Line struct {
	// Version is the tag of the library, and the version of Talos that constraints are checked against.
	Version string
	// Unmarshal is the YAML decoder of the line.
	Unmarshal func(text []byte, into any) error
	// Marshal is the YAML encoder of the line.
	Marshal func(from any) ([]byte, error)
}

type request struct {
	// Directory holds manifest.yaml and rootfs.
	Directory string `json:"directory"`
	// Specs are files with service specs.
	Specs []string `json:"specs"`
	// Schematic is what is written and hashed as the image factory does.
	Schematic *schematic `json:"schematic"`
}

type response struct {
	// Errors is one text per check that refused.
	Errors []string `json:"errors"`
	Text   string   `json:"text,omitempty"`
	ID     string   `json:"id,omitempty"`
}

// The fields of a schematic in the order in which the factory writes them.
type schematic struct {
	Owner         string        `json:"owner" yaml:"owner,omitempty"`
	Overlay       overlay       `json:"overlay" yaml:"overlay,omitempty"`
	Customization customization `json:"customization" yaml:"customization"`
}

type overlay struct {
	Image string `json:"image" yaml:"image,omitempty"`
	Name  string `json:"name" yaml:"name,omitempty"`
}

type customization struct {
	ExtraKernelArgs  []string         `json:"extraKernelArgs" yaml:"extraKernelArgs,omitempty"`
	Meta             []meta           `json:"meta" yaml:"meta,omitempty"`
	SystemExtensions systemExtensions `json:"systemExtensions" yaml:"systemExtensions,omitempty"`
	Bootloader       string           `json:"bootloader" yaml:"bootloader,omitempty"`
	SecureBoot       secureBoot       `json:"secureboot" yaml:"secureboot,omitempty"`
	DiskImage        diskImage        `json:"diskImage" yaml:"diskImage,omitempty"`
}

type meta struct {
	Key   uint8  `json:"key" yaml:"key"`
	Value string `json:"value" yaml:"value"`
}

type systemExtensions struct {
	OfficialExtensions []string `json:"officialExtensions" yaml:"officialExtensions,omitempty"`
}

type secureBoot struct {
	EnrollKeys                   string `json:"enrollKeys" yaml:"enrollKeys,omitempty"`
	IncludeWellKnownCertificates bool   `json:"includeWellKnownCertificates" yaml:"includeWellKnownCertificates,omitempty"`
}

type diskImage struct {
	SectorSize uint `json:"sectorSize" yaml:"sectorSize,omitempty"`
}

// Serve answers requests until the input ends.
func Serve(line Line, in io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(bufio.NewReader(in))
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)

	for {
		var req request

		if err := decoder.Decode(&req); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}

		if err := encoder.Encode(answer(line, req)); err != nil {
			return err
		}
	}
}

func answer(line Line, req request) response {
	resp := response{Errors: []string{}}

	if req.Directory != "" {
		if err := image(line, req.Directory); err != nil {
			resp.Errors = append(resp.Errors, err.Error())
		}
	}

	for _, path := range req.Specs {
		if err := service(line, path); err != nil {
			resp.Errors = append(resp.Errors, err.Error())
		}
	}

	if req.Schematic != nil {
		text, err := line.Marshal(req.Schematic)
		if err != nil {
			resp.Errors = append(resp.Errors, err.Error())

			return resp
		}

		sum := sha256.Sum256(text)
		resp.Text, resp.ID = string(text), hex.EncodeToString(sum[:])
	}

	return resp
}

func image(line Line, directory string) error {
	extension, err := extensions.Load(directory)
	if err != nil {
		return err
	}

	version, err := semver.ParseTolerant(line.Version)
	if err != nil {
		return fmt.Errorf("version of the line: %w", err)
	}

	return extension.Validate(
		extensions.WithValidateConstraints(),
		extensions.WithValidateContents(),
		extensions.WithTalosVersion(&version),
	)
}

func service(line Line, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}

	var spec services.Spec

	if err := line.Unmarshal(text, &spec); err != nil {
		return err
	}

	return spec.Validate()
}
