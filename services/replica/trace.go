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
// The time of an output is when the loop took up the frame, before its digest
// was made; that of a release, when the frame had been given to the emitter.
// A nil trace does nothing. It is the loop's.
type trace struct {
	w     io.Writer
	log   hclog.Logger
	began time.Duration
	lines []byte
}

func newTrace(w io.Writer, log hclog.Logger) *trace {
	if w == nil {
		return nil
	}
	return &trace{w: w, log: log}
}

// begin notes when a batch of events was taken up.
func (t *trace) begin(now time.Duration) {
	if t != nil {
		t.began = now
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
		t.line("output", uint64(t.began), m.GetEpoch(), o.GetId(), uint64(o.GetKind()), o.GetFlow(), o.GetEnd(), o.GetAck())
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
