// Command secondary waits for a VM of its name to shadow, and takes over when
// the VM's host is lost. It learns the machine from the active replica.
package main

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/lastwill"
	"github.com/understudy-ft/understudy/services/replica"
	"github.com/understudy-ft/understudy/services/sched"
)

func main() {
	lastwill.Enter()
	cmd := cli.New("secondary", "shadows a running VM and takes over when its host is lost")
	shared := replica.AddFlags(cmd)
	cmd.Examples = []string{
		"secondary --vm web --uplink tap:web0,bridge=br0 --arbiter 10.0.0.3:7400 --listen 10.0.0.2:7410",
	}
	cli.Main(cmd, func(ctx context.Context, log hclog.Logger) error {
		sched.Coarse()
		cfg, done, err := shared.Config(log)
		if err != nil {
			return err
		}
		defer done()
		sched.Guest(1, log)
		return replica.Run(ctx, cfg)
	})
}
