package session

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/protocol"
)

// ProtocolVersion is the Hello.protocol of this build's replicas: the lowest
// version that it speaks.
var ProtocolVersion = protocol.Spoken().Min

// MaxHeartbeatTimeout bounds a policy's heartbeat time-out. What watches over
// connections for other reasons must be more patient.
const MaxHeartbeatTimeout = time.Minute

// Bounds of what peers can make a Core keep.
const (
	// replicasMax bounds the streams of one VM that are open at once.
	replicasMax = 16
	// earlyMax bounds the outputs kept for an epoch that has not begun here.
	earlyMax = 1 << 15
	// eventsMax bounds the guest events of the active that wait for release.
	eventsMax = 16
	// failuresMax bounds the spares whose failures are remembered.
	failuresMax = 64
	// pausesMax bounds VMCounters.recent_pauses_us.
	pausesMax = 32
	// textMax bounds texts of peers in events, in bytes.
	textMax = 300
	// numberMax bounds terms and epochs that peers claim.
	numberMax = 1 << 62
)

// DefaultPolicy returns the time-outs of a VM for which nothing else was set.
func DefaultPolicy() *pb.Policy {
	return &pb.Policy{
		CompareIdleMs:      300,
		CompareMaxMs:       2000,
		HeartbeatTimeoutMs: 400,
		SyncTimeoutMs:      10_000,
		EpochMaxMs:         0,
	}
}

func (c Config) withDefaults() Config {
	policy := DefaultPolicy()
	if c.Policy != nil {
		p := proto.CloneOf(c.Policy)
		def(&p.CompareIdleMs, policy.CompareIdleMs)
		def(&p.CompareMaxMs, policy.CompareMaxMs)
		def(&p.HeartbeatTimeoutMs, policy.HeartbeatTimeoutMs)
		def(&p.SyncTimeoutMs, policy.SyncTimeoutMs)
		policy = p
	}
	c.Policy = policy
	if c.Speaks == (protocol.Range{}) {
		c.Speaks = protocol.Spoken()
	}
	def(&c.Heartbeat, 50*time.Millisecond)
	def(&c.Grace, time.Second)
	def(&c.FirstCopyMax, 10*time.Minute)
	def(&c.SpareBackoff, 3*time.Second)
	def(&c.CommitRetry, 100*time.Millisecond)
	def(&c.GiveUpAfter, 3*time.Second)
	return c
}

func def[T uint32 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func ms(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

func (c *Core) heartbeatTimeout() time.Duration {
	return ms(either(c.record.GetPolicy().GetHeartbeatTimeoutMs(), c.cfg.Policy.HeartbeatTimeoutMs))
}

func (c *Core) syncTimeout() time.Duration {
	return ms(either(c.record.GetPolicy().GetSyncTimeoutMs(), c.cfg.Policy.SyncTimeoutMs))
}

func (c *Core) epochMax() time.Duration {
	return ms(either(c.record.GetPolicy().GetEpochMaxMs(), c.cfg.Policy.EpochMaxMs))
}

// clip bounds a text that a peer sent. What it leaves is valid UTF-8, as
// messages and metrics want it.
func clip(s string) string {
	if len(s) > textMax {
		return strings.ToValidUTF8(s[:textMax], "") + "…"
	}
	return s
}
