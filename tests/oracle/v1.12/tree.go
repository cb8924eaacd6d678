package main

import (
	"bytes"
	"errors"
	"io"

	"go.yaml.in/yaml/v4"

	"oracle/machineconfig"
)

// tree parses a stream with the YAML library that this line's decoder uses.
func tree(text []byte) ([]*machineconfig.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))

	var documents []*machineconfig.Node

	for {
		var document yaml.Node

		if err := decoder.Decode(&document); err != nil {
			if errors.Is(err, io.EOF) {
				return documents, nil
			}

			return nil, err
		}

		documents = append(documents, convert(&document))
	}
}

func convert(node *yaml.Node) *machineconfig.Node {
	out := &machineconfig.Node{
		Tag:    node.ShortTag(),
		Value:  node.Value,
		Anchor: node.Anchor,
		Line:   node.Line,
		Column: node.Column,
	}

	switch node.Kind { //nolint:exhaustive
	case yaml.DocumentNode:
		out.Kind = "document"
	case yaml.SequenceNode:
		out.Kind = "sequence"
	case yaml.MappingNode:
		out.Kind = "mapping"
	case yaml.ScalarNode:
		out.Kind = "scalar"
	case yaml.AliasNode:
		out.Kind = "alias"
	}

	for _, child := range node.Content {
		out.Content = append(out.Content, convert(child))
	}

	return out
}
