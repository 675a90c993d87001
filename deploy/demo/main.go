// Command demo shows the main job on real processes: a Debian guest with Redis
// keeps serving the same TCP connections while its hosts are killed.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/services/cli"
)

func main() {
	cmd := cli.New("demo", "shows a VM with Redis that survives the death of its hosts")
	bin := cmd.String("bin", "bin", "`DIR` with the binaries")
	guest := cmd.String("guest", "build/guest/rv64", "`DIR` with the guest's Image and initrd")
	memory := cmd.String("memory", "256M", "`SIZE` of the guest's memory")
	writers := cmd.Int("writers", 4, "`NUMBER` of connections that write")
	readers := cmd.Int("readers", 4, "`NUMBER` of connections that read")
	calm := cmd.Duration("calm", 5*time.Second, "`TIME` of load before and after each kill")
	stay := cmd.Bool("stay", false, "leave the cluster up after the show until Ctrl-C, and say how to reach it")
	dir := cmd.String("dir", "", "`DIR` for logs and data, kept afterwards (default: a temporary one)")
	cli.Main(cmd, func(ctx context.Context, _ hclog.Logger) error {
		if *writers < 1 || *readers < 0 {
			return fmt.Errorf("--writers must be at least 1 and --readers not negative (%w)", cli.ErrUsage)
		}
		s := &show{
			cluster: cluster.Config{Bin: *bin, Guest: *guest, Dir: *dir, Memory: *memory},
			writers: *writers, readers: *readers, calm: *calm, stay: *stay, began: time.Now(),
		}
		result, err := s.run(ctx)
		if err != nil {
			result.Ok, result.Error = false, err.Error()
		}
		line, e := json.Marshal(result)
		if e != nil {
			return e
		}
		fmt.Println(string(line))
		if err == nil && !result.Ok {
			err = fmt.Errorf("the promise was not kept: %s", result.Problem)
		}
		return err
	})
}

// result is the last line of the show.
type result struct {
	Ok                bool    `json:"ok"`
	Acked             int64   `json:"acked"`
	Reads             int64   `json:"reads"`
	Lost              int64   `json:"lost"`
	Wrong             int64   `json:"wrong"`
	Connections       int     `json:"connections"`
	ConnectionsLost   int     `json:"connections_lost"`
	FailoverGapMs     []int64 `json:"failover_gap_ms"`
	Resyncs           uint64  `json:"resyncs"`
	ResyncPauseP50Ms  float64 `json:"resync_pause_ms_p50"`
	ResyncPauseP99Ms  float64 `json:"resync_pause_ms_p99"`
	PagesSent         uint64  `json:"pages_sent"`
	PagesCompared     uint64  `json:"pages_compared"`
	ProtectedAfterMs  []int64 `json:"protected_after_ms"`
	OutputsReleased   uint64  `json:"outputs_released"`
	FailoversObserved uint64  `json:"failovers"`
	Problem           string  `json:"problem,omitempty"`
	Error             string  `json:"error,omitempty"`
}

// say prints a line of the timeline.
func (s *show) say(format string, args ...any) {
	fmt.Fprintf(os.Stdout, "%8.2f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}
