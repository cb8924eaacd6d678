package main

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// compare tells where a set of descriptors says something else than the official one: about services, methods,
// messages, fields and enums that it has, and about fields and enum values that it lacks.
func compare(data []byte) ([]string, error) {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		return nil, err
	}

	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, err
	}

	differ := &differ{}

	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if file.Package() == "google.protobuf" {
			return true
		}

		for i := range file.Services().Len() {
			differ.service(file.Services().Get(i))
		}

		differ.messages(file.Messages())
		differ.enums(file.Enums())

		return true
	})

	slices.Sort(differ.problems)

	return differ.problems, nil
}

type differ struct {
	problems []string
}

func (differ *differ) note(format string, args ...any) {
	differ.problems = append(differ.problems, fmt.Sprintf(format, args...))
}

// official finds what the official library has under the same name.
func official[D protoreflect.Descriptor](differ *differ, ours D) (theirs D, ok bool) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(ours.FullName())
	if err == nil {
		theirs, ok = found.(D)
	}

	if !ok {
		differ.note("%s: not in the official API", ours.FullName())
	}

	return theirs, ok
}

func (differ *differ) service(service protoreflect.ServiceDescriptor) {
	if _, ok := official(differ, service); !ok {
		return
	}

	for i := range service.Methods().Len() {
		ours := service.Methods().Get(i)
		if theirs, ok := official(differ, ours); ok {
			differ.same(ours, "types and streams", shapeOfMethod(ours), shapeOfMethod(theirs))
		}
	}
}

func (differ *differ) messages(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		message := messages.Get(i)
		if message.IsMapEntry() {
			continue
		}

		differ.messages(message.Messages())
		differ.enums(message.Enums())

		theirs, ok := official(differ, message)
		if !ok {
			continue
		}

		for j := range message.Fields().Len() {
			field := message.Fields().Get(j)
			if other := theirs.Fields().ByNumber(field.Number()); other == nil {
				differ.note("%s = %d: not in the official API", field.FullName(), field.Number())
			} else {
				differ.same(field, "shape", shapeOfField(field), shapeOfField(other))
			}
		}

		for j := range theirs.Fields().Len() {
			field := theirs.Fields().Get(j)
			if message.Fields().ByNumber(field.Number()) == nil {
				differ.note("%s = %d: missing", field.FullName(), field.Number())
			}
		}
	}
}

func (differ *differ) enums(enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		if theirs, ok := official(differ, enums.Get(i)); ok {
			differ.same(enums.Get(i), "values", shapeOfEnum(enums.Get(i)), shapeOfEnum(theirs))
		}
	}
}

func (differ *differ) same(descriptor protoreflect.Descriptor, what, ours, theirs string) {
	if ours != theirs {
		differ.note("%s: %s: ours %s, official %s", descriptor.FullName(), what, ours, theirs)
	}
}

func shapeOfMethod(method protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("%s (stream %t) -> %s (stream %t)",
		method.Input().FullName(), method.IsStreamingClient(), method.Output().FullName(), method.IsStreamingServer())
}

func shapeOfField(field protoreflect.FieldDescriptor) string {
	shape := fmt.Sprintf("%s %s %s packed=%t presence=%t",
		field.Name(), field.Cardinality(), field.Kind(), field.IsPacked(), field.HasPresence())

	switch {
	case field.IsMap():
		return fmt.Sprintf("%s map<%s, %s>", shape, shapeOfField(field.MapKey()), shapeOfField(field.MapValue()))
	case field.Message() != nil:
		shape += " " + string(field.Message().FullName())
	case field.Enum() != nil:
		shape += " " + string(field.Enum().FullName())
	}

	if oneof := field.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
		shape += " oneof"
	}

	return shape
}

func shapeOfEnum(enum protoreflect.EnumDescriptor) string {
	values := make([]string, enum.Values().Len())
	for i := range values {
		values[i] = fmt.Sprintf("%s=%d", enum.Values().Get(i).Name(), enum.Values().Get(i).Number())
	}

	slices.Sort(values)

	return fmt.Sprint(values)
}
