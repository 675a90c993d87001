package conform

import (
	"testing"

	"github.com/understudy-ft/understudy/services/vmm"
)

// TestNewIsPaused: an engine may be reset and asked for its state as soon as
// New returns.
func TestNewIsPaused(t *testing.T) {
	for range 20 {
		m := newMachine(t, memorySize)
		if err := m.engine.Reset(vmm.Entry{PC: SupervisorBase}); err != nil {
			t.Fatal(err)
		}
	}
}
