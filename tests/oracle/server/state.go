package main

import (
	"context"
	"fmt"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/impl/inmem"
	"github.com/cosi-project/runtime/pkg/state/impl/namespaced"
	"github.com/cosi-project/runtime/pkg/state/protobuf/server"
	"github.com/cosi-project/runtime/pkg/state/registry"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/resources/config"
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

	kind := &config.MachineConfig{}

	return &State{resources: resources}, kinds.Register(ctx, kind)
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
