package compose

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

const (
	// protectedWithin bounds how long a loaded machine may take until two
	// copies run again.
	protectedWithin = 40 * time.Second
	// progressWithin bounds how long the clients may be left without an answer,
	// on a machine that all hosts share.
	progressWithin = 15 * time.Second
)

// One client loads the guest over connections that it opens once, while one
// after the other of all that the deployment is made of is lost. In the end
// every acknowledged write is there and no connection broke; and it is still
// there after all was switched off and on again.
func TestLosses(t *testing.T) {
	p := newProject(t)
	p.start()
	s := p.protected(0)
	load := p.report("POST /load?writers=3&readers=2")
	p.progress("after the start")
	p.healthy("etcd-1", "etcd-2", "etcd-3", "arbiter-1", "arbiter-2", "primary", "secondary-1", "secondary-2", "client")

	var lost string // the service that is away
	for _, step := range []struct {
		name string
		lose func(s *pb.VMStatus)
		// back brings what was lost back.
		back func()
		// goesOn: the loss changes neither who is active nor the protection.
		goesOn bool
		// blind: nobody serves until it is back.
		blind bool
	}{
		{
			// Its restart policy brings it back, as a spare.
			name: "the active's process crashes",
			lose: func(s *pb.VMStatus) { lost = service(s.GetRecord().GetActive()); p.crash(lost) },
			back: func() {},
		},
		{
			name: "the active's container is killed",
			lose: func(s *pb.VMStatus) { lost = service(s.GetRecord().GetActive()); p.docker("kill", p.container(lost)) },
			back: func() { p.docker("start", p.container(lost)) },
		},
		{
			name: "the active's container is paused",
			lose: func(s *pb.VMStatus) { lost = service(s.GetRecord().GetActive()); p.docker("pause", p.container(lost)) },
			back: func() { p.docker("unpause", p.container(lost)) },
		},
		{
			name: "the active loses the management network",
			lose: func(s *pb.VMStatus) {
				lost = service(s.GetRecord().GetActive())
				p.docker("network", "disconnect", p.name+"_mgmt", p.container(lost))
			},
			back: func() {
				p.docker("network", "connect", "--ip", p.at(p.mgmt, lost), p.name+"_mgmt", p.container(lost))
			},
		},
		{
			// The deployment does not look at what lies behind an uplink. When the
			// network is back, its device joins the bridge again.
			name: "the active loses the service network for a moment",
			lose: func(s *pb.VMStatus) {
				lost = service(s.GetRecord().GetActive())
				p.docker("network", "disconnect", p.name+"_service", p.container(lost))
			},
			back: func() {
				// The replica's bridge gives the address back within a second.
				p.eventually("connect the service network", 10*time.Second, func() error {
					_, err := p.try(time.Minute, "docker", "network", "connect", "--ip", p.at(p.service, lost), p.name+"_service", p.container(lost))
					return err
				})
			},
			goesOn: true, blind: true,
		},
		{
			name: "the standby's container is killed",
			lose: func(s *pb.VMStatus) { lost = service(s.GetRecord().GetStandby()); p.docker("kill", p.container(lost)) },
			back: func() { p.docker("start", p.container(lost)) },
		},
		{
			name:   "an etcd member is killed",
			lose:   func(*pb.VMStatus) { lost = "etcd-1"; p.docker("kill", p.container(lost)) },
			back:   func() { p.docker("start", p.container(lost)) },
			goesOn: true,
		},
		{
			name: "the arbiter that owns the VM is killed",
			lose: func(*pb.VMStatus) { lost = p.owner(); p.docker("kill", p.container(lost)) },
			back: func() {
				if now := p.owner(); now == lost {
					t.Errorf("%s owns the VM still", now)
				}
				p.docker("start", p.container(lost))
			},
			goesOn: true,
		},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			p.t = t
			began := time.Now()
			step.lose(s)
			t.Logf("%s is lost", lost)
			if step.blind {
				step.back()
			}
			p.progress("after the loss")
			after := s.GetRecord().GetTerm()
			if step.goesOn {
				after--
			}
			now := p.protected(after)
			wait := p.report(fmt.Sprintf("GET /load?since=%v", time.Since(began))).LongestWaitMilli
			t.Logf("protected again in term %d after %.1f s: %s is active, %s shadows it; the longest wait of a client was %d ms",
				now.GetRecord().GetTerm(), time.Since(began).Seconds(), service(now.GetRecord().GetActive()), service(now.GetRecord().GetStandby()), wait)
			if step.goesOn && now.GetRecord().GetActive().GetId() != s.GetRecord().GetActive().GetId() {
				t.Errorf("%s is active instead of %s", now.GetRecord().GetActive().GetId(), s.GetRecord().GetActive().GetId())
			}
			if !step.blind {
				step.back()
			}
			p.whole(t)
			s = p.protected(now.GetRecord().GetTerm() - 1)
		})
		p.t = t
		if !ok {
			return
		}
	}

	end := p.report("POST /stop")
	t.Logf("%d writes were acknowledged, the longest wait was %d ms", end.Acked, end.LongestWaitMilli)
	if end.Lost != 0 || end.Wrong != 0 || end.ConnectionsLost != 0 || end.Connections != load.Connections {
		t.Errorf("lost %d of %d writes, %d wrong answers, %d of %d connections broken: %s",
			end.Lost, end.Acked, end.Wrong, end.ConnectionsLost, end.Connections, end.Problem)
	}

	p.do("down", "--timeout", "5")
	p.do("up", "--detach")
	p.protected(0)
	query := strings.ReplaceAll(strings.Trim(fmt.Sprint(end.AckedByWriter), "[]"), " ", ",")
	var again report
	p.eventually("read everything back after down and up", time.Minute, func() error {
		out, err := p.try(time.Minute, "docker", "exec", p.container("client"), "/checks", "--ask", "POST /verify?acked="+query)
		if err == nil {
			again = parse(t, out)
		}
		return err
	})
	if again.Lost != 0 || again.Acked != end.Acked {
		t.Errorf("after down and up %d of %d acknowledged writes are lost", again.Lost, again.Acked)
	}
}

