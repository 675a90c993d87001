//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// CPU returns what another host must be able to show the guest: the part of a
// state that CheckHost looks at. It may be called while the guest runs.
func (e *Engine) CPU() ([]byte, error) {
	hz := e.TSCHz()
	e.vmMu.RLock()
	defer e.vmMu.RUnlock()
	b, err := proto.Marshal(&pb.KvmState{Version: stateVersion, Cpuid: leavesToProto(e.shown), Time: &pb.KvmTime{TscKhz: uint32(hz / 1000)}})
	if err != nil {
		return nil, fmt.Errorf("describe the guest's CPU: %w", err)
	}
	return b, nil
}

// CheckHost tells whether this host can go on with a guest whose state, or CPU,
// is the given one. Errors wrap ErrHost, with the list of what lacks, ErrState or
// ErrUnavailable.
func CheckHost(state []byte) (err error) {
	sys, err := openSystem("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.close()) }()
	h, err := sys.hostCPU()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return h.checkState(state)
}

// CheckHost is the function of that name, without the cost of asking the host
// again. It may be called from any goroutine.
func (e *Engine) CheckHost(state []byte) error { return e.host.checkState(state) }

// hostCPU is what a host has for guests. It does not change.
type hostCPU struct {
	leaves    []cpuidEntry // all that it can show
	khz       uint32       // the frequency of its TSC
	scalesTSC bool
}

func (s *system) hostCPU() (h hostCPU, err error) {
	if h.leaves, err = s.hostCPUID(); err != nil {
		return h, err
	}
	h.khz, err = s.tscKHz()
	h.scalesTSC = s.has(capTSCControl) != 0
	return h, err
}

func (h *hostCPU) checkState(state []byte) error {
	s := &pb.KvmState{}
	if err := proto.Unmarshal(state, s); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if len(s.GetCpuid()) == 0 || len(s.GetCpuid()) > maxCPUID || s.GetTime().GetTscKhz() == 0 {
		return fmt.Errorf("%w: no CPU is described", ErrState)
	}
	return h.check(leavesFromProto(s.GetCpuid()), s.GetTime().GetTscKhz())
}

// check compares what a guest was shown with what the host has.
func (h *hostCPU) check(shown []cpuidEntry, khz uint32) error {
	if l := lacks(shown, h.leaves); len(l) > 0 {
		return fmt.Errorf("%w: %s (to be hidden with --cpu-baseline where the VM is booted)", ErrHost, strings.Join(l, ", "))
	}
	diff := int64(khz) - int64(h.khz)
	if !h.scalesTSC && max(diff, -diff)*1e6 > int64(h.khz)*tscTolerancePPM {
		return fmt.Errorf("%w: a TSC of %d kHz (this host's has %d kHz and cannot be scaled)", ErrHost, khz, h.khz)
	}
	return nil
}

// tscKHz is the frequency of the host's TSC. All kernels tell it of a vCPU, of
// which it is the host's until it is scaled.
func (s *system) tscKHz() (_ uint32, err error) {
	fd, err := s.createVM()
	if err != nil {
		return 0, fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	vcpu, err := ioctlArg(fd, ioCreateVCPU, 0)
	if err != nil {
		return 0, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(vcpu)) }()
	khz, err := ioctlArg(vcpu, ioGetTSCKHz, 0)
	if err != nil {
		return 0, fmt.Errorf("KVM_GET_TSC_KHZ: %w", err)
	}
	return uint32(khz), nil
}
