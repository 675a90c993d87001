package replica

import (
	"io"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
)

// trace tells when outputs were digested and released, for measurements of the
// time between. It writes one line for each, with times in nanoseconds of the
// host's CLOCK_BOOTTIME, which the replicas of one host share:
//
//	output TIME EPOCH ID KIND FLOW END ACK
//	release TIME EPOCH ID
//
// The time of an output is when the loop took up the batch with its frame, before
// its digest was made; that of a release, when the frame had been given to the
// emitter. A nil trace does nothing. It is the loop's.
type trace struct {
	w     io.Writer
	log   hclog.Logger
	lines []byte
	// taken is by the number of an output of the epoch that was not reported;
	// newest is the last number.
	taken         map[uint64]time.Duration
	epoch, newest uint64
}

// maxTaken bounds what is remembered of outputs that nobody asks to report, as
// those of a replica alone.
const maxTaken = 1 << 16

func newTrace(w io.Writer, log hclog.Logger) *trace {
	if w == nil {
		return nil
	}
	return &trace{w: w, log: log, taken: map[uint64]time.Duration{}}
}

// made notes when the guest's newest output was taken up. A frame that became no
// output of its own changes nothing.
func (t *trace) made(now time.Duration, epoch, newest uint64) {
	if t == nil {
		return
	}
	if epoch != t.epoch || len(t.taken) >= maxTaken {
		clear(t.taken)
	}
	if epoch != t.epoch || newest != t.newest {
		t.epoch, t.newest = epoch, newest
		t.taken[newest] = now
	}
}

// line appends a line of numbers.
func (t *trace) line(what string, numbers ...uint64) {
	t.lines = append(t.lines, what...)
	for _, n := range numbers {
		t.lines = strconv.AppendUint(append(t.lines, ' '), n, 10)
	}
	t.lines = append(t.lines, '\n')
}

func (t *trace) reported(m *pb.Outputs) {
	if t == nil {
		return
	}
	for _, o := range m.GetOutputs() {
		at, ok := t.taken[o.GetId()]
		if !ok {
			continue // a guest's event, or made before the trace forgot
		}
		delete(t.taken, o.GetId())
		t.line("output", uint64(at), m.GetEpoch(), o.GetId(), uint64(o.GetKind()), o.GetFlow(), o.GetEnd(), o.GetAck())
	}
}

func (t *trace) released(m *pb.Release) {
	if t == nil || m == nil {
		return
	}
	now := uint64(fence.Now())
	for _, r := range m.GetOutputs() {
		t.line("release", now, m.GetEpoch(), r.GetId())
	}
}

// flush writes what gathered. A trace that cannot be written ends.
func (t *trace) flush() {
	if t == nil || len(t.lines) == 0 {
		return
	}
	if _, err := t.w.Write(t.lines); err != nil {
		t.log.Warn("the trace of outputs ends", "error", err)
		t.w = io.Discard
	}
	t.lines = t.lines[:0]
}
