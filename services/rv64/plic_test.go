package rv64

import (
	"math/rand/v2"
	"testing"
)

// FuzzPLIC: no access, of any place and size, does more than the registers say;
// an interrupt is claimed once until it is completed.
func FuzzPLIC(f *testing.F) {
	f.Add([]byte{0, 4, 1, 1, 0, 0, 2, 0x20, 0x80, 0, 2, 7, 0, 4, 0x20})
	chance := rand.NewChaCha8([32]byte{1})
	for range 100 {
		random := make([]byte, 3000)
		chance.Read(random)
		f.Add(random)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var line [2]bool
		p := newPLIC(2, func(hart int, level bool) { line[hart] = level })
		places := []uint64{0, plicPending, plicEnable, plicEnable + plicEnableLen, plicContext0, plicContext0 + plicContextSz, plicContext0 + 2*plicContextSz, 0x3ff_fff8}
		for ; len(script) >= 3; script = script[3:] {
			at, v := places[script[0]&7]+uint64(script[1]), uint64(script[2])
			switch script[0] >> 3 & 7 {
			case 0, 1:
				p.write(at, 4, v|v<<8|v<<24)
			case 2:
				p.read(at, int(v%9))
			case 3:
				p.write(at, int(v%9), ^uint64(0))
			case 4:
				p.setLevel(uint32(v), script[1]&1 != 0)
			case 5:
				context := uint64(script[1] & 1)
				claimed := p.claimed
				n, _ := p.read(plicContext0+context*plicContextSz+4, 4)
				if n != 0 && (n > MaxIRQ || claimed>>n&1 != 0 || p.claimed>>n&1 == 0) {
					t.Fatalf("claimed %d with %#x claimed before and %#x after", n, claimed, p.claimed)
				}
			case 6:
				p.reset()
			}
			for i := range p.context {
				if want := p.best(&p.context[i], p.context[i].threshold) != 0; line[i] != want {
					t.Fatalf("hart %d: line %v, want %v", i, line[i], want)
				}
			}
		}
	})
}
