package session

import (
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// bytesReader hands out the choices of a fuzzer; at the end all are 0.
type bytesReader struct{ data []byte }

func (r *bytesReader) n(below int) int {
	if len(r.data) == 0 {
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return int(b) % below
}

// number is mostly small, at times near the ends of its type.
func (r *bytesReader) number() uint64 {
	switch v := r.n(32); v {
	case 31:
		return ^uint64(0)
	case 30:
		return 1 << 62
	default:
		return uint64(v)
	}
}

// FuzzCore gives a Core inputs that no honest caller's peers would send: any
// message from anybody at any time, answers that fit nothing. It must not
// panic, must keep to the order of Commits, must not send to a stream that is
// not open, must release only in a committed term, to its active, and only
// what that stream has reported, each once, and must stay within its bounds.
func FuzzCore(f *testing.F) {
	f.Add([]byte{0, 0, 2, 1, 4, 1, 101, 1, 5, 0, 3, 2, 2, 1, 2, 5, 0, 4, 2, 5, 1, 5, 0})
	f.Add([]byte{0, 3, 4, 1, 2, 2, 1, 3, 4, 3, 2, 2, 2, 2, 4, 3, 4, 2, 4, 4, 4, 1, 2, 4, 4})
	f.Add([]byte{0, 2, 4, 1, 0, 6, 1, 6, 2, 6, 3, 7, 1, 7, 2, 8, 1, 1, 9, 9, 9, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		r := &bytesReader{data}
		c := New(Config{VM: "vm", Policy: &pb.Policy{EpochMaxMs: uint32(r.n(3) * 500)}})
		now := time.Unix(1_700_000_000, 0)
		k := &keeper{t: t, core: c, open: map[Conn]bool{}, reported: map[Conn]map[uint64]bool{}}
		for len(r.data) > 0 {
			now = now.Add(time.Duration(r.n(4)*r.n(60)) * time.Millisecond)
			k.step(now, k.input(r))
		}
	})
}

// keeper checks a Core's effects.
type keeper struct {
	t        *testing.T
	core     *Core
	open     map[Conn]bool
	conns    Conn
	inFlight *Commit
	// reported outputs by stream.
	reported map[Conn]map[uint64]bool
	// released in term and epoch.
	released    map[uint64]bool
	term, epoch uint64
}

func anyRecord(r *bytesReader) *pb.Record {
	if r.n(4) == 0 {
		return nil
	}
	rec := &pb.Record{Vm: "vm", Term: r.number(), Mode: pb.Mode(r.n(6))}
	if r.n(8) != 0 {
		rec.Active = ref(ids[r.n(len(ids))])
	}
	if r.n(3) != 0 {
		rec.Standby = ref(ids[r.n(len(ids))])
	}
	return rec
}

var ids = []string{"r-1", "r-2", "r-3", ""}

func (k *keeper) input(r *bytesReader) Input {
	conn := Conn(r.n(int(k.conns) + 2))
	switch r.n(14) {
	case 0:
		rec := anyRecord(r)
		return Owned{Record: rec, Revision: int64(r.n(9))}
	case 1:
		if r.n(4) != 0 {
			return Tick{}
		}
		return Disowned{}
	case 2, 3:
		k.conns++
		k.open[k.conns] = true
		h := &pb.Hello{Protocol: ProtocolVersion, Vm: "vm", Replica: ref(ids[r.n(len(ids))]), Role: pb.Role(r.n(6)), Mode: pb.Mode(r.n(6)),
			Epoch: r.number(), LeaseId: int64(r.n(5))}
		if r.n(20) == 0 {
			h = nil
		}
		return Attached{Conn: k.conns, Hello: h, Term: r.number()}
	case 4:
		delete(k.open, conn)
		return Detached{Conn: conn}
	case 5:
		k.inFlight = nil
		return Committed{Revision: int64(r.n(20))}
	case 6:
		k.inFlight = nil
		return CommitFailed{Cause: CommitCause(r.n(5)), ReplicaID: ids[r.n(len(ids))], Record: anyRecord(r), Revision: int64(r.n(20))}
	case 7:
		id := ids[r.n(len(ids))]
		return []Input{FailOver{Token: 1}, ResyncNow{Token: 2}, Drop{Token: 3, ReplicaID: id}, SwitchOver{Token: 4}, TestFailOver{Token: 5},
			Drain{Token: 6, ReplicaID: id}, Undrain{Token: 7, ReplicaID: id}, Suspend{Token: 8}, Resume{Token: 9}}[r.n(9)]
	case 8:
		return Tick{}
	}
	return Received{Conn: conn, Msg: k.message(r, conn)}
}

func (k *keeper) message(r *bytesReader, conn Conn) *pb.FromReplica {
	m := &pb.FromReplica{Term: k.core.record.GetTerm()}
	if r.n(6) == 0 {
		m.Term = r.number()
	}
	epoch := k.core.pair.epoch + uint64(r.n(2))
	if r.n(6) == 0 {
		epoch = r.number()
	}
	digest := func() []byte {
		return [][]byte{nil, make([]byte, 16), {1, 15: 1}, {2, 15: 1}, {1, 2, 3}}[r.n(5)]
	}
	switch r.n(9) {
	case 0:
		m.Body = &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: epoch, DeliveredInput: r.number(), IdleUs: r.number() * 100_000, LeaseId: int64(r.n(4))}}
	case 1, 2, 3, 4:
		o := &pb.Outputs{Epoch: epoch}
		for range r.n(4) {
			out := &pb.Output{Id: r.number(), Kind: pb.OutputKind(r.n(5)), Flow: uint64(r.n(3)), End: r.number(), Digest: digest(), Ack: r.number(),
				Edge: r.number(), Flags: uint32(r.n(16)), AfterInput: r.number(), Name: []string{"", "poweroff", "reboot", "x"}[r.n(4)]}
			o.Outputs = append(o.Outputs, out)
			if k.reported[conn] == nil {
				k.reported[conn] = map[uint64]bool{}
			}
			k.reported[conn][out.GetId()] = true
		}
		if r.n(30) == 0 {
			o.Outputs = append(o.Outputs, nil)
		}
		m.Body = &pb.FromReplica_Outputs{Outputs: o}
	case 5:
		m.Body = &pb.FromReplica_ProbeReply{ProbeReply: &pb.ProbeReply{Epoch: epoch, Flow: uint64(r.n(3)), Offset: r.number(), Digest: digest()}}
	case 6, 7:
		m.Body = &pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: epoch, Stats: &pb.SyncStats{PauseUs: 1}}}
	default:
		switch r.n(5) {
		case 0:
			m.Body = &pb.FromReplica_Left{}
		case 1:
			m.Body = &pb.FromReplica_SyncFailed{SyncFailed: &pb.SyncFailed{}}
		case 2:
			return nil
		case 3:
			m.Body = &pb.FromReplica_Hello{Hello: &pb.Hello{}}
		}
	}
	return m
}

