package e2e

import (
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
)

// etcd does not answer: outputs stop before the leases can have run out, in
// either mode, and go on when it answers again.
func TestEtcdHangs(t *testing.T) {
	c := start(t, ownEtcd(t), 0)
	l := begin(t, c)
	silence := func() {
		t.Helper()
		hang(t, c.Etcd)
		time.Sleep(2 * fence.DefaultTTL) // the leases run out, whatever the machine is busy with
		stopped := l.Acked()
		time.Sleep(time.Second)
		if n := l.Acked(); n != stopped {
			t.Fatalf("%d writes were acknowledged without a lease", n-stopped)
		}
		resume(t, c.Etcd)
		progress(t, l, 300)
	}
	silence()
	if _, err := c.StartSecondary(); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "protection", mode(pb.Mode_MODE_PROTECTED, 0))
	progress(t, l, 100)
	silence()
	wait(t, c, "protection", mode(pb.Mode_MODE_PROTECTED, 0))
	progress(t, l, 100)
	verify(t, l)
}