// protected waits for protection in a term above after.
func (p *project) protected(after uint64) *pb.VMStatus {
	p.t.Helper()
	return p.status(fmt.Sprintf("GET /wait?mode=protected&after=%d&timeout=%v", after, protectedWithin))
}

// progress waits until more writes are acknowledged than now.
func (p *project) progress(when string) {
	p.t.Helper()
	before := p.report("GET /load").Acked
	p.eventually("more acknowledged writes "+when, progressWithin, func() error {
		if now := p.report("GET /load").Acked; now <= before {
			return fmt.Errorf("%d acknowledged, as before", now)
		}
		return nil
	})
}

// whole waits until all three replicas are attached, each with its part: what
// was lost has come back as a spare.
func (p *project) whole(t *testing.T) {
	t.Helper()
	p.eventually("one active, one standby and one spare", protectedWithin, func() error {
		var roles []string
		for _, r := range p.status("GET /status").GetReplicas() {
			roles = append(roles, fmt.Sprintf("%s=%s", service(r.GetReplica()), strings.TrimPrefix(r.GetRole().String(), "ROLE_")))
		}
		slices.Sort(roles)
		all := strings.Join(roles, " ")
		if len(roles) == 3 && strings.Count(all, "=ACTIVE") == 1 && strings.Count(all, "=STANDBY") == 1 && strings.Count(all, "=SPARE") == 1 {
			return nil
		}
		return fmt.Errorf("the replicas are %s", all)
	})
}

// service is the compose service that a replica belongs to: its identity is the
// service's name and a random end.
func service(r *pb.ReplicaRef) string {
	id := r.GetId()
	return id[:max(0, strings.LastIndex(id, "-"))]
}

// addresses are the last bytes of the services' addresses in docker-compose.yml.
var addresses = map[string]int{"primary": 31, "secondary-1": 32, "secondary-2": 33, "arbiter-1": 21, "arbiter-2": 22}

// at is a service's address in a network.
func (p *project) at(network, service string) string {
	return fmt.Sprintf("%s.%d", network, addresses[service])
}

// crash ends the process of a container from outside, as no docker command
// does: those count as an operator's wish, after which nothing is restarted.
func (p *project) crash(service string) {
	p.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(p.docker("inspect", "--format", "{{.State.Pid}}", p.container(service))))
	if err != nil || pid <= 1 {
		p.t.Fatalf("the process of %s is %d: %v", service, pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); errors.Is(err, syscall.EPERM) {
		p.t.Log("NOT TESTED: the restart policy: ending a container's process needs root; its container is killed instead")
		p.docker("kill", p.container(service))
		p.docker("start", p.container(service))
	} else if err != nil {
		p.t.Fatal(err)
	}
}

// owner is the arbiter service that owns the VM.
func (p *project) owner() string {
	p.t.Helper()
	addr := strings.TrimSpace(p.ask("GET /owner"))
	for _, name := range []string{"arbiter-1", "arbiter-2"} {
		if addr == p.at(p.mgmt, name)+":7400" {
			return name
		}
	}
	p.t.Fatalf("the owner is at %s", addr)
	return ""
}
