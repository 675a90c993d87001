package virtio

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/mem"
)

// rig is a fresh device of a kind that a fuzzer chose, and its host's side.
type rig struct {
	dev    *Transport
	memory *mem.Memory
	input  func([]byte)
}

func newRig(t *testing.T, kind byte, memory *mem.Memory, img *disk.Image) rig {
	r := rig{memory: memory, input: func([]byte) {}}
	var device Device
	switch kind % 4 {
	case 0:
		n := NewNet([6]byte{2}, func(f []byte) {
			if len(f) == 0 || len(f) > MaxFrame {
				t.Errorf("transmitted %d bytes", len(f))
			}
		}, func() {})
		device, r.input = n, func(p []byte) { n.Deliver(p) }
	case 1:
		device = NewBlock(img, false)
	case 2:
		c := NewConsole(io.Discard)
		device, r.input = c, func(p []byte) { c.Input(p) }
	case 3:
		g := NewRNG([32]byte{})
		device, r.input = g, func([]byte) { g.Reseed([32]byte{1}) }
	}
	r.dev = NewTransport(Config{Name: "fuzz", Memory: memory, IRQ: func(bool) {}, Log: hclog.NewNullLogger()}, device)
	return r
}

// fuzzWorld gives a fuzzer's workers memory and disk, made once.
func fuzzWorld(f *testing.F) (*mem.Memory, *disk.Image) {
	memory, err := mem.New(memBase, 1<<16)
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "disk.img")
	if err := os.WriteFile(path, make([]byte, 16*512), 0o600); err != nil {
		f.Fatal(err)
	}
	img, err := disk.Open(path, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { img.Close(); memory.Close() })
	return memory, img
}

// roundTrip checks that whatever state a guest brought a device to can be
// loaded, and loads as it was.
func (r rig) roundTrip(t *testing.T) {
	r.dev.Pause()
	state, err := r.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	commit, err := r.dev.Prepare(state)
	if err != nil {
		t.Fatalf("a reachable state is refused: %v", err)
	}
	commit()
	again, err := r.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(state, again) {
		t.Fatal("state changed by a round trip")
	}
	r.dev.Resume()
}

// FuzzRegisters plays a guest that writes anything anywhere. The input is a
// script: each step is an operation, a register or address, and a value.
func FuzzRegisters(f *testing.F) {
	memory, img := fuzzWorld(f)
	step := func(op byte, at uint16, v uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16([]byte{op}, at), v)
	}
	const (
		write, read, poke, input, trip = 0, 1, 2, 3, 4
	)
	for kind := range byte(4) {
		// A proper start with one queue and one chain.
		script := []byte{kind}
		for _, s := range [][]byte{
			step(write, regStatus, 1), step(write, regStatus, 3),
			step(write, regDriverFeaturesSel, 1), step(write, regDriverFeatures, 1),
			step(write, regDriverFeaturesSel, 0), step(write, regDriverFeatures, 1<<28|1<<29|1<<15),
			step(write, regStatus, 11), step(read, regStatus, 4),
			step(write, regQueueSel, 0), step(write, regQueueSize, 8),
			step(write, regDescriptorsLow, memBase), step(write, regAvailableLow, memBase+0x100), step(write, regUsedLow, memBase+0x200),
			step(write, regQueueReady, 1), step(write, regStatus, 15),
			step(poke, 0, memBase+0x400), step(poke, 8, 64), step(poke, 12, descWrite), step(poke, 0x100, 1<<16),
			step(write, regQueueNotify, 0), step(input, 60, 0), step(trip, 0, 0),
			step(write, regInterruptACK, 3), step(write, regStatus, 0),
		} {
			script = append(script, s...)
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		clear(memory.Bytes())
		r := newRig(t, script[0], memory, img)
		r.dev.Resume()
		for script = script[1:]; len(script) >= 7; script = script[7:] {
			at, v := binary.LittleEndian.Uint16(script[1:]), binary.LittleEndian.Uint32(script[3:])
			switch script[0] % 8 {
			case write:
				r.dev.Write(uint64(at%WindowSize), 4, uint64(v))
			case read:
				r.dev.Read(uint64(at%WindowSize), int(v%9))
			case poke:
				memory.PutUint32(memBase+uint64(at), v)
			case input:
				r.input(make([]byte, at))
			case trip:
				r.roundTrip(t)
			case 5:
				r.dev.Write(uint64(at), int(v%9), uint64(v))
			case 6:
				r.dev.Pause()
			case 7:
				r.dev.Resume()
			}
		}
		r.roundTrip(t)
	})
}

