// The official side of the Talos API: servers and clients made from the official generated types.
//
// Questions come as JSON lines on stdin, answers go as JSON lines to stdout. It ends with its input.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Request is a question. What is set depends on the operation.
type Request struct {
	Op string `json:"op"`
	// Descriptors is a FileDescriptorSet, for compare.
	Descriptors []byte `json:"descriptors"`
	// Type and Data are a message, for decode; Type and Seed ask for one, for random.
	Type string `json:"type"`
	Data []byte `json:"data"`
	Seed uint64 `json:"seed"`
	// Address and Method say what to call, for call.
	Address string `json:"address"`
	Method  string `json:"method"`
	// ID and Text are a resource, for put and destroy.
	ID   string `json:"id"`
	Text string `json:"text"`
	// Method and Replies, as JSON, are what the next call is answered with, for script.
	Replies []json.RawMessage `json:"replies"`
}

// Response is an answer.
type Response struct {
	Error string `json:"error,omitempty"`
	// What serve started, and how to get in.
	Echo        string `json:"echo,omitempty"`
	State       string `json:"state,omitempty"`
	Talosconfig string `json:"talosconfig,omitempty"`
	CA          string `json:"ca,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	// Problems are differences that compare found.
	Problems []string `json:"problems,omitempty"`
	// Data is a message as the official type encodes it, and Unknown the number of its messages with unknown fields.
	Data    []byte `json:"data,omitempty"`
	Unknown int    `json:"unknown"`
	// Calls are what the echo server saw since the last question, or the one call that was made.
	Calls []*Call `json:"calls,omitempty"`
}

// Call is what one call carried, as the official types see it.
type Call struct {
	Method   string   `json:"method"`
	Node     string   `json:"node"`
	Requests [][]byte `json:"requests"`
	Replies  [][]byte `json:"replies"`
	// Received are the received messages as JSON, of calls that are answered by a script.
	Received []json.RawMessage `json:"received,omitempty"`
	// Unknown is the number of received messages with fields that the official types do not know.
	Unknown int `json:"unknown"`

	isScripted bool
}

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(in io.Reader, out io.Writer) error {
	oracle := &Oracle{echo: &Echo{}}
	reader := bufio.NewReader(in)
	encoder := json.NewEncoder(out)

	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}

		if err != nil {
			return err
		}

		var request Request
		if err = json.Unmarshal(line, &request); err != nil {
			return err
		}

		response, err := oracle.answer(&request)
		if err != nil {
			response = &Response{Error: err.Error()}
		}

		if err = encoder.Encode(response); err != nil {
			return err
		}
	}
}

// Oracle answers questions.
type Oracle struct {
	identity *Identity
	echo     *Echo
	state    *State
}

func (oracle *Oracle) answer(request *Request) (*Response, error) {
	switch request.Op {
	case "serve":
		return oracle.serve()
	case "compare":
		problems, err := compare(request.Descriptors)

		return &Response{Problems: problems}, err
	case "decode":
		return decode(request.Type, request.Data)
	case "random":
		return random(request.Type, request.Seed)
	case "script":
		oracle.echo.script(request.Method, request.Replies)

		return &Response{}, nil
	case "describe":
		return &Response{}, oracle.state.describe()
	case "calls":
		return &Response{Calls: oracle.echo.take()}, nil
	case "call":
		call, err := oracle.identity.call(request.Address, request.Method, request.Seed)

		return &Response{Calls: []*Call{call}}, err
	case "put":
		return &Response{}, oracle.state.put(request.ID, request.Text)
	case "destroy":
		return &Response{}, oracle.state.destroy(request.ID)
	default:
		return nil, fmt.Errorf("unknown operation %q", request.Op)
	}
}

func (oracle *Oracle) serve() (*Response, error) {
	var err error

	if oracle.identity, err = newIdentity(); err != nil {
		return nil, err
	}

	if oracle.state, err = newState(); err != nil {
		return nil, err
	}

	echo, err := oracle.identity.listen(oracle.echo.register)
	if err != nil {
		return nil, err
	}

	state, err := oracle.identity.listen(oracle.state.register)
	if err != nil {
		return nil, err
	}

	talosconfig, err := oracle.identity.talosconfig(echo)
	if err != nil {
		return nil, err
	}

	return &Response{
		Echo:        echo,
		State:       state,
		Talosconfig: talosconfig,
		CA:          string(oracle.identity.ca.Crt),
		Certificate: string(oracle.identity.server.Crt),
		Key:         string(oracle.identity.server.Key),
	}, nil
}
