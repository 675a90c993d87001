package rv64

import "sync/atomic"

// funct5 of the atomic instructions.
const (
	amoAdd  = 0x00
	amoSwap = 0x01
	amoLR   = 0x02
	amoSC   = 0x03
	amoXor  = 0x04
	amoOr   = 0x08
	amoAnd  = 0x0c
	amoMin  = 0x10
	amoMax  = 0x14
	amoMinu = 0x18
	amoMaxu = 0x1c
)

// amo executes an atomic instruction on RAM with the host's own atomics,
// which order at least as strongly as any aq and rl bits ask for. It returns
// false after an exception.
func (h *hart) amo(o op) bool {
	insn := uint32(o.imm)
	size := uint64(4)
	if insF3(insn) == 3 {
		size = 8
	}
	va, f5 := h.x[o.rs1], insn>>27
	if va&(size-1) != 0 {
		if f5 == amoLR {
			return h.raise(causeLoadMisalign, va)
		}
		return h.raise(causeStoreMisalign, va)
	}
	if f5 == amoLR {
		off, inRAM, ok := h.readOffset(va)
		if !ok {
			return false
		}
		if !inRAM {
			return h.raise(causeAccess[accLoad], va)
		}
		var v uint64
		if size == 4 {
			v = sext32(int32(atomic.LoadUint32(h.word32(off))))
		} else {
			v = atomic.LoadUint64(h.word64(off))
		}
		h.reserved, h.resAddr, h.resValue = true, off, v
		h.x[o.rd] = v
		return true
	}
	off, inRAM, ok := h.writeOffset(va)
	if !ok {
		return false
	}
	if !inRAM {
		return h.raise(causeAccess[accStore], va)
	}
	src := h.x[o.rs2]
	if f5 == amoSC {
		// The store succeeds if the word still has the value that LR saw.
		done := h.reserved && h.resAddr == off
		if done && size == 4 {
			done = atomic.CompareAndSwapUint32(h.word32(off), uint32(h.resValue), uint32(src))
		} else if done {
			done = atomic.CompareAndSwapUint64(h.word64(off), h.resValue, src)
		}
		h.reserved = false
		h.x[o.rd] = b2u(!done)
		return true
	}
	if size == 4 {
		h.x[o.rd] = sext32(int32(amo32(h.word32(off), f5, uint32(src))))
	} else {
		h.x[o.rd] = amo64(h.word64(off), f5, src)
	}
	return true
}

func amo32(p *uint32, f5, v uint32) uint32 {
	switch f5 {
	case amoAdd:
		return atomic.AddUint32(p, v) - v
	case amoSwap:
		return atomic.SwapUint32(p, v)
	case amoAnd:
		return atomic.AndUint32(p, v)
	case amoOr:
		return atomic.OrUint32(p, v)
	}
	for {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, uint32(amoResult(f5, sext32(int32(old)), sext32(int32(v))))) {
			return old
		}
	}
}

func amo64(p *uint64, f5 uint32, v uint64) uint64 {
	switch f5 {
	case amoAdd:
		return atomic.AddUint64(p, v) - v
	case amoSwap:
		return atomic.SwapUint64(p, v)
	case amoAnd:
		return atomic.AndUint64(p, v)
	case amoOr:
		return atomic.OrUint64(p, v)
	}
	for {
		old := atomic.LoadUint64(p)
		if atomic.CompareAndSwapUint64(p, old, amoResult(f5, old, v)) {
			return old
		}
	}
}

// amoResult combines two values; sign extension keeps both orders of words.
func amoResult(f5 uint32, old, v uint64) uint64 {
	switch f5 {
	case amoXor:
		return old ^ v
	case amoMin:
		return uint64(min(int64(old), int64(v)))
	case amoMax:
		return uint64(max(int64(old), int64(v)))
	case amoMinu:
		return min(old, v)
	}
	return max(old, v)
}
