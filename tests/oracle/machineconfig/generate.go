package machineconfig

import (
	"errors"
	"fmt"
	"time"

	coreconfig "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
)

// generated makes the config that `talosctl gen config` writes for a contract such as v1.13, with secrets of its own.
// The mode of the request is the type of the machine: controlplane or worker.
func generated(contract, machineType, kubernetes string) (string, error) {
	kind, err := machine.ParseType(machineType)
	if err != nil {
		return "", err
	}

	parsed, err := coreconfig.ParseContractFromVersion(contract)
	if err != nil {
		return "", err
	}

	bundle, err := secrets.NewBundle(secrets.NewFixedClock(time.Now()), parsed)
	if err != nil {
		return "", err
	}

	if kubernetes == "" {
		return "", errors.New("a Kubernetes version is needed")
	}

	input, err := generate.NewInput("throw-away", "https://192.168.1.10:6443", kubernetes,
		generate.WithVersionContract(parsed),
		generate.WithSecretsBundle(bundle),
		generate.WithInstallDisk("/dev/sda"),
		generate.WithInstallImage(fmt.Sprintf("ghcr.io/siderolabs/installer:%s.0", contract)),
	)
	if err != nil {
		return "", err
	}

	config, err := input.Config(kind)
	if err != nil {
		return "", err
	}

	text, err := config.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))

	return string(text), err
}