// FuzzQueues runs each device over rings, tables and buffers that the fuzzer
// wrote: the input is the start of guest memory, where all of them lie.
func FuzzQueues(f *testing.F) {
	memory, img := fuzzWorld(f)
	const (
		size      = 8
		perQueue  = 0x200
		available = 0x80
		used      = 0xc0
	)
	for kind := range byte(4) {
		for queue := range uint64(2) {
			// One chain of two descriptors to read and two to write, one of the
			// latter behind an indirect one.
			seed := make([]byte, 2*perQueue)
			at := seed[queue*perQueue:]
			for i, d := range []struct {
				addr        uint64
				size        uint32
				flags, next uint16
			}{{memBase + 0x1000, 16, descNext, 1}, {memBase + 0x1010, 512, descNext, 2}, {memBase + 0x2000, 512, descWrite | descNext, 3}, {memBase + queue*perQueue + 0x180, 16, descIndirect, 0}} {
				binary.LittleEndian.PutUint64(at[16*i:], d.addr)
				binary.LittleEndian.PutUint32(at[16*i+8:], d.size)
				binary.LittleEndian.PutUint16(at[16*i+12:], d.flags)
				binary.LittleEndian.PutUint16(at[16*i+14:], d.next)
			}
			binary.LittleEndian.PutUint64(at[0x180:], memBase+0x3000)
			binary.LittleEndian.PutUint32(at[0x188:], 1)
			binary.LittleEndian.PutUint16(at[0x18c:], descWrite)
			at[available+2] = 1
			f.Add(kind, uint32(1<<28|1<<29|1<<15), seed)
			f.Add(kind, uint32(1<<28), seed)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, features uint32, content []byte) {
		clear(memory.Bytes())
		copy(memory.Bytes(), content)
		r := newRig(t, kind, memory, img)
		r.dev.Resume()
		w := func(reg uint64, v uint32) { r.dev.Write(reg, 4, uint64(v)) }
		w(regStatus, StatusAcknowledge|StatusDriver)
		w(regDriverFeatures, features&uint32(r.dev.Features()))
		w(regDriverFeaturesSel, 1)
		w(regDriverFeatures, 1)
		w(regStatus, 11)
		for i := range r.dev.queues {
			base := memBase + uint32(i)*perQueue
			w(regQueueSel, uint32(i))
			w(regQueueSize, size)
			w(regDescriptorsLow, base)
			w(regAvailableLow, base+available)
			w(regUsedLow, base+used)
			w(regQueueReady, 1)
		}
		w(regStatus, 15)
		for i := range r.dev.queues {
			w(regQueueNotify, uint32(i))
			r.input(make([]byte, 100))
		}
		r.roundTrip(t)
		for i := range r.dev.queues {
			w(regQueueNotify, uint32(i))
		}
		r.roundTrip(t)
	})
}

// FuzzState loads what a peer might send. What is accepted must work and save
// as it was.
func FuzzState(f *testing.F) {
	memory, img := fuzzWorld(f)
	for kind := range byte(4) {
		r := newRig(&testing.T{}, kind, memory, img)
		state, err := r.dev.Save()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, state)
		var s understudyv1.VirtioState
		if err := proto.Unmarshal(state, &s); err != nil {
			f.Fatal(err)
		}
		s.Status, s.DriverFeatures = 15, FeatureVersion1|FeatureEventIdx|FeatureIndirectDesc
		for i, q := range s.Queues {
			q.Size, q.Ready = 8, true
			q.Descriptors = memBase + uint64(i)*0x200
			q.Available, q.Used = q.Descriptors+0x80, q.Descriptors+0xc0
			q.NextAvailable, q.NextUsed = 0xffff, 0xffff
		}
		if n := s.GetNet(); n != nil {
			n.Pending = [][]byte{make([]byte, 60)}
		}
		state, err = proto.Marshal(&s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, state)
	}
	f.Fuzz(func(t *testing.T, kind byte, state []byte) {
		r := newRig(t, kind, memory, img)
		commit, err := r.dev.Prepare(state)
		if err != nil {
			return
		}
		commit()
		r.roundTrip(t)
		for i := range r.dev.queues {
			r.dev.Write(regQueueNotify, 4, uint64(i))
			r.input(make([]byte, 100))
		}
		r.roundTrip(t)
	})
}
