package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "github.com/cosi-project/runtime/api/v1alpha1"
	_ "github.com/siderolabs/talos/pkg/machinery/api/cluster"
	_ "github.com/siderolabs/talos/pkg/machinery/api/common"
	_ "github.com/siderolabs/talos/pkg/machinery/api/inspect"
	_ "github.com/siderolabs/talos/pkg/machinery/api/machine"
	_ "github.com/siderolabs/talos/pkg/machinery/api/resource/config"
	_ "github.com/siderolabs/talos/pkg/machinery/api/storage"
	_ "github.com/siderolabs/talos/pkg/machinery/api/time"
	_ "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// A stream has so many messages, the first of them with every field set.
const streamLength = 3

// Echo serves every method of every official service: it keeps what it got, and replies with random messages whose
// seed is a header of the call.
type Echo struct {
	mutex sync.Mutex
	calls []*Call
	// What the next call of a method is answered with.
	scripts map[string][]json.RawMessage
}

// script says what the next call of a method is answered with.
func (echo *Echo) script(method string, replies []json.RawMessage) {
	echo.mutex.Lock()
	defer echo.mutex.Unlock()

	if echo.scripts == nil {
		echo.scripts = map[string][]json.RawMessage{}
	}

	echo.scripts[method] = replies
}

func (echo *Echo) takeScript(method string) ([]json.RawMessage, bool) {
	echo.mutex.Lock()
	defer echo.mutex.Unlock()

	replies, ok := echo.scripts[method]
	delete(echo.scripts, method)

	return replies, ok
}

func (echo *Echo) take() []*Call {
	echo.mutex.Lock()
	defer echo.mutex.Unlock()

	calls := echo.calls
	echo.calls = nil

	return calls
}

func (echo *Echo) register(server *grpc.Server) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			description := &grpc.ServiceDesc{ServiceName: string(service.FullName()), HandlerType: (*any)(nil)}

			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				description.Streams = append(description.Streams, grpc.StreamDesc{
					StreamName:    string(method.Name()),
					ServerStreams: true,
					ClientStreams: true,
					Handler: func(_ any, stream grpc.ServerStream) error {
						return echo.handle(method, stream)
					},
				})
			}

			server.RegisterService(description, echo)
		}

		return true
	})
}

func (echo *Echo) handle(method protoreflect.MethodDescriptor, stream grpc.ServerStream) error {
	headers, _ := metadata.FromIncomingContext(stream.Context())
	call := &Call{
		Method: fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()),
		Node:   strings.Join(headers.Get("node"), ","),
	}

	replies, isScripted := echo.takeScript(call.Method)
	call.isScripted = isScripted

	seed, err := strconv.ParseUint(strings.Join(headers.Get("seed"), ""), 10, 64)
	if err != nil && !isScripted {
		return fmt.Errorf("there is no seed: %w", err)
	}

	for {
		if err = call.receive(method.Input(), &call.Requests, stream.RecvMsg); errors.Is(err, io.EOF) {
			break
		}

		if err != nil {
			return err
		}
	}

	for _, reply := range replies {
		message, err := newMessage(method.Output().FullName())
		if err != nil {
			return err
		}

		if err = protojson.Unmarshal(reply, message); err != nil {
			return fmt.Errorf("a reply of %s: %w", call.Method, err)
		}

		if err = stream.SendMsg(message); err != nil {
			return err
		}
	}

	if !isScripted {
		for i := range length(method.IsStreamingServer()) {
			if err = send(method.Output(), &call.Replies, i == 0, seed+i, stream.SendMsg); err != nil {
				return err
			}
		}
	}

	echo.mutex.Lock()
	echo.calls = append(echo.calls, call)
	echo.mutex.Unlock()

	return nil
}

func length(isStream bool) uint64 {
	if isStream {
		return streamLength
	}

	return 1
}

// call makes a call with random requests.
func (identity *Identity) call(address, path string, seed uint64) (*Call, error) {
	service, name, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")

	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		return nil, err
	}

	method, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no method", path)
	}

	connection, err := identity.dial(address)
	if err != nil {
		return nil, err
	}
	defer connection.Close() //nolint:errcheck // nothing is lost with it

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path)
	if err != nil {
		return nil, err
	}

	call := &Call{Method: path}

	for i := range length(method.IsStreamingClient()) {
		if err = send(method.Input(), &call.Requests, i == 0, seed+i, stream.SendMsg); err != nil {
			return nil, err
		}
	}

	if err = stream.CloseSend(); err != nil {
		return nil, err
	}

	for {
		if err = call.receive(method.Output(), &call.Replies, stream.RecvMsg); errors.Is(err, io.EOF) {
			return call, nil
		}

		if err != nil {
			return nil, err
		}
	}
}

