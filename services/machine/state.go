package machine

import (
	"fmt"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/vmm"
)

// stateVersion is the version of MachineState.
const stateVersion = 1

// Save returns the state of a paused machine but for memory and disk. Error:
// vmm.ErrNotPaused.
func (m *Machine) Save() (*understudyv1.MachineState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || !m.paused {
		return nil, vmm.ErrNotPaused
	}
	s := &understudyv1.MachineState{Version: stateVersion, Engine: m.engine.Name(), GuestNs: m.clock.Now()}
	var err error
	if s.EngineState, err = m.engine.Save(); err != nil {
		return nil, fmt.Errorf("save engine: %w", err)
	}
	for _, slot := range m.devices {
		state, err := slot.Save()
		if err != nil {
			return nil, fmt.Errorf("save machine: %w", err)
		}
		s.Devices = append(s.Devices, &understudyv1.DeviceState{Name: slot.name, Version: slot.version, State: state})
	}
	return s, nil
}

// Load gives a paused machine a saved state, whose memory and disk blocks the
// caller has copied already. The clock continues from the state's time. All
// devices' states are checked before anything changes, then the engine's. On an
// error only the engine may have changed: the machine must not run on. Errors:
// vmm.ErrNotPaused, others wrap ErrState.
func (m *Machine) Load(s *understudyv1.MachineState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || !m.paused:
		return vmm.ErrNotPaused
	case s.GetVersion() != stateVersion:
		return fmt.Errorf("machine state of version %d, this is %d: %w", s.GetVersion(), stateVersion, ErrState)
	case s.Engine != m.engine.Name():
		return fmt.Errorf("machine state of engine %q, this is %q: %w", s.Engine, m.engine.Name(), ErrState)
	case len(s.Devices) != len(m.devices):
		return fmt.Errorf("machine state of %d devices, this has %d: %w", len(s.Devices), len(m.devices), ErrState)
	}
	var commits []func()
	for i, slot := range m.devices {
		d := s.Devices[i]
		if d.GetName() != slot.name || d.GetVersion() != slot.version {
			return fmt.Errorf("device %d of the machine state is %q of version %d, this is %q of version %d: %w",
				i, d.GetName(), d.GetVersion(), slot.name, slot.version, ErrState)
		}
		commit, err := slot.Prepare(d.State)
		if err != nil {
			return fmt.Errorf("device %q: %w: %w", slot.name, ErrState, err)
		}
		commits = append(commits, commit)
	}
	// The engine's timers need the time that they were set in.
	before := m.clock.Now()
	m.clock.Set(s.GuestNs)
	if err := m.engine.Load(s.EngineState); err != nil {
		m.clock.Set(before)
		return fmt.Errorf("engine: %w: %w", ErrState, err)
	}
	for _, commit := range commits {
		commit()
	}
	return nil
}
