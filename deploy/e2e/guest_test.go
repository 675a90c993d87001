package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
)

// A guest that powers itself off ends the VM on both sides: an owner's
// shutdown is no failure.
func TestGuestPowersOff(t *testing.T) {
	c := start(t, cluster.Config{}, 1)
	conn, err := net.Dial("tcp", c.Redis)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The guest switches itself off when its service ends.
	if _, err := fmt.Fprint(conn, "SHUTDOWN NOSAVE\r\n"); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Replicas {
		select {
		case <-p.Done():
			if p.Err() != nil {
				t.Errorf("%s ended with %v:\n%s", p.Name, p.Err(), p.LogTail(5))
			}
		case <-deadline(t).Done():
			t.Fatalf("%s goes on after the guest's power-off:\n%s", p.Name, p.LogTail(5))
		}
	}
	wait(t, c, "the end", mode(pb.Mode_MODE_ENDED, 0))
	if n := status(t, c).GetCounters().GetFailovers(); n != 0 {
		t.Errorf("the shutdown was taken for %d failures", n)
	}
}

// A guest that reboots stays protected.
func TestGuestReboots(t *testing.T) {
	c := start(t, cluster.Config{ConsoleSockets: true, Service: "redis,shell"}, 1)
	s := status(t, c)
	name := c.Active(s).Name
	for _, p := range c.Replicas {
		console, err := net.Dial("unix", filepath.Join(c.Dir, p.Name+".console"))
		if err != nil {
			t.Fatal(err)
		}
		defer console.Close()
		// A person at the consoles of both copies: console input is local.
		if _, err := fmt.Fprint(console, "\nreboot -f\n"); err != nil {
			t.Fatal(err)
		}
	}
	rebooted(t, c)
	if err := c.DialRedis(deadline(t)); err != nil {
		t.Fatal(err)
	}
	after := wait(t, c, "protection after the reboot", mode(pb.Mode_MODE_PROTECTED, 0))
	if c.Active(after).Name != name || after.GetCounters().GetFailovers() != 0 {
		t.Errorf("the reboot was taken for a failure: %s", after.GetSummary())
	}
	l := begin(t, c)
	if err := c.Active(after).Kill(); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 200)
	verify(t, l)
}

// rebooted waits until both copies have rebooted and resynchronized.
func rebooted(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	stream, err := c.Admin().WatchEvents(deadline(t), &pb.WatchEventsRequest{Vm: c.VM})
	if err != nil {
		t.Fatal(err)
	}
	for seen := false; ; {
		e, err := stream.Recv()
		if err != nil {
			t.Fatalf("wait for the reboot: %v", err)
		}
		seen = seen || e.GetType() == pb.EventType_EVENT_TYPE_REBOOTED
		if seen && e.GetType() == pb.EventType_EVENT_TYPE_RESYNC_DONE {
			return
		}
	}
}

// Two copies of one machine cannot both be booted.
func TestSecondPrimaryIsRefused(t *testing.T) {
	c := start(t, cluster.Config{}, 0)
	p, err := c.StartPrimary()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("a second primary of the same VM goes on")
	}
	if p.Err() == nil {
		t.Fatal("a second primary ended without an error")
	}
	t.Log(p.LogTail(1))
	if err := c.DialRedis(deadline(t)); err != nil {
		t.Fatal(err)
	}
}
