package fence

import (
	"strconv"
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

// Plain takes the wrapping of gRPC off an error's text: of "rpc error: code =
// Unavailable desc = connection error: desc = \"transport: Error while dialing:
// dial tcp …: connect: connection refused\"" it leaves what the dialler said. The
// error itself is still wrapped.
func Plain(err error) error {
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	text := strings.TrimPrefix(s.Message(), "latest balancer error: ")
	if quoted, found := strings.CutPrefix(text, "connection error: desc = "); found {
		if unquoted, err := strconv.Unquote(quoted); err == nil {
			text = unquoted
		}
	}
	for _, wrapping := range []string{"transport: ", "Error while dialing: "} {
		text = strings.TrimPrefix(text, wrapping)
	}
	return &plainError{text: text, err: err}
}
