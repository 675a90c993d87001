package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/process"
	"github.com/understudy-ft/understudy/deploy/story"
)

// Bounds of waiting; each is far above what is expected.
const (
	protectTimeout = 3 * time.Minute
	takeTimeout    = 30 * time.Second
)

// show is one run of the demo.
type show struct {
	cluster          cluster.Config
	writers, readers int
	calm             time.Duration
	stay             bool
	out              io.Writer
}

func (s *show) run(ctx context.Context) (story.Result, error) {
	c, err := cluster.Start(s.cluster)
	if err != nil {
		return story.Result{}, err
	}
	defer c.Close()
	t := story.New(story.Config{
		VM: c.Watch(), Redis: c.Redis, Writers: s.writers, Readers: s.readers, CalmFor: s.calm,
		Alive:          func() error { return process.Alive(c.Arbiter, c.Gateway) },
		ProtectTimeout: protectTimeout, TakeTimeout: takeTimeout, Out: s.out,
	})
	defer t.Close()
	err = s.tell(ctx, c, t)
	if err == nil && s.stay {
		r := t.Result()
		t.Say("the result: ok=%v acked=%d lost=%d gaps=%v ms", r.Ok, r.Acked, r.Lost, r.FailoverGapMs)
		t.Say("the cluster stays up until Ctrl-C:")
		s.invite(c)
		<-ctx.Done()
	}
	return t.Result(), err
}

func (s *show) tell(ctx context.Context, c *cluster.Cluster, t *story.Story) error {
	t.Say("started arbiter (with its own etcd) and gateway; starting primary and two secondaries")
	if s.cluster.Dir != "" {
		t.Say("logs are in %s", c.Dir)
	}
	primary, err := c.StartPrimary()
	if err != nil {
		return err
	}
	for range 2 {
		if _, err := c.StartSecondary(); err != nil {
			return err
		}
	}
	events, stop := context.WithCancel(ctx)
	defer stop()
	go t.Narrate(events)

	t.Say("booting Debian in the VM; Redis will be at %s", c.Redis)
	if err := t.Boot(ctx); err != nil {
		return errors.Join(err, errors.New(primary.LogTail(3)))
	}
	if err := t.Begin(ctx); err != nil {
		return err
	}
	kill := func(string) (string, error) {
		victim := c.Active(t.Status())
		if victim == nil {
			return "", fmt.Errorf("no process holds the active role of %q", t.Status().GetRecord().GetActive().GetId())
		}
		return fmt.Sprintf("KILLED %s (SIGKILL, process %d)", victim.Name, victim.Pid()), victim.Kill()
	}
	if err := t.Lose(ctx, kill); err != nil {
		return err
	}
	if err := t.Protected(ctx); err != nil {
		return err
	}
	if err := t.Survived(ctx); err != nil {
		return err
	}
	if err := t.Lose(ctx, kill); err != nil {
		return err
	}
	if err := t.Survived(ctx); err != nil {
		return err
	}
	return t.End(ctx)
}

func (s *show) invite(c *cluster.Cluster) {
	fmt.Fprintf(s.out, "    redis-cli -h %s\n", strings.Replace(c.Redis, ":", " -p ", 1))
	fmt.Fprintf(s.out, "    status page   http://%s/\n", c.HTTP)
	fmt.Fprintf(s.out, "    admin calls   build/tools/grpcurl -plaintext %s understudy.v1.Admin/ListVMs\n", c.GRPC)
	fmt.Fprintf(s.out, "    logs          %s\n", c.Dir)
}
