//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	ioGetAPIVersion  = ioN(0x00)
	ioCreateVM       = ioN(0x01)
	ioCheckExtension = ioN(0x03)
	ioVCPUMmapSize   = ioN(0x04)
)

const apiVersion = 12

// Capabilities (KVM_CAP_*).
const (
	capIRQChip           = 0
	capUserMemory        = 3
	capSetTSSAddr        = 4
	capExtCPUID          = 7
	capMPState           = 14
	capReinjectControl   = 24
	capIRQInjectStatus   = 26
	capPIT2              = 33
	capPITState2         = 35
	capSetIdentityMap    = 37
	capAdjustClock       = 39
	capVCPUEvents        = 41
	capDebugRegs         = 50
	capXSave             = 55
	capXCRs              = 56
	capTSCControl        = 60
	capGetTSCKHz         = 61
	capMaxVCPUs          = 66
	capTSCDeadline       = 72
	capEnableCapVM       = 98
	capImmediateExit     = 136
	capManualDirtyLog    = 168
	capEnforcePVFeatures = 190
	capEnforceHyperV     = 199
	capSRegs2            = 200
	capBinaryStats       = 203
)

// required is what the engine cannot do without.
var required = []struct {
	cap  uintptr
	name string
}{
	{capIRQChip, "KVM_CAP_IRQCHIP"},
	{capUserMemory, "KVM_CAP_USER_MEMORY"},
	{capSetTSSAddr, "KVM_CAP_SET_TSS_ADDR"},
	{capSetIdentityMap, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
	{capExtCPUID, "KVM_CAP_EXT_CPUID"},
	{capMPState, "KVM_CAP_MP_STATE"},
	{capIRQInjectStatus, "KVM_CAP_IRQ_INJECT_STATUS"},
	{capPIT2, "KVM_CAP_PIT2"},
	{capPITState2, "KVM_CAP_PIT_STATE2"},
	{capAdjustClock, "KVM_CAP_ADJUST_CLOCK"},
	{capVCPUEvents, "KVM_CAP_VCPU_EVENTS"},
	{capDebugRegs, "KVM_CAP_DEBUGREGS"},
	{capXSave, "KVM_CAP_XSAVE"},
	{capGetTSCKHz, "KVM_CAP_GET_TSC_KHZ"},
	{capEnableCapVM, "KVM_CAP_ENABLE_CAP_VM"},
	{capImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"},
	{capManualDirtyLog, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"},
}

// system is the KVM device.
type system struct {
	fd       int
	mmapSize int
	caps     map[uintptr]int
}

// openSystem opens the device and checks that it has all that the engine needs.
// Errors wrap ErrUnavailable.
func openSystem(device string) (*system, error) {
	if device == "" {
		device = DefaultDevice
	}
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: open %s: %w%s", ErrUnavailable, device, err, openAdvice(device, err))
	}
	s := &system{fd: fd, caps: map[uintptr]int{}}
	if err := s.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrUnavailable, device, err), unix.Close(fd))
	}
	return s, nil
}

// openAdvice says what is missing when the device cannot be opened.
func openAdvice(device string, err error) string {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Sprintf(" (load the module kvm_intel or kvm_amd, with virtualization enabled in the firmware; in a container hand the device in: --device %s)", device)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return " (the device exists but the kernel has no KVM: load the module kvm_intel or kvm_amd)"
	case errors.Is(err, unix.EACCES):
		var st unix.Stat_t
		if unix.Stat(device, &st) != nil {
			return ""
		}
		return fmt.Sprintf(" (it belongs to user %d, group %d%s with mode %v, this process runs as user %d with groups %v: add the user to the group, or in a container use --group-add %d)",
			st.Uid, st.Gid, groupName(st.Gid), fs.FileMode(st.Mode&0o777), os.Geteuid(), groups(), st.Gid)
	case errors.Is(err, unix.EPERM):
		return fmt.Sprintf(" (the device is not allowed to this container: hand it in with --device %s)", device)
	}
	return ""
}

func groups() []int {
	g, _ := os.Getgroups() // only for the message
	return append(g, os.Getegid())
}

// groupName looks a group up in /etc/group; os/user would do more than needed.
func groupName(gid uint32) string {
	b, err := os.ReadFile("/etc/group")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == fmt.Sprint(gid) {
			return " (" + f[0] + ")"
		}
	}
	return ""
}

func (s *system) check() error {
	v, err := ioctlArg(s.fd, ioGetAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("KVM_GET_API_VERSION: %w (not a KVM device?)", err)
	}
	if v != apiVersion {
		return fmt.Errorf("API version %d instead of %d", v, apiVersion)
	}
	var missing []string
	for _, r := range required {
		if s.has(r.cap) == 0 {
			missing = append(missing, r.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the kernel's KVM lacks %s: a newer kernel is needed (5.2 or later)", strings.Join(missing, ", "))
	}
	if s.mmapSize, err = ioctlArg(s.fd, ioVCPUMmapSize, 0); err != nil {
		return fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	if s.mmapSize < runSize {
		return fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE is %d, at least %d is needed", s.mmapSize, runSize)
	}
	return nil
}

// has returns what KVM_CHECK_EXTENSION says of a capability, 0 if it lacks it.
func (s *system) has(capability uintptr) int {
	if v, ok := s.caps[capability]; ok {
		return v
	}
	v, err := ioctlArg(s.fd, ioCheckExtension, capability)
	if err != nil || v < 0 {
		v = 0
	}
	s.caps[capability] = v
	return v
}

func (s *system) close() error { return unix.Close(s.fd) }
