// Command demo shows the main job on real processes: a Debian guest with Redis
// keeps serving the same TCP connections while its hosts are killed.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/story"
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
			writers: *writers, readers: *readers, calm: *calm, stay: *stay, out: os.Stdout,
		}
		result, err := s.run(ctx)
		return story.Conclude(os.Stdout, result, err)
	})
}
