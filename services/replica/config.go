package replica

import (
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/lastwill"
	"github.com/understudy-ft/understudy/services/machine"
)

// Config is what a replica is started with.
type Config struct {
	// VM is the identity of the protected VM.
	VM string
	// Name is the beginning of the replica's ID.
	Name string
	// Arbiters are the addresses of the arbiters, host:port.
	Arbiters []string
	// Listen is where the Replication service listens; Advertise is the address
	// that others reach it at (default: the listener's).
	Listen, Advertise string
	// Identity is this replica's certificate; nil: plain text.
	Identity *identity.Source
	// Uplink says where the guest's NIC meets the outside (package uplink).
	Uplink string
	// Console gets the guest's console output; ConsoleInput, if set, is read
	// for its input.
	Console      io.Writer
	ConsoleInput io.Reader
	// Guest is the machine to boot: this replica asks to become active. nil
	// makes a spare, which learns the machine from the active.
	Guest *Guest
	// OrSpare: where the arbiter refuses to boot Guest, because the VM runs
	// already, this replica becomes a spare.
	OrSpare bool
	// Silence is how long the arbiter or the other copy may be silent before it
	// counts as lost; 0 is package feed's default.
	Silence time.Duration
	// SoloAfter is how long no arbiter that owns the VM may be heard until this
	// replica, where it could serve, goes on alone by a transaction of its own;
	// 0: never.
	SoloAfter time.Duration
	// DiskPath is the local disk image. A spare's is made as needed; empty for a
	// spare means a temporary file where the guest has a disk.
	DiskPath string
	// DiskAdopt takes the image at DiskPath for VM's, whatever its stamp and the
	// record in etcd say.
	DiskAdopt bool
	// Trace, if set, gets a line for each output reported and released: see
	// trace.
	Trace io.Writer

	Version string
	Log     hclog.Logger

	// Made by Run.
	disk    *localDisk
	fitness *fitness
	will    *lastwill.Will
}

// Guest is a bootable machine.
type Guest struct {
	Engine         string
	MemoryBytes    uint64
	CPUs           int
	CPUBaseline    []string
	MAC            [6]byte
	Kernel, Initrd []byte
	Append         string
	Disk           *disk.Image
	DiskReadOnly   bool
}

func (g *Guest) readOnly() bool { return g.DiskReadOnly || g.Disk != nil && g.Disk.ReadOnly() }

// Bounds of waiting for others.
const (
	tickEvery = 10 * time.Millisecond
	// inputBacklog is the number of inputs waiting for the guest above which
	// the uplink is not read.
	inputBacklog = 1024
	// outboxBytes is what may wait for the feed before the standby counts as
	// lagging.
	outboxBytes = 64 << 20
	// byeTimeout bounds an orderly end.
	byeTimeout = 2 * time.Second
)

// CheckGuest tells what is impossible about a machine before anything is
// started for it.
func CheckGuest(g *Guest) error {
	cfg, err := g.machine()
	if err != nil {
		return err
	}
	m, err := machine.New(cfg, machine.Host{})
	if err != nil {
		return err
	}
	return m.Close()
}
