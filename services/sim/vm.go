package sim

import (
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// vm is one protected guest: its replicas, its clients, and what is known to
// have left.
type vm struct {
	w       *world
	name    string
	hosts   []*replica
	clients []*client
	asker   *asker // nil: none
	check   checker
	entry   *entry // in etcd
	disks   bool   // the guest has one
	// coldUntil is until when not all is lost again.
	coldUntil time.Duration
}

func (w *world) newVM(name string) *vm {
	v := &vm{w: w, name: name, entry: &entry{}, disks: w.opt.disks}
	v.check = newChecker(v)
	w.vms = append(w.vms, v)
	return v
}

func (v *vm) record() *pb.Record { return v.entry.record }

// host is the replica of that identity, if it still has it.
func (v *vm) host(id string) *replica {
	if id == "" {
		return nil
	}
	for _, r := range v.hosts {
		if r.id == id {
			return r
		}
	}
	return nil
}

// names tells whether the record counts on a replica's copy.
func (v *vm) names(id string) bool {
	rec := v.record()
	return rec.GetActive().GetId() == id || rec.GetMode() == pb.Mode_MODE_PROTECTED && rec.GetStandby().GetId() == id
}

// stands tells where the record stands.
func (v *vm) stands() string {
	r := v.record()
	return fmt.Sprintf("term %d %s", r.GetTerm(), r.GetMode())
}

// whole tells whether the VM is protected and its clients were served.
func (v *vm) whole() bool {
	if v.record().GetMode() != pb.Mode_MODE_PROTECTED {
		return false
	}
	for _, c := range v.clients {
		if c.answered < v.w.opt.enough {
			return false
		}
	}
	return v.asker == nil || v.asker.answered >= v.w.opt.enough && v.ruled()
}

// progress tells where everything stands.
func (v *vm) progress() (s string) {
	s = fmt.Sprintf("%s %s: ", v.name, v.stands())
	for _, r := range v.hosts {
		s += fmt.Sprintf("[%s dead %v %s %s term %d attached %v guest %v] ", r.id, r.dead, r.core.Role(), r.core.Mode(), r.core.Term(), r.attach != nil, r.guest != nil)
	}
	for _, a := range v.w.arbiters {
		if t := a.seats[v]; t != nil {
			s += fmt.Sprintf("[%s dead %v owns %v streams %d] ", a.name, a.dead, t.owns, len(t.streams))
		}
	}
	for _, c := range v.clients {
		s += fmt.Sprintf("%d/%d ", c.answered, v.w.opt.enough)
		if c.waiting {
			s += fmt.Sprintf("(client %d waits for %d %s, tcp %v) ", c.number, c.n, c.op, c.tcp)
		}
	}
	if v.asker != nil {
		s += fmt.Sprintf("asker %d/%d, %s ordered, in force %v ", v.asker.answered, v.w.opt.enough, v.ordered(), v.ruled())
	}
	return s
}

// ruled tells whether the rules that were ordered are in force.
func (v *vm) ruled() bool {
	a := v.host(v.record().GetActive().GetId())
	return a != nil && a.rules[a.core.Epoch()] == v.ordered()
}
