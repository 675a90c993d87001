package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/load"
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
	began            time.Time

	result result
}

func (s *show) run(ctx context.Context) (result, error) {
	s.say("starting arbiter (with its own etcd), gateway, primary and two secondaries")
	c, err := cluster.Start(s.cluster)
	if err != nil {
		return s.result, err
	}
	defer c.Close()
	if s.cluster.Dir != "" {
		s.say("logs are in %s", c.Dir)
	}
	primary, err := c.StartPrimary()
	if err != nil {
		return s.result, err
	}
	for range 2 {
		if _, err := c.StartSecondary(); err != nil {
			return s.result, err
		}
	}
	events, stop := context.WithCancel(ctx)
	defer stop()
	go s.narrate(events, c)

	s.say("booting Debian in the VM; Redis will be at %s", c.Redis)
	wait, cancel := context.WithTimeout(ctx, protectTimeout)
	defer cancel()
	if err := c.DialRedis(wait); err != nil {
		return s.result, errors.Join(err, errors.New(primary.LogTail(3)))
	}
	s.say("Redis answers")
	status, err := s.protected(ctx, c, 0, s.began)
	if err != nil {
		return s.result, err
	}

	clients, err := load.Start(c.Redis, s.writers, s.readers)
	if err != nil {
		return s.result, err
	}
	s.say("%d connections are open and will never be opened again: %d write, %d read", s.writers+s.readers, s.writers, s.readers)
	if err := s.pause(ctx, clients); err != nil {
		clients.Stop()
		return s.result, err
	}
	for kill := 1; kill <= 2; kill++ {
		if status, err = s.killActive(ctx, c, clients, status, kill == 1); err != nil {
			clients.Stop()
			return s.result, err
		}
	}
	seen := clients.Stop()
	s.say("load ends: %d writes acknowledged, %d reads; reading everything back", seen.Acked, seen.Reads)
	lost, err := clients.Verify(ctx)
	if err != nil {
		return s.result, err
	}
	s.finish(status, seen, lost)
	if s.stay {
		s.report()
		s.invite(c)
		<-ctx.Done()
	}
	return s.result, nil
}

// protected waits for protection in a term after the given one.
func (s *show) protected(ctx context.Context, c *cluster.Cluster, term uint64, since time.Time) (*pb.VMStatus, error) {
	wait, cancel := context.WithTimeout(ctx, protectTimeout)
	defer cancel()
	status, err := c.Protected(wait, term)
	if err != nil {
		return nil, err
	}
	took := time.Since(since)
	s.result.ProtectedAfterMs = append(s.result.ProtectedAfterMs, took.Milliseconds())
	r := status.GetRecord()
	s.say("PROTECTED after %.1f s: %s is active, %s shadows it", took.Seconds(), r.GetActive().GetId(), r.GetStandby().GetId())
	return status, nil
}

// killActive kills the host of the active copy under load. With spare, another
// secondary is to become the new standby.
func (s *show) killActive(ctx context.Context, c *cluster.Cluster, clients *load.Load, status *pb.VMStatus, spare bool) (*pb.VMStatus, error) {
	victim := c.Active(status)
	if victim == nil {
		return nil, fmt.Errorf("no process holds the active role of %q", status.GetRecord().GetActive().GetId())
	}
	heir := status.GetRecord().GetStandby().GetId()
	before := clients.Acked()
	at := time.Now()
	if err := victim.Kill(); err != nil {
		return nil, err
	}
	s.say("KILLED %s (SIGKILL, process %d) after %d acknowledged writes", victim.Name, victim.Pid(), before)
	wait, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	status, err := c.Wait(wait, "take-over", func(v *pb.VMStatus) bool {
		return v.GetRecord().GetActive().GetId() == heir && v.GetRecord().GetTerm() > status.GetRecord().GetTerm()
	})
	if err != nil {
		return nil, err
	}
	s.say("%s has taken over in term %d", heir, status.GetRecord().GetTerm())
	if spare {
		if status, err = s.protected(ctx, c, status.GetRecord().GetTerm(), at); err != nil {
			return nil, err
		}
	}
	if err := s.pause(ctx, clients); err != nil {
		return nil, err
	}
	if clients.Acked() <= before {
		return nil, errors.New("no write was acknowledged after the take-over")
	}
	gap := clients.LongestGap(at)
	s.result.FailoverGapMs = append(s.result.FailoverGapMs, gap.Milliseconds())
	s.say("the clients' longest wait since the kill was %d ms; %d more writes acknowledged on the same connections",
		gap.Milliseconds(), clients.Acked()-before)
	fresh, err := c.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the arbiter: %w", err)
	}
	return fresh, nil
}

