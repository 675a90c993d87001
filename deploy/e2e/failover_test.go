package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/watch"
)

// The host of the active copy dies under load, twice in a row; a spare has
// become the standby in between.
func TestActiveDies(t *testing.T) {
	c := start(t, cluster.Config{}, 2)
	l := begin(t, c)
	for range 2 {
		s := wait(t, c, "protection", mode(pb.Mode_MODE_PROTECTED, 0))
		if err := c.Active(s).Kill(); err != nil {
			t.Fatal(err)
		}
		progress(t, l, 500)
		after := status(t, c).GetRecord()
		if after.GetActive().GetId() != s.GetRecord().GetStandby().GetId() {
			t.Fatalf("active is %s, not the standby %s", after.GetActive().GetId(), s.GetRecord().GetStandby().GetId())
		}
		if c.Active(&pb.VMStatus{Record: after}) == c.Replicas[2] {
			break
		}
		wait(t, c, "the spare's protection", mode(pb.Mode_MODE_PROTECTED, after.GetTerm()-1))
		progress(t, l, 300)
	}
	verify(t, l)
}

// The standby dies: the active goes on alone, and a new secondary restores
// protection.
func TestStandbyDies(t *testing.T) {
	c := start(t, cluster.Config{}, 1)
	l := begin(t, c)
	s := status(t, c)
	if err := c.Standby(s).Kill(); err != nil {
		t.Fatal(err)
	}
	s = wait(t, c, "the active to go on alone", mode(pb.Mode_MODE_SOLO, s.GetRecord().GetTerm()))
	progress(t, l, 300)
	if _, err := c.StartSecondary(); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "new protection", mode(pb.Mode_MODE_PROTECTED, s.GetRecord().GetTerm()))
	progress(t, l, 300)
	verify(t, l)
}

// The arbiter dies and comes back on its data: the replicas go on.
func TestArbiterRestarts(t *testing.T) {
	c := start(t, cluster.Config{}, 1)
	l := begin(t, c)
	if err := c.Arbiter.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartArbiter(); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 500)
	wait(t, c, "protection", mode(pb.Mode_MODE_PROTECTED, 0))
	progress(t, l, 300)
	verify(t, l)
}

// pagesPerResync is twice what a resynchronization of this guest under load sent,
// on a busy machine, when this was written.
const pagesPerResync = 400

// An operator's fail-over and resynchronizations lose nothing either, and a
// resynchronization sends little more than what differs.
func TestOperator(t *testing.T) {
	c := start(t, cluster.Config{}, 2)
	l := begin(t, c)
	ctx := deadline(t)
	// The first ends the epoch of the boot, in which much came to differ.
	if err := c.Watch().Resync(ctx); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 100)
	before := status(t, c).GetCounters()
	var sent []uint64
	for last := before.GetPagesSent(); len(sent) < 5; {
		if err := c.Watch().Resync(ctx); err != nil {
			t.Fatal(err)
		}
		progress(t, l, 100)
		all := status(t, c).GetCounters().GetPagesSent()
		sent, last = append(sent, all-last), all
	}
	s := status(t, c)
	if n := s.GetCounters().GetResyncs() - before.GetResyncs(); n < 5 {
		t.Fatalf("%d resynchronizations after 5 orders", n)
	}
	// The median and a wide bound: how far apart the copies are hangs on how busy
	// this machine is.
	slices.Sort(sent)
	t.Logf("%v pages sent by resynchronizations", sent)
	if sent[2] > 3*pagesPerResync {
		t.Errorf("a resynchronization sends %d pages, about %d were right", sent[2], pagesPerResync)
	}
	err := watch.Order(ctx, func(ctx context.Context) error {
		_, err := c.Admin().FailOver(ctx, &pb.FailOverRequest{Vm: c.VM})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	progress(t, l, 300)
	after := wait(t, c, "protection by another replica", mode(pb.Mode_MODE_PROTECTED, s.GetRecord().GetTerm()+1))
	if after.GetRecord().GetActive().GetId() != s.GetRecord().GetStandby().GetId() {
		t.Fatalf("active is %s, not %s", after.GetRecord().GetActive().GetId(), s.GetRecord().GetStandby().GetId())
	}
	progress(t, l, 300)
	verify(t, l)
}

// The copies' answers differ when a client asks for the time: each such answer
// costs a resynchronization, and leaves only then.
func TestCopiesDisagree(t *testing.T) {
	c := start(t, cluster.Config{}, 2)
	l := begin(t, c)
	conn, err := net.Dial("tcp", c.Redis)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	ask := func() string {
		t.Helper()
		if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(conn, "TIME\r\n"); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for range 5 {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, strings.TrimSpace(line))
		}
		return fmt.Sprintf("%s.%06s", lines[2], lines[4])
	}
	before := status(t, c)
	var times []string
	began := time.Now()
	const questions = 30
	for range questions {
		times = append(times, ask())
	}
	took := time.Since(began)
	if !slices.IsSorted(times) {
		t.Errorf("the clock ran backwards: %v", times)
	}
	after := status(t, c)
	n := after.GetCounters().GetResyncs() - before.GetCounters().GetResyncs()
	if n < questions/2 {
		t.Errorf("%d resynchronizations for %d answers that differ", n, questions)
	}
	t.Logf("%d differing answers in %s: %d resynchronizations, %d pages compared, %d sent", questions, took, n,
		after.GetCounters().GetPagesCompared()-before.GetCounters().GetPagesCompared(),
		after.GetCounters().GetPagesSent()-before.GetCounters().GetPagesSent())
	// A take-over right behind: the clock goes on, the connection, too.
	if err := c.Active(after).Kill(); err != nil {
		t.Fatal(err)
	}
	if next := ask(); next < times[len(times)-1] {
		t.Errorf("after the take-over the clock reads %s, before %s", next, times[len(times)-1])
	}
	progress(t, l, 200)
	verify(t, l)
}