func (k *keeper) step(now time.Time, in Input) {
	c := k.core
	for _, e := range c.Step(now, in) {
		switch e := e.(type) {
		case Send:
			if !k.open[e.Conn] {
				k.t.Fatalf("sends to stream %d, which is not open", e.Conn)
			}
			if e.Msg.GetTerm() > c.record.GetTerm() {
				k.t.Fatalf("speaks of term %d before it is committed", e.Msg.GetTerm())
			}
			if rel := e.Msg.GetRelease(); rel != nil {
				k.release(e.Conn, e.Msg.GetTerm(), rel)
			}
		case Close:
			if !k.open[e.Conn] {
				k.t.Fatalf("closes stream %d, which is not open", e.Conn)
			}
			delete(k.open, e.Conn)
		case Commit:
			if k.inFlight != nil {
				k.t.Fatalf("two Commits at once: %v, %v", k.inFlight.Record, e.Record)
			}
			k.inFlight = &e
			if len(e.Conditions) == 0 && e.Record.GetMode() != pb.Mode_MODE_ENDED && e.Record.GetTerm() != c.record.GetTerm() {
				k.t.Fatalf("commit without a condition: %v", e.Record)
			}
		}
	}
	if _, ok := in.(Disowned); ok {
		k.inFlight = nil
	}
	if _, ok := in.(Owned); ok && k.inFlight != nil && c.proposal == nil {
		k.inFlight = nil
	}
	if len(c.replicas) > replicasMax || len(c.failures) > failuresMax || len(c.pair.events) > eventsMax ||
		len(c.pair.early.outputs[0])+len(c.pair.early.outputs[1]) > earlyMax || len(c.counts.RecentPausesUs) > pausesMax {
		k.t.Fatal("a bound was passed")
	}
	seen := map[string]bool{}
	for _, r := range c.replicas {
		if !k.open[r.conn] || seen[r.id()] {
			k.t.Fatalf("%s is listed on stream %d (open %v), or twice", r.id(), r.conn, k.open[r.conn])
		}
		seen[r.id()] = true
	}
	if c.Status().GetSummary() == "" {
		k.t.Fatal("no summary")
	}
}

func (k *keeper) release(conn Conn, term uint64, rel *pb.Release) {
	c := k.core
	r := c.byConn(conn)
	if c.record.GetMode() != pb.Mode_MODE_PROTECTED && c.record.GetTerm() == term || r != nil && r.id() != c.record.GetActive().GetId() && c.record.GetTerm() == term {
		k.t.Fatalf("release %v under %v", rel, c.record)
	}
	if term != k.term || rel.GetEpoch() != k.epoch {
		k.term, k.epoch, k.released = term, rel.GetEpoch(), map[uint64]bool{}
	}
	for _, o := range rel.GetOutputs() {
		if !k.reported[conn][o.GetId()] || k.released[o.GetId()] {
			k.t.Fatalf("release of output %d: not reported on stream %d, or released before", o.GetId(), conn)
		}
		k.released[o.GetId()] = true
	}
}