// pause lets the load run for a while.
func (s *show) pause(ctx context.Context, clients *load.Load) error {
	before := clients.Acked()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.calm):
	}
	n := clients.Acked() - before
	s.say("%d writes acknowledged in %s (%.0f/s)", n, s.calm, float64(n)/s.calm.Seconds())
	return nil
}

func (s *show) finish(status *pb.VMStatus, seen load.Result, lost int64) {
	r := &s.result
	n := status.GetCounters()
	r.Acked, r.Reads, r.Lost, r.Wrong = seen.Acked, seen.Reads, lost, seen.Wrong
	r.Connections, r.ConnectionsLost = seen.Connections, seen.ConnectionsLost
	r.Resyncs, r.PagesSent, r.PagesCompared = n.GetResyncs(), n.GetPagesSent(), n.GetPagesCompared()
	r.OutputsReleased, r.FailoversObserved = n.GetOutputsReleased(), n.GetFailovers()
	pauses := slices.Sorted(slices.Values(n.GetRecentPausesUs()))
	r.ResyncPauseP50Ms, r.ResyncPauseP99Ms = percentile(pauses, 50), percentile(pauses, 99)
	r.Ok = lost == 0 && seen.Wrong == 0 && seen.ConnectionsLost == 0 && seen.Acked > 0 && len(r.ProtectedAfterMs) == 2
	r.Problem = seen.Problem
	if lost > 0 {
		r.Problem = fmt.Sprintf("%d acknowledged writes are gone", lost)
	}
	s.say("%d acknowledged writes checked: %d lost; %d of %d connections broken", seen.Acked, lost, seen.ConnectionsLost, seen.Connections)
}

// percentile returns a percentile of sorted microseconds in milliseconds.
func percentile(sorted []uint64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, len(sorted)*p/100)]) / 1000
}

// narrate prints the arbiter's events as they happen.
func (s *show) narrate(ctx context.Context, c *cluster.Cluster) {
	var after uint64
	for ctx.Err() == nil {
		stream, err := c.Admin().WatchEvents(ctx, &pb.WatchEventsRequest{Vm: c.VM, After: after})
		for err == nil {
			var e *pb.Event
			if e, err = stream.Recv(); err == nil {
				after = e.GetSequence()
				s.tell(e)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // the arbiter is not up yet
		}
	}
}

func (s *show) tell(e *pb.Event) {
	what := strings.ToLower(strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_"))
	line := fmt.Sprintf("  · term %d epoch %d: %s", e.GetTerm(), e.GetEpoch(), strings.ReplaceAll(what, "_", " "))
	if e.GetReason() != pb.Reason_REASON_UNSPECIFIED {
		line += " (" + strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(e.GetReason().String(), "REASON_")), "_", " ") + ")"
	}
	if st := e.GetStats(); st != nil {
		line += fmt.Sprintf(", paused %.1f ms, %d pages compared, %d sent", float64(st.GetPauseUs())/1000, st.GetPagesCompared(), st.GetPagesSent())
	}
	if e.GetDetail() != "" {
		line += ": " + e.GetDetail()
	}
	s.say("%s", line)
}

func (s *show) report() {
	s.say("the result: ok=%v acked=%d lost=%d gaps=%v ms", s.result.Ok, s.result.Acked, s.result.Lost, s.result.FailoverGapMs)
}

func (s *show) invite(c *cluster.Cluster) {
	s.say("the cluster stays up until Ctrl-C:")
	fmt.Printf("    redis-cli -h %s\n", strings.Replace(c.Redis, ":", " -p ", 1))
	fmt.Printf("    status page   http://%s/\n", c.HTTP)
	fmt.Printf("    admin calls   build/tools/grpcurl -plaintext %s understudy.v1.Admin/ListVMs\n", c.GRPC)
	fmt.Printf("    logs          %s\n", c.Dir)
}
