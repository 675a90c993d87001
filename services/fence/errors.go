package fence

import (
	"strings"

	"google.golang.org/grpc/status"
)

// plainError is an error of a call to etcd in the words that matter to people.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// plain takes the wrapping of gRPC off an error's text: of "rpc error: code =
// Unavailable desc = connection error: desc = \"transport: Error while dialing:
// dial tcp …: connect: connection refused\"" it leaves what the dialler said.
func plain(err error) error {
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	text := s.Message()
	if _, cause, found := strings.Cut(text, "Error while dialing: "); found {
		text = strings.TrimSuffix(cause, `"`)
	}
	return &plainError{text: text, err: err}
}
