package compose

import (
	"encoding/json"
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
	// protectedWithin bounds how long it may take until two copies run again, on a
	// machine that has other work, too.
	protectedWithin = 5 * time.Minute
	// progressWithin bounds how long the clients may be left without an answer. A
	// connection that waits for longer counts as broken anyway.
	progressWithin = 3 * time.Minute
)

// loss is a way to lose a service and to get it back.
type loss struct{ lose, back func(service string) }

// One client loads the guest over connections that it opens once, while one
// after the other of all that the deployment is made of is lost. In the end
// every acknowledged write is there and no connection broke; and it is still
// there after all was switched off and on again.
func TestLosses(t *testing.T) {
	p := newProject(t)
	p.start()
	p.healthy("etcd-1", "etcd-2", "etcd-3", "arbiter-1", "arbiter-2", "primary", "secondary-1", "secondary-2", "client")
	s := p.protected(0)
	load := p.report("POST /load?writers=3&readers=2")
	p.progress("after the start")
	p.whole()

	active := func(s *pb.VMStatus) string { return service(s.GetRecord().GetActive()) }
	standby := func(s *pb.VMStatus) string { return service(s.GetRecord().GetStandby()) }
	owner := func(*pb.VMStatus) string { return p.owner() }
	leader := func(*pb.VMStatus) string { return p.leader() }
	// What crashes is brought back by its restart policy.
	crash := loss{p.crash, func(string) {}}
	kill := loss{p.doTo("kill"), p.doTo("start")}
	pause := loss{p.doTo("pause"), p.doTo("unpause")}

	for _, step := range []struct {
		name string
		who  func(*pb.VMStatus) string
		loss
		// goesOn: the loss changes neither who is active nor the protection.
		goesOn bool
		// blind: nobody serves until it is back, so it is lost for a moment only.
		blind bool
		// moves: another arbiter owns the VM afterwards.
		moves bool
	}{
		{name: "the active's process crashes", who: active, loss: crash},
		{name: "the active's container is killed", who: active, loss: kill},
		{name: "the active's container is paused", who: active, loss: pause},
		{name: "the active loses the management network", who: active, loss: p.cut("mgmt")},
		// The deployment does not look at what lies behind an uplink. When the
		// network is back, its device joins the bridge again.
		{name: "the active loses the service network", who: active, loss: p.cut("service"), goesOn: true, blind: true},
		{name: "the standby's container is killed", who: standby, loss: kill},
		{name: "the standby loses the management network", who: standby, loss: p.cut("mgmt")},
		{name: "the standby loses the service network", who: standby, loss: p.cut("service"), goesOn: true},
		{name: "the leader of etcd is killed", who: leader, loss: kill, goesOn: true},
		{name: "the arbiter that owns the VM loses its network", who: owner, loss: p.cut("mgmt"), goesOn: true, moves: true},
		{name: "the arbiter that owns the VM is killed", who: owner, loss: kill, goesOn: true, moves: true},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			p.t = t
			lost, began := step.who(s), time.Now()
			step.lose(lost)
			t.Logf("%s is lost", lost)
			if step.blind {
				step.back(lost)
			}
			p.progress("after the loss")
			after := s.GetRecord().GetTerm()
			if step.goesOn {
				after--
			}
			now := p.protected(after)
			wait := p.report(fmt.Sprintf("GET /load?since=%v", time.Since(began))).LongestWaitMilli
			t.Logf("protected in term %d after %.1f s: %s is active, %s shadows it; the longest wait of a client was %d ms",
				now.GetRecord().GetTerm(), time.Since(began).Seconds(), active(now), standby(now), wait)
			if step.goesOn && now.GetRecord().GetActive().GetId() != s.GetRecord().GetActive().GetId() {
				t.Errorf("%s is active instead of %s", now.GetRecord().GetActive().GetId(), s.GetRecord().GetActive().GetId())
			}
			if owner := p.owner(); step.moves && owner == lost {
				t.Errorf("%s owns the VM still", owner)
			}
			if !step.blind {
				step.back(lost)
			}
			p.whole()
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
	p.up()
	p.protected(0)
	query := strings.ReplaceAll(strings.Trim(fmt.Sprint(end.AckedByWriter), "[]"), " ", ",")
	var again report
	p.eventually("read everything back after down and up", protectedWithin, func() error {
		out, err := p.try(protectedWithin, "docker", "exec", p.container("client"), "/checks", "--ask", "POST /verify?acked="+query)
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
func (p *project) whole() {
	p.t.Helper()
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

// doTo makes a docker command a thing to do to a service.
func (p *project) doTo(command string) func(service string) {
	return func(service string) { p.docker(command, p.container(service)) }
}

// cut is the loss of a network.
func (p *project) cut(network string) loss {
	name := p.name + "_" + network
	prefix := map[string]string{"mgmt": p.mgmt, "service": p.service}[network]
	return loss{
		lose: func(service string) { p.docker("network", "disconnect", name, p.container(service)) },
		back: func(service string) {
			// A replica's bridge gives the address back within a second or so.
			p.eventually("connect to "+name, time.Minute, func() error {
				_, err := p.try(time.Minute, "docker", "network", "connect", "--ip", p.at(prefix, service), name, p.container(service))
				return err
			})
		},
	}
}

// leader is the service of the etcd member that leads.
func (p *project) leader() (name string) {
	p.t.Helper()
	p.eventually("etcd's leader", time.Minute, func() error {
		for _, name = range []string{"etcd-1", "etcd-2", "etcd-3"} {
			out, err := p.try(time.Minute, "docker", "exec", p.container(name), "/etcdctl", "endpoint", "status", "--write-out", "json")
			if err != nil {
				return err
			}
			var members []struct {
				Status struct {
					Header struct {
						Member uint64 `json:"member_id"`
					} `json:"header"`
					Leader uint64 `json:"leader"`
				}
			}
			if err := json.Unmarshal([]byte(out), &members); err != nil || len(members) != 1 {
				return fmt.Errorf("%s says %s: %v", name, out, err)
			}
			if s := members[0].Status; s.Leader == s.Header.Member {
				return nil
			}
		}
		return errors.New("no member says that it leads")
	})
	return name
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
func (p *project) owner() (name string) {
	p.t.Helper()
	p.eventually("the owning arbiter", time.Minute, func() error {
		out, err := p.try(time.Minute, "docker", "exec", p.container("client"), "/checks", "--ask", "GET /owner")
		for _, name = range []string{"arbiter-1", "arbiter-2"} {
			if strings.TrimSpace(out) == p.at(p.mgmt, name)+":7400" {
				return nil
			}
		}
		return fmt.Errorf("the owner is at %q: %w", out, err)
	})
	return name
}
