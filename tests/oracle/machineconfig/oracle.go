// Package machineconfig answers questions about Talos machine configs with the official library.
//
// One question is one line of JSON on standard input, its answer one line of JSON on standard output.
// The package is compiled once per Talos line, each time against that line's library.
package machineconfig

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"

	coreconfig "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/validation"
)

// Line is what differs between the Talos lines and cannot be told from the library itself.
type Line struct {
	// Version is the tag of the library.
	Version string
	// Tree parses YAML with the YAML library of the line.
	Tree func(text []byte) ([]*Node, error)
}

// Node is a YAML node as the YAML library of the line sees it.
type Node struct {
	Kind    string  `json:"kind"`
	Tag     string  `json:"tag,omitempty"`
	Value   string  `json:"value,omitempty"`
	Anchor  string  `json:"anchor,omitempty"`
	Style   string  `json:"style,omitempty"`
	Line    int     `json:"line"`
	Column  int     `json:"column"`
	Content []*Node `json:"content,omitempty"`
}

type request struct {
	ID  uint64 `json:"id"`
	Op  string `json:"op"`
	B64 bool   `json:"b64"`

	Config  string   `json:"config"`
	Patches []string `json:"patches"`

	Mode   string `json:"mode"`
	Strict bool   `json:"strict"`
	Local  bool   `json:"local"`
}

type response struct {
	ID uint64 `json:"id"`
	OK bool   `json:"ok"`

	// Stage says where a refusal came from: load-patch, apply, encode, load, validate.
	Stage string `json:"stage,omitempty"`
	Error string `json:"error,omitempty"`
	Panic bool   `json:"panic,omitempty"`

	// Output is what the official tool would print.
	Output string `json:"output,omitempty"`
	// Canonical is the output loaded and encoded again.
	Canonical string `json:"canonical,omitempty"`
	// LoadError says why the output is no machine config.
	LoadError string `json:"loadError,omitempty"`

	Warnings []string `json:"warnings,omitempty"`
	Errors   []string `json:"errors,omitempty"`

	Tree    []*Node `json:"tree,omitempty"`
	Version string  `json:"version,omitempty"`
	Fields  string  `json:"fields,omitempty"`
}

type stageError struct {
	stage string
	err   error
}

func (e stageError) Error() string { return e.err.Error() }
func (e stageError) Unwrap() error { return e.err }

// Serve answers requests until the input ends.
func Serve(line Line, in io.Reader, out io.Writer) error {
	reader := bufio.NewReaderSize(in, 1<<20)
	writer := bufio.NewWriterSize(out, 1<<20)
	enc := json.NewEncoder(writer)
	enc.SetEscapeHTML(false)

	for {
		text, err := reader.ReadBytes('\n')
		if len(text) > 0 {
			var req request

			if decodeErr := json.Unmarshal(text, &req); decodeErr != nil {
				return fmt.Errorf("request is not valid: %w", decodeErr)
			}

			if encodeErr := enc.Encode(answer(line, req)); encodeErr != nil {
				return encodeErr
			}

			// Answers are held back while more questions are waiting: a batch costs one write.
			if reader.Buffered() == 0 {
				if flushErr := writer.Flush(); flushErr != nil {
					return flushErr
				}
			}
		}

		if err == io.EOF {
			return writer.Flush()
		}

		if err != nil {
			return err
		}
	}
}

func answer(line Line, req request) (resp response) {
	resp.ID = req.ID

	defer func() {
		if r := recover(); r != nil {
			resp = response{ID: req.ID, Panic: true, Error: fmt.Sprint(r), Stage: panicStage()}
		}
	}()

	config, err := text(req, req.Config)
	if err != nil {
		resp.Error = err.Error()

		return resp
	}

	switch req.Op {
	case "version":
		resp.Version = line.Version
		resp.OK = true
	case "patch":
		patches := make([]string, 0, len(req.Patches))

		for _, patch := range req.Patches {
			decoded, err := text(req, patch)
			if err != nil {
				resp.Error = err.Error()

				return resp
			}

			patches = append(patches, string(decoded))
		}

		output, err := patch(config, patches)
		if err != nil {
			resp.fail(err)

			return resp
		}

		resp.OK = true
		resp.Output = string(output)
		resp.canonicalize(output)
	case "canonical":
		resp.OK = true
		resp.canonicalize(config)
	case "validate":
		validate(&resp, config, req)
	case "generate":
		// The config of the request names the contract, its only patch the Kubernetes version.
		kubernetes := ""

		if len(req.Patches) == 1 {
			decoded, err := text(req, req.Patches[0])
			if err != nil {
				resp.Error = err.Error()

				return resp
			}

			kubernetes = string(decoded)
		}

		output, err := generated(string(config), req.Mode, kubernetes)
		if err != nil {
			resp.fail(stageError{"generate", err})

			return resp
		}

		resp.OK = true
		resp.Output = output
	case "fields":
		resp.OK = true
		resp.Fields = Fields(line)
	case "tree":
		tree, err := line.Tree(config)
		if err != nil {
			resp.fail(err)

			return resp
		}

		resp.OK = true
		resp.Tree = tree
	default:
		resp.Error = "unknown operation " + req.Op
	}

	return resp
}

