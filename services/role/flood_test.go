package role

import (
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// silentHost is a Host whose arbiter and standby answer nothing.
type silentHost struct {
	fuzzHost
	emitted int
}

func (h *silentHost) Emit([]byte, bool) { h.emitted++ }

// A guest that sends at full speed while nothing is released, or nothing is
// confirmed, costs its replica bounded memory: further frames are dropped, as by
// a full network card.
func TestFloodOfHeldOutputsIsBounded(t *testing.T) {
	self, other := &pb.ReplicaRef{Id: "a"}, &pb.ReplicaRef{Id: "b"}
	for name, mode := range map[string]pb.Mode{"held by the arbiter": pb.Mode_MODE_PROTECTED, "without a lease": pb.Mode_MODE_SOLO} {
		h := &silentHost{}
		c := New(Config{VM: "vm", Self: self, FlowSeed: 1}, h)
		c.role, c.mode, c.term, c.peer = pb.Role_ROLE_ACTIVE, mode, 3, other
		for range maxHeldFrames + 1000 {
			c.Output(time.Second, datagram("x"))
		}
		if n := c.out.len(); n != maxHeldFrames || len(c.out.queue) > maxHeldFrames || h.emitted != 0 {
			t.Errorf("%s: %d frames held, %d emitted", name, n, h.emitted)
		}
		large := datagram(string(make([]byte, 60_000)))
		c = New(Config{VM: "vm", Self: self, FlowSeed: 1}, h)
		c.role, c.mode, c.term, c.peer = pb.Role_ROLE_ACTIVE, mode, 3, other
		for range 2 * maxHeldBytes / len(large) {
			c.Output(time.Second, large)
		}
		if c.out.bytes > maxHeldBytes || c.out.bytes < maxHeldBytes/2 || h.emitted != 0 {
			t.Errorf("%s: %d bytes held, %d emitted", name, c.out.bytes, h.emitted)
		}
	}
}
