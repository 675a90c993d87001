package machine

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/rv64"
	"github.com/understudy-ft/understudy/services/vmm"
)

// devicesOf returns the devices of a platform's machine on their buses, with
// memory and without an engine: what a guest reaches, whoever runs it.
func devicesOf(t testing.TB, engine string, img *disk.Image) *Machine {
	t.Helper()
	kind := platforms[engine]
	m := &Machine{cfg: Config{MAC: [6]byte{2}, Disk: img}, kind: kind, log: hclog.NewNullLogger(), clock: vmm.NewClock(), paused: true}
	var err error
	if m.memory, err = kind.newMemory(MinMemory); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.memory.Close() })
	m.addDevices(Host{Transmit: func(frame []byte) {
		if len(frame) == 0 || len(frame) > MaxFrame {
			t.Errorf("transmitted %d bytes", len(frame))
		}
	}}.withDefaults())
	if engine == EngineKVM {
		for _, r := range powerRegisters(func(vmm.Stop) {}) {
			m.attach(r.window, r.registers)
		}
	}
	return m
}

// FuzzDevices plays a guest that reads and writes all registers of a machine's
// devices at any address and size, with anything in its memory, while its host
// delivers, saves, loads and resets. The input is a script of steps: what to do,
// where, how wide, and a value.
func FuzzDevices(f *testing.F) {
	const stepLen = 1 + 1 + 2 + 1 + 4
	step := func(op, device byte, off uint16, size byte, v uint32) []byte {
		b := binary.LittleEndian.AppendUint16([]byte{op, device}, off)
		return binary.LittleEndian.AppendUint32(append(b, size), v)
	}
	const (
		write, read, poke, input, trip, reset, wild = 0, 1, 2, 3, 4, 5, 6
	)
	chance := rand.NewChaCha8([32]byte{1})
	for machine := range byte(2) {
		script := []byte{machine}
		for device := range byte(7) {
			for _, s := range [][]byte{
				step(write, device, 0x70, 4, 1), step(write, device, 0x70, 4, 15), step(read, device, 0, 4, 0), step(read, device, 5, 1, 0),
				step(write, device, 0, 1, 0xff), step(write, device, 0x50, 4, 0), step(poke, 0, 0x100, 0, ^uint32(0)),
				step(input, device, 100, 0, 0), step(trip, device, 0, 0, 0), step(reset, device, 0, 0, 0), step(wild, device, 0xfff, 8, 1),
			} {
				script = append(script, s...)
			}
		}
		f.Add(script)
		for range 100 {
			random := make([]byte, 1+300*stepLen)
			chance.Read(random)
			random[0] = machine
			f.Add(random)
		}
	}
	path := filepath.Join(f.TempDir(), "disk.img")
	if err := os.WriteFile(path, make([]byte, 16*512), 0o600); err != nil {
		f.Fatal(err)
	}
	img, err := disk.Open(path, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { img.Close() })
	machines := []*Machine{devicesOf(f, EngineRV64, img), devicesOf(f, EngineKVM, img)}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		m := machines[int(script[0])%len(machines)]
		for i := range m.devices {
			m.devices[i].Reset()
			m.devices[i].Resume()
		}
		roundTrip := func(d *slot) {
			d.Pause()
			state, err := d.Save()
			if err != nil {
				t.Fatalf("%s: %v", d.name, err)
			}
			commit, err := d.Prepare(state)
			if err != nil {
				t.Fatalf("%s refuses a state that a guest has brought it to: %v", d.name, err)
			}
			commit()
			if again, err := d.Save(); err != nil || d.name != nameRTC && !bytes.Equal(state, again) {
				t.Fatalf("%s: a round trip changes its state (%v)", d.name, err)
			}
			d.Resume()
		}
		for script = script[1:]; len(script) >= stepLen; script = script[stepLen:] {
			d := &m.devices[int(script[1])%len(m.devices)]
			off, size, v := uint64(binary.LittleEndian.Uint16(script[2:])), int(script[4]%10), uint64(binary.LittleEndian.Uint32(script[5:]))
			space := m.bus
			if d.ports {
				space = m.ports
			}
			switch script[0] % 8 {
			case write:
				space.Write(d.base+off%d.size, size, v|v<<32)
			case read:
				space.Read(d.base+off%d.size, size)
			case poke:
				base := uint64(0)
				if m == machines[0] {
					base = rv64.RAMBase
				}
				if err := m.memory.PutUint32(base+off, uint32(v)); err != nil {
					t.Fatal(err)
				}
			case input:
				m.net.Deliver(make([]byte, 14+off%2000))
				m.input(make([]byte, off%5000))
			case trip:
				roundTrip(d)
			case reset:
				d.Reset()
			case wild:
				m.bus.Write(v<<16|off, size, v)
				m.bus.Read(^v<<16|off, size)
				m.ports.Write(off, size, v)
				m.ports.Read(off, size)
			}
		}
		for i := range m.devices {
			roundTrip(&m.devices[i])
		}
	})
}