func text(req request, value string) ([]byte, error) {
	if req.B64 {
		return base64.StdEncoding.DecodeString(value)
	}

	return []byte(value), nil
}

func (resp *response) fail(err error) {
	resp.Error = err.Error()

	if staged, ok := err.(stageError); ok { //nolint:errorlint // never wrapped
		resp.Stage = staged.stage
	}
}

// panicStage names the part of the library that panicked.
func panicStage() string {
	buf := make([]byte, 1<<16)
	trace := string(buf[:runtime.Stack(buf, false)])

	switch {
	case strings.Contains(trace, "configpatcher.LoadPatch"):
		return "load-patch"
	case strings.Contains(trace, "configpatcher.Apply"):
		return "apply"
	case strings.Contains(trace, "EncodeBytes"):
		return "encode"
	default:
		return "load"
	}
}

// patch does what `talosctl machineconfig patch` does with the config and the values of its -p flags.
func patch(config []byte, values []string) ([]byte, error) {
	patches, err := configpatcher.LoadPatches(values)
	if err != nil {
		return nil, stageError{"load-patch", err}
	}

	patched, err := configpatcher.Apply(configpatcher.WithBytes(config), patches)
	if err != nil {
		return nil, stageError{"apply", err}
	}

	output, err := patched.Bytes()
	if err != nil {
		return nil, stageError{"encode", err}
	}

	return output, nil
}

// canonicalize loads a config as a node does and encodes it again.
func (resp *response) canonicalize(config []byte) {
	defer func() {
		if r := recover(); r != nil {
			resp.Canonical = ""
			resp.LoadError = fmt.Sprintf("panic: %v", r)
		}
	}()

	provider, err := configloader.NewFromBytes(config)
	if err != nil {
		resp.LoadError = err.Error()

		return
	}

	encoded, err := provider.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))
	if err != nil {
		resp.LoadError = err.Error()

		return
	}

	resp.Canonical = string(encoded)
}

type mode string

func (m mode) String() string        { return string(m) }
func (m mode) RequiresInstall() bool { return m == "metal" }
func (m mode) InContainer() bool     { return m == "container" }

// validate does what `talosctl validate` does.
func validate(resp *response, config []byte, req request) {
	provider, err := configloader.NewFromBytes(config)
	if err != nil {
		resp.fail(stageError{"load", err})

		return
	}

	var options []validation.Option

	if req.Strict {
		options = append(options, validation.WithStrict())
	}

	if req.Local {
		options = append(options, validation.WithLocal())
	}

	warnings, err := validateConfig(provider, mode(req.Mode), options)

	resp.Warnings = warnings
	resp.OK = err == nil

	if err != nil {
		resp.Stage = "validate"
		resp.Error = err.Error()
		resp.Errors = flatten(err)
	}
}

func validateConfig(provider coreconfig.Provider, m mode, options []validation.Option) ([]string, error) {
	return provider.Validate(m, options...)
}

// flatten lists the single errors of nested multi-errors, each with the prefixes of its wrappers.
func flatten(err error) []string {
	type multi interface{ WrappedErrors() []error }

	if m, ok := err.(multi); ok { //nolint:errorlint // the outermost is the one meant
		var out []string

		for _, inner := range m.WrappedErrors() {
			out = append(out, flatten(inner)...)
		}

		return out
	}

	type wrapper interface{ Unwrap() error }

	if w, ok := err.(wrapper); ok { //nolint:errorlint // walks the chain by hand
		inner := w.Unwrap()
		if inner != nil {
			if nested := flatten(inner); len(nested) > 1 || (len(nested) == 1 && nested[0] != inner.Error()) {
				prefix, _, _ := strings.Cut(err.Error(), inner.Error())

				for i := range nested {
					nested[i] = prefix + nested[i]
				}

				return nested
			}
		}
	}

	return []string{err.Error()}
}
