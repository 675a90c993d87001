//go:build linux && amd64

package vmmtest

import (
	"os"
	"testing"

	"github.com/understudy-ft/understudy/services/kvm"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// ports is the platform's stop register.
type ports struct{ stop func(vmm.Stop) }

func (ports) Read(uint64, int) (uint64, bool) { return 0, false }

func (p ports) Write(addr uint64, _ int, v uint64) bool {
	cause, ok := map[uint64]vmm.StopCause{1: vmm.PowerOff, 2: vmm.Reboot}[v]
	if addr == 0xf4 && ok {
		p.stop(vmm.Stop{Cause: cause})
	}
	return addr == 0xf4
}

// target is the kvm engine with that many CPUs.
func target(t *testing.T, cpus int) *Target {
	if err := kvm.Available(); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	speed, err := kvm.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v, hardware: %v", speed, speed.Hardware())
	// The software that emulates KVM on hosts without virtualization delivers
	// level-triggered interrupts twice.
	_, err = os.Stat("/sys/module/kvm_pvm")
	repeats := err == nil
	if repeats {
		t.Log("NOT TESTED here: that interrupts are not repeated")
	}
	return &Target{
		New: func(t testing.TB, c Config) (vmm.Engine, *mem.Memory) {
			m, err := mem.NewSplit(4<<20, kvm.HoleStart, kvm.HoleEnd)
			if err != nil {
				t.Fatal(err)
			}
			p := &ports{}
			e, err := kvm.New(kvm.Config{Memory: m, Bus: c.Bus, Ports: p, Clock: c.Clock, CPUs: cpus, OnStop: c.OnStop})
			if err != nil {
				t.Fatal(err)
			}
			p.stop = e.Stop
			t.Cleanup(func() { finish(t, e, m) })
			return e, m
		},
		Program: func(name string) []byte { return program(t, "x86", name) },
		Code:    0x10_0000, Result: 0x2f_f000, Data: 0x20_0000, DataSize: 256 << 10,
		Device: 0xd000_0000, Line: 5, RepeatsInterrupts: repeats,
		TickHz: func(e vmm.Engine) uint64 { return e.(*kvm.Engine).TSCHz() },
	}
}

func TestKVM(t *testing.T) { Run(t, target(t, 1)) }

func TestKVMTwoCPUs(t *testing.T) { RunSMP(t, target(t, 2)) }
