// Command lab shows the main job on KVM: a stock x86-64 Debian guest with Redis
// keeps serving the same TCP connections while its hosts lose the network and
// die. The hosts are emulated (package kvmhost), each with a kernel, a /dev/kvm
// and a network stack of its own: an arbiter, a primary and secondaries, linked
// by TAP devices and a bridge in a network namespace, or by sockets where that
// is not allowed.
//
// The guest is told with each number of vCPUs that --cpus lists, on new hosts:
// resynchronizations are ordered under load, the active's host is cut off and
// comes back as a spare, the next active's host dies.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/deploy/story"
	"github.com/understudy-ft/understudy/services/cli"
)

// options are the command line's.
type options struct {
	bin, guest, dir, memory, links         string
	secondaries, writers, readers, resyncs int
	calm                                   time.Duration
}

func main() {
	var o options
	cmd := cli.New("lab", "shows a VM on KVM that survives the loss of its hosts, which are emulated")
	cmd.StringVar(&o.bin, "bin", "bin", "`DIR` with the binaries")
	cmd.StringVar(&o.guest, "guest", "build/guest/x86", "`DIR` with the images of guest and hosts")
	cmd.StringVar(&o.dir, "dir", "", "`DIR` for logs and data, kept afterwards (default: a temporary one)")
	cmd.StringVar(&o.memory, "memory", "256M", "`SIZE` of the guest's memory")
	cmd.StringVar(&o.links, "links", linksAuto, "`HOW` the hosts are linked: by a bridge in this process's network namespace, by sockets,\n"+
		"or auto for a bridge in a new namespace where that is possible")
	cpus := cli.NewList("1", "2")
	cmd.Var(cpus, "cpus", "`NUMBERS` of vCPUs, separated by commas, each of which is a story of its own")
	cmd.IntVar(&o.secondaries, "secondaries", 2, "`NUMBER` of hosts besides arbiter and primary")
	cmd.IntVar(&o.writers, "writers", 4, "`NUMBER` of connections that write")
	cmd.IntVar(&o.readers, "readers", 4, "`NUMBER` of connections that read")
	cmd.IntVar(&o.resyncs, "resyncs", 3, "`NUMBER` of resynchronizations that are ordered")
	cmd.DurationVar(&o.calm, "calm", 10*time.Second, "`TIME` of load between two events")
	cmd.Examples = []string{"lab", "lab --cpus 2 --secondaries 1 --dir build/lab"}
	cli.Main(cmd, func(ctx context.Context, _ hclog.Logger) error {
		var stories []int
		for _, text := range cpus.Values {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return fmt.Errorf("--cpus %q: must be numbers of vCPUs (%w)", text, cli.ErrUsage)
			}
			stories = append(stories, n)
		}
		if o.writers < 1 || o.readers < 0 || o.resyncs < 0 || o.secondaries < 1 {
			return fmt.Errorf("at least one writer and one secondary are needed, and no number is negative (%w)", cli.ErrUsage)
		}
		inside, err := o.enter(ctx)
		if err != nil || inside {
			return err
		}
		return o.tell(ctx, stories)
	})
}

// tell tells the stories one after the other.
func (o *options) tell(ctx context.Context, stories []int) (err error) {
	if err := check(o); err != nil {
		return err
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "understudy-lab-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	} else if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	results := make([]story.Result, len(stories))
	for i, cpus := range stories {
		results[i], err = o.one(ctx, cpus)
		if err := story.Conclude(os.Stdout, results[i], err); err != nil {
			return err
		}
	}
	for i, cpus := range stories {
		fmt.Println(summary(cpus, results[i]))
	}
	return nil
}

// summary is the sentence that a story comes to.
func summary(cpus int, r story.Result) string {
	return fmt.Sprintf("%d vCPU%s on KVM: %d fail-overs (the clients' longest waits were %s ms), "+
		"%d resynchronizations with %d pages compared and %d sent (median pause %.0f ms); "+
		"%d acknowledged writes, %d lost; %d connections, %d broken; %s",
		cpus, strings.Repeat("s", min(cpus-1, 1)), r.FailoversObserved, strings.Trim(fmt.Sprint(r.FailoverGapMs), "[]"),
		r.Resyncs, r.PagesCompared, r.PagesSent, r.ResyncPauseP50Ms, r.Acked, r.Lost, r.Connections, r.ConnectionsLost, r.Clock())
}
