package machine

import (
	"fmt"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/kvm"
)

// CPU returns what another host must be able to show the guest, for CheckHost;
// nothing where every host is. It may be called while the guest runs.
func (m *Machine) CPU() ([]byte, error) {
	if e, ok := m.engine.(*kvm.Engine); ok {
		return e.CPU()
	}
	return nil, nil
}

// CheckHost tells whether this machine's host can go on with a guest whose state
// is the given one, before it is loaded. It may be called while the guest runs.
// Errors wrap ErrState.
func (m *Machine) CheckHost(s *understudyv1.MachineState) error {
	if e, ok := m.engine.(*kvm.Engine); ok {
		if err := e.CheckHost(s.GetEngineState()); err != nil {
			return fmt.Errorf("engine: %w: %w", ErrState, err)
		}
	}
	return nil
}

// CheckHost tells whether this host can go on with a guest of that engine whose
// CPU is the given one. Errors wrap ErrConfig and say what this
// host lacks.
func CheckHost(engine string, cpu []byte) error {
	if engine != EngineKVM {
		return nil
	}
	if err := kvm.CheckHost(cpu); err != nil {
		return fmt.Errorf("%w: engine %q: %w", ErrConfig, EngineKVM, err)
	}
	return nil
}
