//go:build linux && amd64

package kvm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// TestHostRefuses: a host says what it lacks of the CPU that a guest was shown.
func TestHostRefuses(t *testing.T) {
	host := func(change func(*hostCPU)) *hostCPU {
		h := &hostCPU{leaves: amd(), khz: 2_600_000}
		change(h)
		return h
	}
	state := func(change func(*pb.KvmState)) []byte {
		s := &pb.KvmState{Version: stateVersion, Cpuid: leavesToProto(amd()), Time: &pb.KvmTime{TscKhz: 2_600_000}}
		change(s)
		b, err := proto.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	same, plain := func(*hostCPU) {}, func(*pb.KvmState) {}
	for _, c := range []struct {
		name  string
		host  *hostCPU
		state []byte
		is    error
		says  string
	}{
		{"the same CPU", host(same), state(plain), nil, ""},
		{"a host with less", host(func(h *hostCPU) { byName["avx2"].clear(h.leaves); byName["sse4_2"].clear(h.leaves) }), state(plain),
			ErrHost, "sse4_2, avx2 (to be hidden with --cpu-baseline"},
		{"another vendor", host(func(h *hostCPU) { leaf(h.leaves, 0, 0).regs[ebx]++ }), state(plain), ErrHost, "vendor"},
		{"a TSC that is as good as the same", host(func(h *hostCPU) { h.khz += 600 }), state(plain), nil, ""},
		{"another TSC", host(func(h *hostCPU) { h.khz += 700 }), state(plain), ErrHost, "2600000 kHz"},
		{"another TSC that can be scaled", host(func(h *hostCPU) { h.khz, h.scalesTSC = 3_000_000, true }), state(plain), nil, ""},
		{"garbage", host(same), []byte{0xff}, ErrState, ""},
		{"nothing", host(same), nil, ErrState, "no CPU"},
		{"no leaves", host(same), state(func(s *pb.KvmState) { s.Cpuid = nil }), ErrState, "no CPU"},
		{"no frequency", host(same), state(func(s *pb.KvmState) { s.Time = nil }), ErrState, "no CPU"},
	} {
		err := c.host.checkState(c.state)
		if !errors.Is(err, c.is) || (err == nil) != (c.is == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestCPU: what a guest is shown is what this host can show, and what another
// that lacks some of it refuses.
func TestCPU(t *testing.T) {
	m := newMachine(t, 4<<20, nil)
	cpu, err := m.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(CheckHost(cpu), m.CheckHost(cpu)); err != nil {
		t.Error(err)
	}
	m.run(powerOff...)
	state, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.CheckHost(state); err != nil {
		t.Errorf("a whole state: %v", err)
	}
	poor := m.host
	poor.leaves = append([]cpuidEntry(nil), poor.leaves...)
	byName["sse2"].clear(poor.leaves)
	for _, b := range [][]byte{cpu, state} {
		if err := poor.checkState(b); !errors.Is(err, ErrHost) || !strings.Contains(err.Error(), ": sse2 ") {
			t.Errorf("a host without SSE2: %v", err)
		}
	}
}

// TestOpenAdvice: what is said when the device cannot be opened names what is
// missing, and how to give it.
func TestOpenAdvice(t *testing.T) {
	device := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(device, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		says []string
	}{
		{unix.ENOENT, []string{"kvm_intel or kvm_amd", "--device " + device}},
		{unix.ENXIO, []string{"has no KVM", "kvm_intel or kvm_amd"}},
		{unix.ENODEV, []string{"has no KVM"}},
		{unix.EACCES, []string{fs.FileMode(0o640).String(), "add the user to the group", "--group-add"}},
		{unix.EPERM, []string{"not allowed to this container", "--device " + device}},
		{unix.EIO, nil},
	} {
		got := openAdvice(device, c.err)
		for _, want := range c.says {
			if !strings.Contains(got, want) {
				t.Errorf("%v: %q does not say %q", c.err, got, want)
			}
		}
		if c.says == nil && got != "" {
			t.Errorf("%v: %q", c.err, got)
		}
	}
}
