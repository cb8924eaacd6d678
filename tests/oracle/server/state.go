package main

import (
	"context"
	"fmt"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/impl/inmem"
	"github.com/cosi-project/runtime/pkg/state/impl/namespaced"
	"github.com/cosi-project/runtime/pkg/state/protobuf/server"
	"github.com/cosi-project/runtime/pkg/state/registry"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/extensions"
	machinerymeta "github.com/siderolabs/talos/pkg/machinery/meta"
	"github.com/siderolabs/talos/pkg/machinery/resources/config"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"google.golang.org/grpc"
)

// State is the official COSI state in memory, as the official server serves it, with the machine configs of a node.
type State struct {
	resources state.State
}

func newState() (*State, error) {
	resources := state.WrapCore(namespaced.NewState(inmem.Build))
	ctx := context.Background()

	namespaces := registry.NewNamespaceRegistry(resources)
	if err := namespaces.RegisterDefault(ctx); err != nil {
		return nil, err
	}

	if err := namespaces.Register(ctx, config.NamespaceName, "Machine configuration"); err != nil {
		return nil, err
	}

	kinds := registry.NewResourceRegistry(resources)
	if err := kinds.RegisterDefault(ctx); err != nil {
		return nil, err
	}

	if err := namespaces.Register(ctx, runtime.NamespaceName, "Talos runtime"); err != nil {
		return nil, err
	}

	for _, kind := range []meta.ResourceWithRD{
		&config.MachineConfig{}, &runtime.MachineStatus{}, &runtime.BootID{}, &runtime.ExtensionStatus{}, &runtime.MetaKey{},
	} {
		if err := kinds.Register(ctx, kind); err != nil {
			return nil, err
		}
	}

	return &State{resources: resources}, nil
}

func (s *State) register(grpcServer *grpc.Server) {
	v1alpha1.RegisterStateServer(grpcServer, server.NewState(s.resources))
}

// put makes a machine config the one of this id.
func (s *State) put(id, text string) error {
	ctx := context.Background()

	provider, err := configloader.NewFromBytes([]byte(text))
	if err != nil {
		return err
	}

	fresh := config.NewMachineConfigWithID(provider, id)

	old, err := s.resources.Get(ctx, fresh.Metadata())
	if state.IsNotFoundError(err) {
		return s.resources.Create(ctx, fresh)
	}

	if err != nil {
		return err
	}

	fresh.Metadata().SetVersion(old.Metadata().Version())
	fresh.Metadata().SetCreated(old.Metadata().Created())

	return s.resources.Update(ctx, fresh)
}

func (s *State) destroy(id string) error {
	pointer := resource.NewMetadata(config.NamespaceName, config.MachineConfigType, id, resource.VersionUndefined)
	if err := s.resources.Destroy(context.Background(), pointer); err != nil {
		return fmt.Errorf("failed to destroy %s: %w", id, err)
	}

	return nil
}

// describe makes the resources of a node that comes up after an upgrade.
func (s *State) describe() error {
	status := runtime.NewMachineStatus()
	status.TypedSpec().Stage = runtime.MachineStageBooting
	status.TypedSpec().Status.UnmetConditions = []runtime.UnmetCondition{{Name: "services", Reason: "etcd: not running"}}

	boot := runtime.NewBootID()
	boot.TypedSpec().BootID = "8a0f3c22-9e55-4b5d-9c1e-6a2f0f6f7d10"

	ichor := runtime.NewExtensionStatus(runtime.NamespaceName, "0")
	ichor.TypedSpec().Image = "0.sqsh"
	ichor.TypedSpec().Metadata = extensions.Metadata{Name: "ichor", Version: "0.1.0", Author: "x", Description: "y: z"}

	schematic := runtime.NewExtensionStatus(runtime.NamespaceName, "1")
	schematic.TypedSpec().Image = "1.sqsh"
	schematic.TypedSpec().Metadata = extensions.Metadata{Name: "schematic", Version: "37656798"}

	marker := runtime.NewMetaKey(runtime.NamespaceName, runtime.MetaKeyTagToID(machinerymeta.Upgrade))
	marker.TypedSpec().Value = "A"

	for _, fresh := range []resource.Resource{status, boot, ichor, schematic, marker} {
		if err := s.resources.Create(context.Background(), fresh); err != nil {
			return err
		}
	}

	return nil
}
