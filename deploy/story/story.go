package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/load"
	"github.com/understudy-ft/understudy/deploy/watch"
)

// Config is a deployment, and how patiently to look at it.
type Config struct {
	watch.VM
	// Redis is the address at which clients find the guest's Redis.
	Redis string
	// Alive fails once something has ended that the story cannot go on without.
	Alive func() error
	// Writers and Readers are numbers of connections.
	Writers, Readers int
	// CalmFor is how long the load runs undisturbed between two events.
	CalmFor time.Duration
	// ProtectTimeout bounds the wait for a boot or a first copy, TakeTimeout that
	// for a take-over. Both are to be far above what is expected.
	ProtectTimeout, TakeTimeout time.Duration
	// Out gets the timeline.
	Out io.Writer
}

// Story is one run.
type Story struct {
	Config
	began   time.Time
	clients *load.Load
	clock   *load.Clock
	last    *pb.VMStatus
	lost    time.Time // when the last host was lost
	before  int64     // acknowledged writes then
	result  Result
}

// New returns a story that begins now.
func New(c Config) *Story { return &Story{Config: c, began: time.Now()} }

// Say prints a line of the timeline.
func (s *Story) Say(format string, args ...any) {
	fmt.Fprintf(s.Out, "%8.2f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// Status is what the arbiter said last.
func (s *Story) Status() *pb.VMStatus { return s.last }

// Result is what was seen so far.
func (s *Story) Result() Result { return s.result }

// Close ends the load of a story that did not come to its end.
func (s *Story) Close() {
	if s.clients != nil {
		s.clients.Stop()
	}
	if s.clock != nil {
		_ = s.clock.Close() // it has been asked
	}
}

// Arbiter waits until the arbiter answers, which may not know the VM yet.
func (s *Story) Arbiter(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, s.ProtectTimeout)
	defer cancel()
	for {
		_, err := s.VM.Status(wait)
		if err == nil || status.Code(err) == codes.NotFound {
			s.Say("the arbiter answers")
			return nil
		}
		select {
		case <-wait.Done():
			return errors.Join(fmt.Errorf("wait for the arbiter: %w", err), s.Alive())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Boot waits until the guest's Redis answers.
func (s *Story) Boot(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, s.ProtectTimeout)
	defer cancel()
	if err := s.await(wait, "the VM's boot", func(v *pb.VMStatus) bool { return v.GetRecord().GetTerm() > 0 }); err != nil {
		return err
	}
	if err := load.Await(wait, s.Redis); err != nil {
		return errors.Join(err, s.Alive())
	}
	s.Say("Redis answers")
	var err error
	s.clock, err = load.OpenClock(s.Redis)
	return err
}

// Begin waits until the VM is protected, and opens the connections.
func (s *Story) Begin(ctx context.Context) error {
	if err := s.protected(ctx, 0, s.began); err != nil {
		return err
	}
	var err error
	if s.clients, err = load.Start(s.Redis, s.Writers, s.Readers); err != nil {
		return err
	}
	s.Say("%d connections are open and will never be opened again: %d write, %d read", s.Writers+s.Readers, s.Writers, s.Readers)
	return s.Calm(ctx)
}

// Calm lets the load run for a while.
func (s *Story) Calm(ctx context.Context) error {
	before := s.clients.Acked()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.CalmFor):
	}
	n := s.clients.Acked() - before
	s.Say("%d writes acknowledged in %s (%.0f/s)", n, s.CalmFor, float64(n)/s.CalmFor.Seconds())
	return nil
}

// Lose takes the host of the active replica away under load, and waits until
// the standby has taken over. lose does it and says what it did. Where a busy
// machine has cost the VM its standby meanwhile, it waits for the next first.
func (s *Story) Lose(ctx context.Context, lose func(active string) (what string, err error)) error {
	if _, err := s.askTime(1); err != nil {
		return err
	}
	ready, stop := context.WithTimeout(ctx, s.ProtectTimeout)
	defer stop()
	if err := s.await(ready, "a standby", watch.Protected(0)); err != nil {
		return err
	}
	record := s.last.GetRecord()
	heir := record.GetStandby().GetId()
	s.before, s.lost = s.clients.Acked(), time.Now()
	what, err := lose(record.GetActive().GetId())
	if err != nil {
		return err
	}
	s.Say("%s after %d acknowledged writes", what, s.before)
	wait, cancel := context.WithTimeout(ctx, s.TakeTimeout)
	defer cancel()
	if err := s.await(wait, "take-over", func(v *pb.VMStatus) bool {
		return v.GetRecord().GetActive().GetId() == heir && v.GetRecord().GetTerm() > record.GetTerm()
	}); err != nil {
		return err
	}
	s.result.FailoversObserved++
	s.Say("%s has taken over in term %d", heir, s.last.GetRecord().GetTerm())
	d, err := s.askTime(soloQuestions)
	if err != nil {
		return err
	}
	s.result.ClockAheadMs = append(s.result.ClockAheadMs, [2]float64{milliseconds(d.Least), milliseconds(d.Most)})
	return nil
}

// Protected waits until another replica has become the standby after a loss.
func (s *Story) Protected(ctx context.Context) error {
	return s.protected(ctx, s.last.GetRecord().GetTerm(), s.lost)
}

func (s *Story) protected(ctx context.Context, term uint64, since time.Time) error {
	wait, cancel := context.WithTimeout(ctx, s.ProtectTimeout)
	defer cancel()
	if err := s.await(wait, "protection", watch.Protected(term)); err != nil {
		return err
	}
	took := time.Since(since)
	s.result.ProtectedAfterMs = append(s.result.ProtectedAfterMs, took.Milliseconds())
	r := s.last.GetRecord()
	s.Say("PROTECTED after %.1f s: %s is active, %s shadows it", took.Seconds(), r.GetActive().GetId(), r.GetStandby().GetId())
	return nil
}

// Survived lets the load run after a loss, and checks that clients were served.
func (s *Story) Survived(ctx context.Context) error {
	if err := s.Calm(ctx); err != nil {
		return err
	}
	if s.clients.Acked() <= s.before {
		return errors.New("no write was acknowledged after the take-over")
	}
	gap := s.clients.LongestGap(s.lost)
	s.result.FailoverGapMs = append(s.result.FailoverGapMs, gap.Milliseconds())
	s.Say("the clients' longest wait since then was %d ms; %d more writes acknowledged on the same connections",
		gap.Milliseconds(), s.clients.Acked()-s.before)
	return s.refresh(ctx)
}

// Returned waits until a lost replica has thrown its copy away and is attached
// again under a new identity, as one of the same name.
func (s *Story) Returned(ctx context.Context, name, lost string) error {
	wait, cancel := context.WithTimeout(ctx, s.ProtectTimeout)
	defer cancel()
	return s.await(wait, name+"'s return", func(v *pb.VMStatus) bool {
		return slices.ContainsFunc(v.GetReplicas(), func(r *pb.ReplicaStatus) bool {
			id := r.GetReplica().GetId()
			return id != lost && strings.HasPrefix(id, name+"-")
		})
	})
}

// Resync orders n resynchronizations under load.
func (s *Story) Resync(ctx context.Context, n int) error {
	s.Say("%d resynchronizations are ordered under load", n)
	wait, cancel := context.WithTimeout(ctx, s.ProtectTimeout)
	defer cancel()
	for done := range n {
		if err := s.VM.Resync(wait); err != nil {
			return fmt.Errorf("order a resynchronization after %d of %d: %w", done, n, err)
		}
		if _, err := s.askTime(1); err != nil {
			return err
		}
		select {
		case <-wait.Done():
			return fmt.Errorf("%d of %d resynchronizations came about: %w", done+1, n, wait.Err())
		case <-time.After(s.CalmFor / 5): // pages get dirty
		}
	}
	return s.refresh(ctx)
}

// End ends the load and reads every acknowledged write back.
func (s *Story) End(ctx context.Context) error {
	if _, err := s.askTime(1); err != nil {
		return err
	}
	seen := s.clients.Stop()
	s.Say("load ends: %d writes acknowledged, %d reads; reading everything back", seen.Acked, seen.Reads)
	lost, err := s.clients.Verify(ctx)
	if err != nil {
		return err
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	s.result.finish(s.last.GetCounters(), seen, lost)
	s.Say("%d acknowledged writes checked: %d lost; %d of %d connections broken", seen.Acked, lost, seen.ConnectionsLost, seen.Connections)
	s.Say("%s", s.result.Clock())
	return nil
}

// soloQuestions is how often the guest's time is asked for while it is not
// protected, when an answer waits for nothing.
const soloQuestions = 5

// askTime asks for the guest's time.
func (s *Story) askTime(times int) (load.Drift, error) {
	d, err := s.clock.Ask(times)
	s.result.ClockAsked, s.result.ClockBackwards = s.clock.Asked, s.clock.Backwards
	s.result.behind = max(s.result.behind, -d.Most)
	return d, err
}

func (s *Story) await(ctx context.Context, what string, ok func(*pb.VMStatus) bool) error {
	v, err := s.Wait(ctx, what, ok, s.Alive)
	if err == nil {
		s.last = v
	}
	return err
}

func (s *Story) refresh(ctx context.Context) error {
	return s.await(ctx, "the arbiter's word", func(*pb.VMStatus) bool { return true })
}
