package fence

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Prefix begins every key.
const Prefix = "/understudy/v1/"

// ErrName is wrapped where a VM, replica or arbiter has an unusable name.
var ErrName = errors.New("must be 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit")

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CheckName tells whether a VM, replica or arbiter may have this name. kind is
// used in the error.
func CheckName(kind, name string) error {
	if !nameForm.MatchString(name) {
		if len(name) > 80 {
			name = name[:80] + "…"
		}
		return fmt.Errorf("%s name %q: %w", kind, name, ErrName)
	}
	return nil
}

const vmsPrefix = Prefix + "vms/"

func vmPrefix(vm string) string  { return vmsPrefix + vm + "/" }
func recordKey(vm string) string { return vmPrefix(vm) + "record" }
func ownerKey(vm string) string  { return vmPrefix(vm) + "owner" }

// VMPrefix begins the keys of a VM: all that a replica of it has to do with.
func VMPrefix(vm string) string { return vmPrefix(vm) }

// ReplicaKey is the key that a replica puts under its lease.
func ReplicaKey(vm, id string) string { return vmPrefix(vm) + "replicas/" + id }

// ArbiterKey is the key that an arbiter puts under its lease.
func ArbiterKey(id string) string { return Prefix + "arbiters/" + id }

// splitVMKey takes apart a key below vms/: the VM and the rest of the key.
func splitVMKey(key string) (vm, rest string, ok bool) {
	key, ok = strings.CutPrefix(key, vmsPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(key, "/")
}
