//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// stateVersion is the newest version of KvmState that this engine reads, and
// the one that it writes.
const stateVersion = 1

// Save returns the state of vCPUs, interrupt controllers, timers and clocks of
// a paused engine, as an understudyv1.KvmState.
func (e *Engine) Save() ([]byte, error) {
	if err := e.checkPaused(); err != nil {
		return nil, fmt.Errorf("save kvm state: %w", err)
	}
	s, err := e.save()
	if err != nil {
		return nil, fmt.Errorf("save kvm state: %w", err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("save kvm state: %w", err)
	}
	return b, nil
}

func (e *Engine) save() (*pb.KvmState, error) {
	s := &pb.KvmState{Version: stateVersion, Cpuid: leavesToProto(e.shown)}
	e.irqMu.Lock()
	s.Lines = e.levels
	e.irqMu.Unlock()
	// vCPUs before the chips: reading a vCPU's state lets it take what is
	// pending from the chips.
	for i, c := range e.vm.vcpus {
		v, err := c.save(e.sys, e.msrs)
		if err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", i, err)
		}
		s.Vcpus = append(s.Vcpus, v)
	}
	for id := range uint32(chips) {
		c, err := e.vm.irqChip(id)
		if err != nil {
			return nil, err
		}
		s.Irqchips = append(s.Irqchips, trim(c.state[:]))
	}
	pit, err := e.vm.pit()
	if err != nil {
		return nil, err
	}
	s.Pit = trim(pit[:])
	t, err := e.timebase()
	if err != nil {
		return nil, err
	}
	s.Time = &pb.KvmTime{GuestNs: t.guestNS, Tsc: t.tsc, KvmclockNs: t.kvmclock, TscKhz: t.khz, TscSkew: t.skew}
	return s, nil
}

// Load puts such a state into a paused engine whose memory is that of the
// state. Errors wrap ErrState for what could not be this machine's, and ErrHost
// if this host lacks something that the guest was shown, with the list of what
// lacks; both leave the engine as it was. After other errors the engine must
// not run before another Load or Reset.
func (e *Engine) Load(state []byte) error {
	if err := e.checkPaused(); err != nil {
		return fmt.Errorf("load kvm state: %w", err)
	}
	s := &pb.KvmState{}
	if err := proto.Unmarshal(state, s); err != nil {
		return fmt.Errorf("load kvm state: %w: %w", ErrState, err)
	}
	if err := e.check(s); err != nil {
		return fmt.Errorf("load kvm state: %w: %w", ErrState, err)
	}
	shown := leavesFromProto(s.Cpuid)
	if err := e.host.check(shown, s.Time.TscKhz); err != nil {
		return fmt.Errorf("load kvm state: %w", err)
	}
	if err := e.load(s, shown); err != nil {
		return fmt.Errorf("load kvm state: %w", err)
	}
	e.clearStop()
	return nil
}

func (e *Engine) load(s *pb.KvmState, shown []cpuidEntry) error {
	if !sameLeaves(shown, e.shown) {
		if err := e.rebuild(len(e.vcpus), shown); err != nil {
			return err
		}
	}
	e.fresh = false
	// The lines first: KVM does not save their levels. What changing them does
	// to the chips is overwritten next.
	if err := e.driveLines(s.Lines); err != nil {
		return err
	}
	// The chips before the vCPUs: an I/O APIC with a request sends it when it
	// is set, and the local APIC's own state, which comes later, has it already
	// where it was sent.
	for id, b := range s.Irqchips {
		c := &irqChip{id: uint32(id)}
		copy(c.state[:], b)
		if err := e.vm.setIRQChip(c); err != nil {
			return err
		}
	}
	var pit pitState
	copy(pit[:], s.Pit)
	if err := e.vm.setPIT(&pit); err != nil {
		return err
	}
	// Time before the vCPUs, whose timers count in it: frequency, TSC, kvmclock.
	t := &timebase{guestNS: s.Time.GuestNs, tsc: s.Time.Tsc, kvmclock: s.Time.KvmclockNs, khz: s.Time.TscKhz, skew: s.Time.TscSkew}
	if err := e.setTSCKHz(t.khz); err != nil {
		return err
	}
	if err := e.setTime(t); err != nil {
		return err
	}
	for i, c := range e.vm.vcpus {
		if err := c.load(e.sys, s.Vcpus[i]); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	// And again when it runs, because until then Clock may be set.
	e.resumeAt = t
	return nil
}

func (e *Engine) check(s *pb.KvmState) error {
	switch {
	case s.Version == 0 || s.Version > stateVersion:
		return fmt.Errorf("version %d, known are 1 to %d", s.Version, stateVersion)
	case len(s.Vcpus) != len(e.vcpus):
		return fmt.Errorf("%d vCPUs instead of %d", len(s.Vcpus), len(e.vcpus))
	case len(s.Cpuid) == 0 || len(s.Cpuid) > maxCPUID-3:
		return fmt.Errorf("%d CPUID leaves", len(s.Cpuid))
	case s.Lines >= 1<<GSIs:
		return fmt.Errorf("interrupt lines %#x", s.Lines)
	case len(s.Irqchips) != chips:
		return fmt.Errorf("%d interrupt controllers instead of %d", len(s.Irqchips), chips)
	case len(s.Pit) > len(pitState{}):
		return fmt.Errorf("PIT of %d bytes", len(s.Pit))
	case s.Time == nil || s.Time.TscKhz == 0 || s.Time.TscKhz > 100e6 || len(s.Time.TscSkew) != len(s.Vcpus):
		return errors.New("clocks are missing or impossible")
	}
	for i, c := range s.Irqchips {
		if len(c) > len(irqChip{}.state) {
			return fmt.Errorf("interrupt controller %d of %d bytes", i, len(c))
		}
	}
	for i, v := range s.Vcpus {
		if err := checkVCPU(v); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return nil
}

func leavesToProto(entries []cpuidEntry) []*pb.KvmCpuidLeaf {
	l := make([]*pb.KvmCpuidLeaf, len(entries))
	for i, e := range entries {
		l[i] = &pb.KvmCpuidLeaf{Function: e.function, Index: e.index, Flags: e.flags,
			Eax: e.regs[eax], Ebx: e.regs[ebx], Ecx: e.regs[ecx], Edx: e.regs[edx]}
	}
	return l
}

func leavesFromProto(l []*pb.KvmCpuidLeaf) []cpuidEntry {
	entries := make([]cpuidEntry, len(l))
	for i, e := range l {
		entries[i] = cpuidEntry{function: e.GetFunction(), index: e.GetIndex(), flags: e.GetFlags(),
			regs: [4]uint32{e.GetEax(), e.GetEbx(), e.GetEcx(), e.GetEdx()}}
	}
	return entries
}

func sameLeaves(a, b []cpuidEntry) bool { return slices.Equal(a, b) }

// toBytes is the memory of a structure without trailing zeros.
func toBytes[T any](v *T) []byte {
	return slices.Clone(trim(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))))
}

// fromBytes is the inverse. b must not be longer than T.
func fromBytes[T any](b []byte) *T {
	v := new(T)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)), b)
	return v
}

func trim(b []byte) []byte {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return b[:n]
}
