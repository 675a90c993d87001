package replica

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// A trace tells when each output was taken up, however late it is reported, and
// tells the outputs of one epoch from those of the next.
func TestTrace(t *testing.T) {
	var out bytes.Buffer
	tr := newTrace(&out, hclog.NewNullLogger())
	outputs := func(epoch uint64, ids ...uint64) *pb.Outputs {
		m := &pb.Outputs{Epoch: epoch}
		for _, id := range ids {
			m.Outputs = append(m.Outputs, &pb.Output{Id: id, Kind: pb.OutputKind_OUTPUT_KIND_STREAM, Flow: 7, End: 100 * id, Ack: 5})
		}
		return m
	}
	tr.made(10, 1, 1)
	tr.made(20, 1, 2)
	tr.made(30, 1, 2) // a frame that became no output
	tr.reported(outputs(1, 1, 2, 3))
	tr.released(&pb.Release{Epoch: 1, Outputs: []*pb.Released{{Id: 1}}})
	tr.made(40, 1, 3)
	tr.made(50, 2, 3) // another one
	tr.reported(outputs(2, 3))
	tr.flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 || lines[0] != "output 10 1 1 1 7 100 5" || lines[1] != "output 20 1 2 1 7 200 5" ||
		!strings.HasPrefix(lines[2], "release ") || !strings.HasSuffix(lines[2], " 1 1") || lines[3] != "output 50 2 3 1 7 300 5" {
		t.Errorf("the trace is %q", lines)
	}
	var none *trace
	none.made(1, 1, 1)
	none.reported(outputs(1, 1))
	none.released(&pb.Release{})
	none.flush()
	if newTrace(nil, nil) != nil {
		t.Error("a trace to nowhere")
	}
}