func (call *Call) receive(descriptor protoreflect.MessageDescriptor, into *[][]byte, receive func(any) error) error {
	message, err := newMessage(descriptor.FullName())
	if err != nil {
		return err
	}

	if err = receive(message); err != nil {
		return err
	}

	call.Unknown += unknown(message.ProtoReflect())

	if call.isScripted {
		text, err := protojson.Marshal(message)
		if err != nil {
			return err
		}

		call.Received = append(call.Received, text)
	}

	bytes, err := proto.Marshal(message)
	*into = append(*into, bytes)

	return err
}

func send(
	descriptor protoreflect.MessageDescriptor, into *[][]byte, isFull bool, seed uint64, send func(any) error,
) error {
	message, err := newMessage(descriptor.FullName())
	if err != nil {
		return err
	}

	newFiller(string(descriptor.FullName()), seed, isFull).fill(message.ProtoReflect(), 0)

	bytes, err := proto.Marshal(message)
	if err != nil {
		return err
	}

	*into = append(*into, bytes)

	return send(message)
}

// newMessage makes an empty message of the official generated type.
func newMessage(name protoreflect.FullName) (proto.Message, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}

	return kind.New().Interface(), nil
}

// decode reads a message as the official type, and writes it again.
func decode(name string, data []byte) (*Response, error) {
	message, err := newMessage(protoreflect.FullName(name))
	if err != nil {
		return nil, err
	}

	if err = proto.Unmarshal(data, message); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}

	data, err = proto.Marshal(message)

	return &Response{Data: data, Unknown: unknown(message.ProtoReflect())}, err
}

// random makes a message of the official type. With an even seed it has every field.
func random(name string, seed uint64) (*Response, error) {
	message, err := newMessage(protoreflect.FullName(name))
	if err != nil {
		return nil, err
	}

	newFiller(name, seed, seed%2 == 0).fill(message.ProtoReflect(), 0)

	data, err := proto.Marshal(message)

	return &Response{Data: data}, err
}

// unknown counts the messages in a message that have fields which their type does not know.
func unknown(message protoreflect.Message) int {
	count := 0
	if len(message.GetUnknown()) > 0 {
		count++
	}

	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, value protoreflect.Value) bool {
					count += unknown(value.Message())

					return true
				})
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				count += unknown(value.List().Get(i).Message())
			}
		default:
			count += unknown(value.Message())
		}

		return true
	})

	return count
}

// Filler makes random messages. The same seed gives the same message.
type Filler struct {
	random *rand.Rand
	// isFull sets every field, else about half of them.
	isFull bool
}

func newFiller(name string, seed uint64, isFull bool) *Filler {
	hash := fnv.New64a()
	hash.Write([]byte(name)) //nolint:errcheck // a hash takes everything

	return &Filler{random: rand.New(rand.NewPCG(seed, hash.Sum64())), isFull: isFull}
}

func (filler *Filler) fill(message protoreflect.Message, depth int) {
	fields := message.Descriptor().Fields()

	for i := range fields.Len() {
		field := fields.Get(i)
		if !filler.isFull && filler.random.IntN(2) == 0 {
			continue
		}

		// The last of a oneof wins.
		if oneof := field.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() &&
			filler.random.IntN(oneof.Fields().Len()) != 0 && message.WhichOneof(oneof) != nil {
			continue
		}

		// Some messages contain themselves.
		if field.Message() != nil && !field.IsMap() && depth > 4 {
			continue
		}

		switch {
		case field.IsMap():
			entries := message.Mutable(field).Map()

			for range 1 + filler.random.IntN(3) {
				value := entries.NewValue()
				if field.MapValue().Message() != nil {
					filler.fill(value.Message(), depth+1)
				} else {
					value = filler.scalar(field.MapValue())
				}

				entries.Set(filler.scalar(field.MapKey()).MapKey(), value)
			}
		case field.IsList():
			list := message.Mutable(field).List()

			for range 1 + filler.random.IntN(3) {
				if field.Message() != nil {
					filler.fill(list.AppendMutable().Message(), depth+1)
				} else {
					list.Append(filler.scalar(field))
				}
			}
		case field.Message() != nil:
			filler.fill(message.Mutable(field).Message(), depth+1)
		default:
			message.Set(field, filler.scalar(field))
		}
	}
}

// scalar gives a value that is not the zero value, which would not be seen on the wire.
func (filler *Filler) scalar(field protoreflect.FieldDescriptor) protoreflect.Value {
	bits := filler.random.Uint64() >> filler.random.IntN(60)
	bits |= 1

	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := field.Enum().Values()

		return protoreflect.ValueOfEnum(values.Get(int(bits % uint64(values.Len()))).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(bits))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(bits))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(bits))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(bits)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(int32(bits)) / 8)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(int64(bits)) / 8)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("é" + strconv.FormatUint(bits, 36))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0xff, byte(bits), 0})
	default:
		panic(fmt.Sprintf("%s has kind %s", field.FullName(), field.Kind()))
	}
}
