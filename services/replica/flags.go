package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/health"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/uplink"
)

// Flags are the command-line flags that the primary and the secondary share.
type Flags struct {
	vm, listen, advertise, uplink, console, disk, name, trace *string
	adopt                                                     *bool
	arbiters                                                  *cli.List
	silence, soloAfter                                        *time.Duration
	identity                                                  *identity.Flags
}

// minSilence is twice the interval of heartbeats, below which every peer would
// count as lost.
const minSilence = 100 * time.Millisecond

// vmName keeps names usable as etcd keys, file names and metric labels.
var vmName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// AddFlags declares the shared flags on a command.
func AddFlags(cmd *cli.Command) *Flags {
	f := &Flags{
		vm:        cmd.String("vm", "demo", "`NAME` of the VM, the same for all its replicas"),
		listen:    cmd.String("listen", "127.0.0.1:0", "`ADDR` to listen on for the other copy's feed"),
		advertise: cmd.String("advertise", "", "`ADDR` at which other hosts reach --listen (default: the address listened on)"),
		uplink:    cmd.String("uplink", "none", "`SPEC` of where the guest's network card is plugged in: tap:NAME[,bridge=BRIDGE[,port=PORT]], gateway:ADDR or none"),
		console:   cmd.String("console", "", "`WHERE` the guest's console goes: - for this terminal, a file, or unix:PATH for a socket (default: nowhere)"),
		disk:      cmd.String("disk", "", "`FILE` with the raw disk image of this replica (default: no disk, or a temporary copy on a secondary)"),
		adopt:     cmd.Bool("disk-adopt", false, "take the image of --disk for this VM's, whatever its stamp and the VM's record say:\nwhat a newer image has is lost. To be given once, not for good"),
		trace:     cmd.String("trace", "", "`FILE` that gets a line with the time of each output and release, for measurements (default: none)"),
		name:      cmd.String("name", "", "`NAME` that this replica's identity begins with (default: the host's name)"),
		arbiters:  cli.NewList("127.0.0.1:7400"),
		silence:   cmd.Duration("heartbeat-timeout", 400*time.Millisecond, "`TIME` after which a silent arbiter or other copy counts as lost"),
		soloAfter: cmd.Duration("solo-after", 6*time.Second, "`TIME` without an arbiter that owns the VM after which its active, or once that is gone its standby,\ngoes on alone under its own lease; 0: never. Should exceed the arbiters' --lease-ttl by what another needs to take the VM"),
		identity:  identity.AddFlags(cmd),
	}
	cmd.Var(f.arbiters, "arbiter", "`ADDR` of the arbiter; several separated by commas")
	cmd.AddCheck(func(ctx context.Context) error {
		self, err := f.identity.Self()
		if err != nil {
			return err
		}
		return health.Check(ctx, *f.listen, self)
	})
	return f
}

// Config checks the flags and opens the console. close ends what it opened.
func (f *Flags) Config(log hclog.Logger) (cfg Config, closeAll func(), err error) {
	if !vmName.MatchString(*f.vm) {
		return cfg, nil, fmt.Errorf("--vm %q: must be 1 to 63 letters, digits, '-', '_' or '.' (%w)", *f.vm, cli.ErrUsage)
	}
	if err := cli.CheckAddress("listen", *f.listen); err != nil {
		return cfg, nil, err
	}
	if *f.advertise != "" {
		if err := cli.CheckAddress("advertise", *f.advertise); err != nil {
			return cfg, nil, err
		}
	} else if host, _, _ := net.SplitHostPort(*f.listen); host == "" || net.ParseIP(host) != nil && net.ParseIP(host).IsUnspecified() {
		return cfg, nil, fmt.Errorf("--listen %q is every address of this host: say with --advertise which one others reach (%w)",
			*f.listen, cli.ErrUsage)
	}
	for _, a := range f.arbiters.Values {
		if err := cli.CheckAddress("arbiter", a); err != nil {
			return cfg, nil, err
		}
	}
	if *f.silence < minSilence {
		return cfg, nil, fmt.Errorf("--heartbeat-timeout %s: must be at least %s (%w)", *f.silence, minSilence, cli.ErrUsage)
	}
	if *f.soloAfter != 0 && *f.soloAfter < time.Second {
		return cfg, nil, fmt.Errorf("--solo-after %s: must be 0 (never) or at least 1s (%w)", *f.soloAfter, cli.ErrUsage)
	}
	if err := uplink.Check(*f.uplink); err != nil {
		return cfg, nil, fmt.Errorf("--uplink: %w (%w)", err, cli.ErrUsage)
	}
	addresses := []identity.Address{{Flag: "listen", Addr: *f.listen}}
	if *f.advertise != "" {
		addresses = append(addresses, identity.Address{Flag: "advertise", Addr: *f.advertise})
	}
	for _, a := range f.arbiters.Values {
		addresses = append(addresses, identity.Address{Flag: "arbiter", Addr: a})
	}
	if a, ok := uplink.Address(*f.uplink); ok {
		addresses = append(addresses, identity.Address{Flag: "uplink", Addr: a})
	}
	self, err := f.identity.Load(identity.ID{Role: identity.Replica, Name: *f.vm}, log, addresses...)
	if err != nil {
		return cfg, nil, err
	}
	name := *f.name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return cfg, nil, fmt.Errorf("find the host's name (or set --name): %w", err)
		}
	}
	out, in, closeAll, err := openConsole(*f.console)
	if err != nil {
		return cfg, nil, err
	}
	var trace io.Writer
	if *f.trace != "" {
		file, err := os.Create(*f.trace)
		if err != nil {
			closeAll()
			return cfg, nil, fmt.Errorf("make the trace of outputs (--trace): %w", err)
		}
		closeConsole := closeAll
		trace, closeAll = file, func() { closeConsole(); _ = file.Close() } // each line was written when it was made
	}
	return Config{
		VM: *f.vm, Name: name, Arbiters: f.arbiters.Values, Listen: *f.listen, Advertise: *f.advertise, Identity: self,
		Uplink: *f.uplink, Console: out, ConsoleInput: in, DiskPath: *f.disk, Silence: *f.silence, SoloAfter: *f.soloAfter, DiskAdopt: *f.adopt, Trace: trace, Version: cli.Version(), Log: log,
	}, closeAll, nil
}

// openConsole opens where the guest's console goes.
func openConsole(where string) (io.Writer, io.Reader, func(), error) {
	switch {
	case where == "":
		return io.Discard, nil, func() {}, nil
	case where == "-":
		return os.Stdout, os.Stdin, func() {}, nil
	case len(where) > 5 && where[:5] == "unix:":
		return listenConsole(where[5:])
	}
	f, err := os.OpenFile(filepath.Clean(where), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open the console file (--console): %w", err)
	}
	return f, nil, func() { _ = f.Close() }, nil
}

var errNoConsole = errors.New("nobody is connected to the console")
