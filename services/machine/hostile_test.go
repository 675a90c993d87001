package machine

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rv64"
)

// score is a list of 32-bit writes that a player makes, over and over.
type score []byte

func (s *score) write(addr uint64, v uint32) {
	*s = binary.LittleEndian.AppendUint64(*s, addr)
	*s = binary.LittleEndian.AppendUint64(*s, uint64(v))
}

// rv64Player is a kernel that plays a score.
func rv64Player(s score) []byte {
	const (
		auipc = 5<<7 | 0x17 // auipc t0, 0
		ldA0  = t1<<15 | 3<<12 | a0<<7 | 0x03
		ldA1  = 8<<20 | t1<<15 | 3<<12 | a1<<7 | 0x03
		swA1  = a1<<20 | a0<<15 | 2<<12 | 0x23
	)
	k := kernelImage(0x20_0000, 8<<20,
		auipc,
		addi(t1, t0, 32),       // begin: the score
		ldA0,                   // next: the address
		branch(0, a0, x0, -8),  // 0: begin
		ldA1,                   //       the value
		swA1,                   //
		addi(t1, t1, 16),       //
		branch(0, x0, x0, -20), // next
	)
	return append(append(k, s...), make([]byte, 16)...)
}

// x86Player is the same for x86.
func x86Player(s score) []byte {
	code := []byte{
		0x48, 0x8d, 0x35, 0x12, 0, 0, 0, // begin: lea score(%rip), %rsi
		0x48, 0xad, //                      next: lods %rax: the address
		0x48, 0x85, 0xc0, //                      test %rax, %rax
		0x74, 0xf2, //                            jz begin
		0x48, 0x89, 0xc7, //                      mov %rax, %rdi
		0x48, 0xad, //                            lods %rax: the value
		0x89, 0x07, //                            mov %eax, (%rdi)
		0xeb, 0xf0, //                            jmp next
		0x90, 0x90, // the score
	}
	return bzImage(8<<20, append(append(code, s...), make([]byte, 16)...))
}

// hostileScore sets all virtio devices up, wrongly as often as rightly, fills
// their queues with whatever comes, and floods them with notifications. Its last
// write is 1 to mark. Memory that it lets devices write to is in the arena.
func hostileScore(r *rand.Rand, layout map[string]window, arena, mark uint64) score {
	const (
		arenaSize = 1 << 20
		rounds    = 12
		floods    = 20
	)
	var s score
	anywhere := func() uint64 {
		switch r.IntN(6) {
		case 0: // not memory
			return r.Uint64()
		case 1: // at the end of all addresses
			return ^uint64(r.IntN(1 << 16))
		}
		return arena + uint64(r.IntN(arenaSize))
	}
	for range rounds {
		for _, name := range []string{nameNet, nameBlock, nameConsole, nameRNG} {
			base := layout[name].base
			reg := func(offset uint64, v uint32) { s.write(base+offset, v) }
			reg(0x070, 0)
			for _, v := range []uint32{1, 3} {
				reg(0x070, v)
			}
			reg(0x024, 1)
			reg(0x020, 1) // version 1
			reg(0x024, 0)
			reg(0x020, []uint32{0, 1 << 28, 1 << 29, 3 << 28, r.Uint32()}[r.IntN(5)])
			reg(0x070, 0xb)
			for q := range uint32(3) {
				table, avail, used := arena+uint64(r.IntN(64))*0x1000, arena+0x8_0000+uint64(r.IntN(64))*0x1000, arena+0xc_0000+uint64(r.IntN(32))*0x1000
				if r.IntN(8) == 0 {
					table = anywhere()
				}
				if r.IntN(8) == 0 {
					used = anywhere()
				}
				reg(0x030, q)
				reg(0x038, []uint32{8, 8, 8, 64, 7, 0, r.Uint32()}[r.IntN(7)])
				for i, a := range []uint64{table, avail, used} {
					reg(0x080+uint64(i)*0x10, uint32(a))
					reg(0x084+uint64(i)*0x10, uint32(a>>32))
				}
				if table < arena || table > arena+arenaSize/2 {
					table = arena
				}
				for i := range uint64(8) {
					at := anywhere()
					d := table + i*16
					s.write(d, uint32(at))
					s.write(d+4, uint32(at>>32))
					s.write(d+8, []uint32{1, 16, 1500, 4096, 1 << 20, r.Uint32()}[r.IntN(6)])
					s.write(d+12, uint32(r.IntN(8))|uint32(r.IntN(10))<<16) // flags, next: loops and beyond the table
					s.write(avail+4+i*2&^3, r.Uint32()&0x000f_000f)
				}
				s.write(avail, uint32(r.IntN(12))<<16) // the index: sometimes more than the ring holds
				reg(0x044, 1)
			}
			reg(0x070, 0xf)
			for range floods {
				reg(0x050, uint32(r.IntN(4)))
			}
			for range 4 {
				reg(uint64(r.IntN(0x200)&^3), r.Uint32())
			}
		}
	}
	s.write(mark, 1)
	return s
}

