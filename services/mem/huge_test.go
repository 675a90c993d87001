package mem

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// TestHugePages looks up how the host keeps guest memory: aligned for huge
// pages, and with the request for them.
func TestHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("this host's kernel has no transparent huge pages")
	}
	m, err := New(0x8000_0000, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	at := uintptr(unsafe.Pointer(unsafe.SliceData(m.Bytes())))
	if at%hugeSize != 0 {
		t.Errorf("memory at %#x is not aligned to %d", at, hugeSize)
	}
	if flags := mappingFlags(t, at); !strings.Contains(flags+" ", " hg ") {
		t.Errorf("memory is mapped with flags %q, not hg", flags)
	}
}

// mappingFlags returns the VmFlags of the mapping that holds addr.
func mappingFlags(t *testing.T, addr uintptr) string {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	inside := false
	for s := bufio.NewScanner(f); s.Scan(); {
		var lo, hi uintptr
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x ", &lo, &hi); n == 2 {
			inside = lo <= addr && addr < hi
		}
		if flags, ok := strings.CutPrefix(s.Text(), "VmFlags:"); ok && inside {
			return flags
		}
	}
	t.Fatalf("no mapping at %#x", addr)
	return ""
}
