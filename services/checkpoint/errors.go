package checkpoint

import (
	"errors"
	"fmt"
)

var (
	// ErrProtocol is the peer's fault: a message that is malformed, out of
	// order, out of range, or of another attempt.
	ErrProtocol = errors.New("checkpoint protocol violated")
	// ErrNotCommitted is returned by Sender.Staged for a word that does not
	// belong to what Final sent last.
	ErrNotCommitted = errors.New("no such checkpoint was sent")
	// ErrTorn is returned by Stage.Apply when it failed half-way: the copy is
	// in no consistent state and must be discarded.
	ErrTorn = errors.New("checkpoint applied in part")
)

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