// A guest that sets its devices up wrongly, hands them queues of garbage and
// floods them with notifications harms nobody but itself: the machine pauses,
// tells every page that changed, and goes on elsewhere.
func TestHostileQueues(t *testing.T) {
	for _, c := range []struct {
		engine string
		base   uint64
		layout map[string]window
		player func(score) []byte
	}{
		{EngineRV64, rv64.RAMBase, rv64Platform{}.layout(), rv64Player},
		{EngineKVM, 0, x86Layout, x86Player},
	} {
		t.Run(c.engine, func(t *testing.T) {
			if c.engine == EngineKVM {
				needKVM(t)
			}
			mark, arena := c.base+48<<20, c.base+50<<20
			for seed := range uint64(3) {
				s := hostileScore(rand.New(rand.NewPCG(seed, 0)), c.layout, arena, mark)
				build := func() *rig {
					return newRig(t, func(cfg *Config) {
						cfg.Engine, cfg.Kernel, cfg.Disk = c.engine, c.player(s), image(t, 1<<20)
					})
				}
				m := build()
				if err := m.Start(); err != nil {
					t.Fatal(err)
				}
				m.Pause()
				drained := mem.NewBitmap(m.Memory().Pages())
				if err := m.DrainDirty(drained); err != nil {
					t.Fatal(err)
				}
				was := bytes.Clone(m.Memory().Bytes())
				m.Resume()
				m.played(t, seed, mark)
				for range 20 {
					m.Deliver(arp())
				}
				m.Pause()
				dirty := mem.NewBitmap(m.Memory().Pages())
				if err := m.DrainDirty(dirty); err != nil {
					t.Fatal(err)
				}
				for n := range m.Memory().Pages() {
					if !dirty.Has(n) && !bytes.Equal(m.Memory().Page(n), was[n<<mem.PageShift:(n+1)<<mem.PageShift]) {
						t.Fatalf("seed %d: page %d changed unreported", seed, n)
					}
				}
				moved := build()
				m.copyTo(t, moved)
				moved.Resume()
				moved.played(t, seed, mark)
				moved.Pause()
			}
		})
	}
}

// played waits until the guest has come to the end of its score once more.
func (r *rig) played(t *testing.T, seed, mark uint64) {
	t.Helper()
	// Twice: the first end may be that of a score whose beginning was before.
	for range 2 {
		if err := r.Memory().WriteAt(make([]byte, 8), mark); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(hostileWait); ; time.Sleep(time.Millisecond) {
			if v, err := r.Memory().Uint64(mark); err != nil {
				t.Fatal(err)
			} else if v != 0 {
				break
			}
			select {
			case s := <-r.stops:
				t.Fatalf("seed %d: the guest stopped: %v %s", seed, s.Cause, s.Detail)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("seed %d: the guest hangs", seed)
			}
		}
	}
}

// hostileWait is for a score of some thousand accesses, each of which may cost a
// millisecond where KVM is emulated.
const hostileWait = 2 * time.Minute
