package kvmhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// controlTimeout bounds a conversation with QEMU, which a busy machine delays.
const controlTimeout = time.Minute

// SetLink pulls the host's network cable, or plugs it in.
func (h *Host) SetLink(up bool) error {
	if err := h.command("set_link", map[string]any{"name": card, "up": up}); err != nil {
		return fmt.Errorf("set the link of %s: %w", h.Name, err)
	}
	return nil
}

// command gives one command over QEMU's machine protocol (QEMU
// docs/interop/qmp-spec): a greeting, the negotiation of capabilities, and then
// an answer to each command, with events in between.
func (h *Host) command(name string, arguments map[string]any) error {
	conn, err := net.DialTimeout("unix", h.control, controlTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the answer has come
	if err := conn.SetDeadline(time.Now().Add(controlTimeout)); err != nil {
		return err
	}
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	if err := in.Decode(&struct{}{}); err != nil {
		return fmt.Errorf("QEMU's greeting: %w", err)
	}
	for _, c := range []map[string]any{{"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}} {
		if err := out.Encode(c); err != nil {
			return err
		}
		for {
			var answer struct {
				Return *json.RawMessage
				Error  *struct{ Desc string }
			}
			if err := in.Decode(&answer); err != nil {
				return fmt.Errorf("QEMU's answer: %w", err)
			}
			if answer.Error != nil {
				return errors.New(answer.Error.Desc)
			}
			if answer.Return != nil {
				break
			}
		}
	}
	return nil
}
