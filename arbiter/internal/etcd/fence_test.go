package etcd

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
)

// These tests hold package fence against a real etcd.

// lease grants a lease that nobody keeps alive and puts key under it.
func lease(t *testing.T, c *clientv3.Client, key string) int64 {
	t.Helper()
	g, err := c.Grant(within(t, time.Minute), 60)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		if _, err := c.Put(within(t, time.Minute), key, "", clientv3.WithLease(g.ID)); err != nil {
			t.Fatal(err)
		}
	}
	return int64(g.ID)
}

func revoke(t *testing.T, c *clientv3.Client, id int64) {
	t.Helper()
	if _, err := c.Revoke(within(t, time.Minute), clientv3.LeaseID(id)); err != nil {
		t.Fatal(err)
	}
}

func record(vm string, term uint64) *pb.Record {
	return &pb.Record{Vm: vm, Term: term, Mode: pb.Mode_MODE_SOLO, Active: &pb.ReplicaRef{Id: "r-1", Address: "h:1"}, SinceUnixMs: int64(term)}
}

func own(t *testing.T, s *fence.Store, vm, id string, lease int64) fence.Claim {
	t.Helper()
	c, err := s.Own(within(t, time.Minute), vm, fence.Owner{ID: id, Address: id + ":7400", Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOneArbiterOwnsAVM(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	s := fence.NewStore(c)
	a, b := lease(t, c, ""), lease(t, c, "")
	ctx := within(t, time.Minute)

	claim := own(t, s, "web", "A", a)
	if again := own(t, s, "web", "A", a); again != claim {
		t.Errorf("owning again gave %v, not %v", again, claim)
	}
	var owned *fence.OwnedError
	_, err := s.Own(ctx, "web", fence.Owner{ID: "B", Address: "B:7400", Lease: b})
	if !errors.Is(err, fence.ErrOwned) || !errors.As(err, &owned) || owned.Owner != (fence.Owner{ID: "A", Address: "A:7400", Lease: a}) {
		t.Fatalf("B was told %v", err)
	}
	// B cannot disown what is A's.
	if err := s.Disown(ctx, fence.Claim{VM: "web", Lease: b}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Load(ctx, "web"); err != nil || v.Owner == nil || v.Owner.ID != "A" {
		t.Fatalf("%+v %v", v, err)
	}
	// A under another lease is another.
	a2 := lease(t, c, "")
	if _, err := s.Own(ctx, "web", fence.Owner{ID: "A", Lease: a2}); !errors.Is(err, fence.ErrOwned) {
		t.Errorf("A under another lease was told %v", err)
	}
	if _, err := s.Commit(ctx, fence.Claim{VM: "web", Lease: a2}, record("web", 1), 0); !errors.Is(err, fence.ErrConflict) {
		t.Errorf("a commit under another lease: %v", err)
	}
	if _, err := s.Commit(ctx, claim, record("web", 1), 0); err != nil {
		t.Error(err)
	}
	// The end of A's lease makes room for B.
	revoke(t, c, a)
	own(t, s, "web", "B", b)
	if err := s.Disown(ctx, fence.Claim{VM: "web", Lease: b}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Load(ctx, "web"); err != nil || v.Owner != nil {
		t.Errorf("%+v %v", v, err)
	}
	for _, bad := range []fence.Owner{{ID: "A"}} {
		if _, err := s.Own(ctx, "web", bad); err == nil {
			t.Error("owned without a lease")
		}
	}
	if _, err := s.Own(ctx, "../web", fence.Owner{ID: "A", Lease: b}); !errors.Is(err, fence.ErrName) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestCommitHoldsItsConditions(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	s := fence.NewStore(c)
	ctx := within(t, 20*time.Second)
	arbiter := lease(t, c, "")
	claim := own(t, s, "web", "A", arbiter)
	r1 := lease(t, c, fence.ReplicaKey("web", "r-1"))
	r2 := lease(t, c, fence.ReplicaKey("web", "r-2"))
	if _, err := c.Put(ctx, fence.ReplicaKey("web", "unleased"), ""); err != nil {
		t.Fatal(err)
	}
	rev, err := s.Commit(ctx, claim, record("web", 1), 0, fence.Condition{ReplicaID: "r-1", MustExist: true, LeaseID: r1})
	if err != nil {
		t.Fatal(err)
	}

	alive := func(id string, lease int64) fence.Condition {
		return fence.Condition{ReplicaID: id, MustExist: true, LeaseID: lease}
	}
	gone := func(id string) fence.Condition { return fence.Condition{ReplicaID: id} }
	for name, tc := range map[string]struct {
		claim   fence.Claim
		expect  int64
		conds   []fence.Condition
		cause   fence.Cause
		replica string
	}{
		"stale revision":             {claim, rev - 1, nil, fence.RecordChanged, ""},
		"expected none":              {claim, 0, nil, fence.RecordChanged, ""},
		"another's lease":            {fence.Claim{VM: "web", Lease: r1}, rev, nil, fence.NotOwner, ""},
		"the owner comes first":      {fence.Claim{VM: "web", Lease: r1}, rev - 1, []fence.Condition{gone("r-1")}, fence.NotOwner, ""},
		"then the revision":          {claim, rev - 1, []fence.Condition{gone("r-1")}, fence.RecordChanged, ""},
		"replica under other lease":  {claim, rev, []fence.Condition{alive("r-1", r1), alive("r-2", r1)}, fence.ReplicaGone, "r-2"},
		"replica without key":        {claim, rev, []fence.Condition{alive("r-3", r1)}, fence.ReplicaGone, "r-3"},
		"replica without lease":      {claim, rev, []fence.Condition{alive("unleased", r1)}, fence.ReplicaGone, "unleased"},
		"replica that must be gone":  {claim, rev, []fence.Condition{alive("r-1", r1), gone("r-2")}, fence.ReplicaAlive, "r-2"},
		"unleased one must be gone":  {claim, rev, []fence.Condition{gone("unleased")}, fence.ReplicaAlive, "unleased"},
		"conditions are told in row": {claim, rev, []fence.Condition{gone("r-1"), gone("r-2")}, fence.ReplicaAlive, "r-1"},
	} {
		_, err := s.Commit(ctx, tc.claim, record("web", 2), tc.expect, tc.conds...)
		var e *fence.ConflictError
		if !errors.As(err, &e) || !errors.Is(err, fence.ErrConflict) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.Cause != tc.cause || e.ReplicaID != tc.replica || e.Revision != rev || !proto.Equal(e.Record, record("web", 1)) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	for name, err := range map[string]error{
		"no lease in the condition": func() error { _, err := s.Commit(ctx, claim, record("web", 2), rev, alive("r-1", 0)); return err }(),
		"claim to another VM":       func() error { _, err := s.Commit(ctx, claim, record("db", 2), 0); return err }(),
		"bad replica name":          func() error { _, err := s.Commit(ctx, claim, record("web", 2), rev, gone("../x")); return err }(),
	} {
		if err == nil || errors.Is(err, fence.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}

	revoke(t, c, r2)
	next, err := s.Commit(ctx, claim, record("web", 2), rev, alive("r-1", r1), gone("r-2"))
	if err != nil || next <= rev {
		t.Fatalf("%d after %d: %v", next, rev, err)
	}
	// A repeated commit, whose first answer was lost, is recognized, even if
	// its conditions have ceased to hold meanwhile.
	revoke(t, c, r1)
	if again, err := s.Commit(ctx, claim, record("web", 2), rev, alive("r-1", r1)); err != nil || again != next {
		t.Errorf("repeated: %d, %v; want %d", again, err, next)
	}
	// The same record as a new commit is not.
	if _, err := s.Commit(ctx, claim, record("web", 2), next, alive("r-1", r1)); !errors.Is(err, fence.ErrConflict) {
		t.Errorf("same record again: %v", err)
	}
	// An arbiter whose lease has ended commits nothing.
	revoke(t, c, arbiter)
	var e *fence.ConflictError
	if _, err := s.Commit(ctx, claim, record("web", 3), next); !errors.As(err, &e) || e.Cause != fence.NotOwner {
		t.Errorf("without a lease: %v", err)
	}
}

func TestReplicaHelpsItselfOnlyWithoutOwner(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	s := fence.NewStore(c)
	ctx := within(t, 20*time.Second)
	arbiter := lease(t, c, "")
	claim := own(t, s, "web", "A", arbiter)
	r1 := lease(t, c, fence.ReplicaKey("web", "r-1"))
	self := fence.Condition{ReplicaID: "r-1", MustExist: true, LeaseID: r1}
	rev, err := s.Commit(ctx, claim, record("web", 1), 0, self)
	if err != nil {
		t.Fatal(err)
	}
	var e *fence.ConflictError
	if _, err := s.CommitUnowned(ctx, record("web", 2), rev, self); !errors.As(err, &e) || e.Cause != fence.NotOwner {
		t.Fatalf("while there is an owner: %v", err)
	}
	revoke(t, c, arbiter)
	next, err := s.CommitUnowned(ctx, record("web", 2), rev, self)
	if err != nil {
		t.Fatal(err)
	}
	revoke(t, c, r1)
	if _, err := s.CommitUnowned(ctx, record("web", 3), next, self); !errors.As(err, &e) || e.Cause != fence.ReplicaGone {
		t.Errorf("without its lease: %v", err)
	}
}

// Two arbiters that fight for a VM, and committers that race within each: each
// term is committed by exactly one, and no commit is lost.
func TestCommittersRace(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	s := fence.NewStore(c)
	ctx := within(t, 30*time.Second)
	const each, target = 3, 30

	var mu sync.Mutex
	winners := map[uint64][]string{}
	var wg sync.WaitGroup
	for _, id := range []string{"A", "B"} {
		l := lease(t, c, "")
		for range each {
			wg.Go(func() {
				for ctx.Err() == nil {
					claim, err := s.Own(ctx, "web", fence.Owner{ID: id, Lease: l})
					if errors.Is(err, fence.ErrOwned) {
						continue
					} else if err != nil {
						t.Error(err)
						return
					}
					v, err := s.Load(ctx, "web")
					if err != nil {
						t.Error(err)
						return
					}
					term := v.Record.GetTerm() + 1
					if term > target {
						s.Disown(ctx, claim)
						return
					}
					// Each writes another record, so that a double win shows.
					r := record("web", term)
					r.Active.Id = id
					_, err = s.Commit(ctx, claim, r, v.Revision)
					switch {
					case err == nil:
						mu.Lock()
						winners[term] = append(winners[term], id)
						mu.Unlock()
						if term%5 == 0 { // let the other arbiter in
							s.Disown(ctx, claim)
						}
					case !errors.Is(err, fence.ErrConflict):
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if len(winners) != target {
		t.Errorf("%d terms were committed, not %d", len(winners), target)
	}
	// Two committers of one arbiter that write an equal record count as one
	// another's lost answer; two arbiters never do.
	for term, ids := range winners {
		for _, id := range ids[1:] {
			if id != ids[0] {
				t.Errorf("term %d was committed by %v", term, ids)
			}
		}
	}
}

func TestUnknownOutcomeIsSaidAndResolved(t *testing.T) {
	server := run(t, Config{})
	direct := connect(t, server.LocalEndpoint())
	link := newLink(t, server.Addr().String())
	far := fence.NewStore(connect(t, link.endpoint()))
	claim := own(t, fence.NewStore(direct), "web", "A", lease(t, direct, ""))
	if _, err := far.Load(within(t, time.Minute), "web"); err != nil {
		t.Fatal(err)
	}

	// The request arrives, the answer does not.
	link.set(cutAnswers)
	_, err := far.Commit(within(t, 400*time.Millisecond), claim, record("web", 1), 0)
	if !errors.Is(err, fence.ErrUnknown) || errors.Is(err, fence.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	link.set(whole)
	v, err := far.Load(within(t, time.Minute), "web")
	if err != nil || v.Record.GetTerm() != 1 {
		t.Fatalf("%+v %v", v, err)
	}
	if rev, err := far.Commit(within(t, time.Minute), claim, record("web", 1), 0); err != nil || rev != v.Revision {
		t.Errorf("asked again: %d %v, want %d", rev, err, v.Revision)
	}

	// Nothing arrives.
	link.set(cut)
	if _, err = far.Commit(within(t, 400*time.Millisecond), claim, record("web", 2), v.Revision); !errors.Is(err, fence.ErrUnknown) {
		t.Fatalf("got %v", err)
	}
}

func TestListAndWatch(t *testing.T) {
	server := run(t, Config{})
	c := connect(t, server.LocalEndpoint())
	link := newLink(t, server.Addr().String())
	s, far := fence.NewStore(c), fence.NewStore(connect(t, link.endpoint()))
	ctx, stop := context.WithCancel(within(t, 30*time.Second))
	if all, err := s.List(ctx); err != nil || len(all) != 0 {
		t.Fatalf("%v %v", all, err)
	}
	views, err := far.Watch(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	await := func(what string, ok func(fence.View) bool) fence.View {
		t.Helper()
		for {
			select {
			case v := <-views:
				if ok(v) {
					return v
				}
			case <-ctx.Done():
				t.Fatalf("never saw %s", what)
			}
		}
	}
	await("nothing", func(v fence.View) bool { return v.Record == nil && v.Owner == nil && v.Revision == 0 })
	l := lease(t, c, "")
	claim := own(t, s, "web", "A", l)
	await("the owner", func(v fence.View) bool { return v.Owner != nil && v.Owner.ID == "A" && v.Owner.Lease == l })
	r1 := lease(t, c, fence.ReplicaKey("web", "r-1"))
	await("the replica", func(v fence.View) bool { return v.Replicas["r-1"] == r1 })
	rev, err := s.Commit(ctx, claim, record("web", 1), 0)
	if err != nil {
		t.Fatal(err)
	}
	await("the record", func(v fence.View) bool { return v.Record.GetTerm() == 1 && v.Revision == rev })
	revoke(t, c, r1)
	await("the replica's end", func(v fence.View) bool { return len(v.Replicas) == 0 && v.Revision == rev })

	// What happens while the connection is broken is seen after it.
	link.set(cut)
	if rev, err = s.Commit(ctx, claim, record("web", 2), rev); err != nil {
		t.Fatal(err)
	}
	link.reset()
	await("the change during the cut", func(v fence.View) bool { return v.Record.GetTerm() == 2 && v.Revision == rev })

	own(t, s, "db", "A", l)
	all, err := s.List(ctx)
	if err != nil || len(all) != 2 || all[0].VM != "db" || all[0].Owner == nil || all[1].VM != "web" || all[1].Revision != rev {
		t.Errorf("%+v %v", all, err)
	}
	stop()
	for range views { // ends
	}
}
