package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/machine"
	"github.com/understudy-ft/understudy/services/uplink"
	"github.com/understudy-ft/understudy/services/vmm"
)

// RunStandalone runs the guest as a plain VM without protection until ctx is
// done or the guest powers itself off. It is the baseline of measurements: the
// same machine and uplink without the protocol.
//
// Without the protocol nobody keeps account of what is written to the disk: the
// image of a protected VM is refused, or taken out of the VM with DiskAdopt.
func RunStandalone(ctx context.Context, cfg Config) error {
	if cfg.Guest.Disk != nil && !cfg.Guest.readOnly() {
		if err := takeOut(&cfg); err != nil {
			return err
		}
	}
	mc, err := cfg.Guest.machine()
	if err != nil {
		return err
	}
	var up uplink.Uplink
	room := make(chan struct{}, 1)
	stops := make(chan vmm.Stop, 1)
	m, err := machine.New(mc, machine.Host{
		Transmit: func(frame []byte) {
			if err := up.Send(append([]byte(nil), frame...)); err != nil {
				cfg.Log.Debug("output not sent", "error", err)
			}
		},
		NetReady: func() {
			select {
			case room <- struct{}{}:
			default:
			}
		},
		Console: cfg.Console,
		OnStop:  func(s vmm.Stop) { stops <- s },
		Log:     cfg.Log,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err := m.Close(); err != nil {
			cfg.Log.Warn("close machine", "error", err)
		}
	}()
	go cfg.Identity.Watch(ctx)
	up, err = uplink.OpenTLS(cfg.Uplink, func(frame []byte) {
		for m.Deliver(frame) == 0 {
			select {
			case <-room:
			case <-ctx.Done():
				return
			case <-time.After(tickEvery): // the device was reset meanwhile
			}
		}
	}, cfg.Identity.ClientTLS(aGateway), cfg.Log)
	if err != nil {
		return err
	}
	defer func() {
		if err := up.Close(); err != nil {
			cfg.Log.Debug("close uplink", "error", err)
		}
	}()
	up.Mute(false)
	if cfg.ConsoleInput != nil {
		go copyConsole(cfg.ConsoleInput, m)
	}
	cfg.Log.Info("booting without protection", "vm", cfg.VM)
	for {
		if err := m.Start(); err != nil {
			return fmt.Errorf("boot the guest: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case s := <-stops:
			cfg.Log.Info("guest "+s.Cause.String(), "vm", cfg.VM, "detail", s.Detail)
			switch s.Cause {
			case vmm.PowerOff:
				return nil
			case vmm.Fault:
				return errors.New("the guest cannot go on: " + s.Detail)
			}
			m.Pause()
		}
	}
}

// takeOut sees to it that the image that the guest is going to write to is not
// one that a protected VM counts on.
func takeOut(cfg *Config) error {
	s, ok, err := disk.ReadStamp(cfg.DiskPath)
	switch {
	case cfg.DiskAdopt:
		if s, err = disk.NewStamp(cfg.VM); err == nil {
			err = disk.WriteStamp(cfg.DiskPath, s)
		}
	case err == nil && ok && s.Term > 0:
		return fmt.Errorf("--disk: image %s belongs to the protected VM %s: --disk-adopt takes it out of the VM for good", cfg.DiskPath, s.VM)
	}
	if err != nil {
		return fmt.Errorf("--disk: %w", err)
	}
	return nil
}
