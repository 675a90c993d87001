package rv64

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/vmm"
)

// stateVersion is the newest version of Rv64State that this engine reads, and
// the one that it writes.
const stateVersion = 1

// Save returns the state of harts, PLIC and timers of a paused engine, as an
// understudyv1.Rv64State. Guest time is not part of it: the machine saves the
// clock.
func (e *Engine) Save() ([]byte, error) {
	if err := e.checkPaused(); err != nil {
		return nil, fmt.Errorf("save rv64 state: %w", err)
	}
	s := &pb.Rv64State{Version: stateVersion, Plic: e.plic.save()}
	for _, h := range e.harts {
		s.Harts = append(s.Harts, h.save())
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("save rv64 state: %w", err)
	}
	return b, nil
}

// Load puts such a state into a paused engine. It must follow every change of
// memory under the paused engine (a checkpoint's pages, then Load), for it
// drops all that was derived from memory. State that could not be this
// machine's is refused with ErrState, and the engine is left as it was.
func (e *Engine) Load(state []byte) error {
	if err := e.checkPaused(); err != nil {
		return fmt.Errorf("load rv64 state: %w", err)
	}
	s := &pb.Rv64State{}
	if err := proto.Unmarshal(state, s); err != nil {
		return fmt.Errorf("load rv64 state: %w: %w", ErrState, err)
	}
	if err := e.check(s); err != nil {
		return fmt.Errorf("load rv64 state: %w: %w", ErrState, err)
	}
	e.plic.load(s.Plic)
	for i, h := range e.harts {
		h.load1(s.Harts[i])
	}
	e.InvalidateMemory()
	e.mu.Lock()
	e.stopped = false
	e.mu.Unlock()
	return nil
}

func (e *Engine) check(s *pb.Rv64State) error {
	if s.Version == 0 || s.Version > stateVersion {
		return fmt.Errorf("version %d, known are 1 to %d", s.Version, stateVersion)
	}
	if len(s.Harts) != len(e.harts) {
		return fmt.Errorf("%d harts instead of %d", len(s.Harts), len(e.harts))
	}
	for i, h := range s.Harts {
		if err := e.checkHart(h); err != nil {
			return fmt.Errorf("hart %d: %w", i, err)
		}
	}
	p := s.Plic
	if p == nil || len(p.Priority) != MaxIRQ+1 || len(p.Contexts) != len(e.harts) {
		return fmt.Errorf("PLIC of another size")
	}
	if (p.Level|p.Claimed)&^plicSources != 0 || p.Priority[0] != 0 {
		return fmt.Errorf("PLIC source 0 in use")
	}
	for i, v := range p.Priority {
		if v > plicMaxPriority {
			return fmt.Errorf("PLIC priority %d of source %d", v, i)
		}
	}
	for i, c := range p.Contexts {
		if c.GetEnable()&^plicSources != 0 || c.GetThreshold() > plicMaxPriority {
			return fmt.Errorf("PLIC context %d out of range", i)
		}
	}
	return nil
}

func (e *Engine) checkHart(s *pb.Rv64Hart) error {
	bad := func(ok bool, what string, v uint64) error {
		if ok {
			return nil
		}
		return fmt.Errorf("%s %#x", what, v)
	}
	if len(s.GetX()) != 31 || len(s.GetF()) != 32 {
		return fmt.Errorf("%d integer and %d floating-point registers", len(s.GetX()), len(s.GetF()))
	}
	mode := s.Satp >> 60
	r := s.Reservation
	for _, err := range []error{
		bad(s.Pc&1 == 0, "pc", s.Pc),
		bad(s.Instret < 1<<63, "instret", s.Instret),
		bad(s.Privilege <= uint32(privS), "privilege", uint64(s.Privilege)),
		bad(s.Sstatus&^sstatusWritable == 0, "sstatus", s.Sstatus),
		bad(s.Sie&^irqAll == 0, "sie", s.Sie),
		bad(s.Stvec&2 == 0, "stvec", s.Stvec),
		bad(s.Scounteren <= 7, "scounteren", s.Scounteren),
		bad(s.Senvcfg <= 1, "senvcfg", s.Senvcfg),
		bad(s.Sepc&1 == 0, "sepc", s.Sepc),
		bad(s.Satp == 0 || mode == satpSv39 || mode == satpSv48, "satp", s.Satp),
		bad(s.Fcsr <= 255, "fcsr", uint64(s.Fcsr)),
		bad(s.Sip&^(irqSoft|irqExt) == 0, "sip", uint64(s.Sip)),
		bad(hsmState(s.Hsm) == hsmStarted || hsmState(s.Hsm) == hsmStopped, "HSM state", uint64(s.Hsm)),
		bad(r == nil || e.mem.Contains(r.Address, 4) && r.Address&3 == 0, "reservation", r.GetAddress()),
		bad(s.RemoteFences&^(fenceCode|fenceAddresses) == 0, "fences", uint64(s.RemoteFences)),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *hart) save() *pb.Rv64Hart {
	s := &pb.Rv64Hart{
		X: append([]uint64(nil), h.x[1:32]...), F: append([]uint64(nil), h.x[fpBase:fpBase+32]...),
		Pc: h.pc, Privilege: uint32(h.priv), Instret: h.instret,
		Sstatus: h.sstatus, Sie: h.sie, Stvec: h.stvec, Scounteren: h.scounteren, Senvcfg: h.senvcfg,
		Sscratch: h.sscratch, Sepc: h.sepc, Scause: h.scause, Stval: h.stval,
		Stimecmp: h.stimecmp, Satp: h.satp, Fcsr: uint32(h.fcsr),
		Sip: h.ip.Load(), Hsm: h.hsm.Load(), Waiting: h.waiting, RemoteFences: h.remote.Load(),
	}
	if h.reserved {
		s.Reservation = &pb.Rv64Reservation{Address: h.base + h.resAddr, Value: h.resValue}
	}
	return s
}

func (h *hart) load1(s *pb.Rv64Hart) {
	h.powerOn()
	copy(h.x[1:], s.X)
	copy(h.x[fpBase:], s.F)
	h.pc, h.priv, h.instret = s.Pc, privilege(s.Privilege), s.Instret
	h.sstatus, h.sie, h.stvec, h.scounteren, h.senvcfg = s.Sstatus, s.Sie, s.Stvec, s.Scounteren, s.Senvcfg
	h.sscratch, h.sepc, h.scause, h.stval = s.Sscratch, s.Sepc, s.Scause, s.Stval
	h.stimecmp, h.satp, h.fcsr = s.Stimecmp, s.Satp, uint64(s.Fcsr)
	h.ip.Store(s.Sip)
	h.hsm.Store(s.Hsm)
	h.waiting = s.Waiting
	h.remote.Store(s.RemoteFences)
	if s.RemoteFences != 0 {
		h.attn.Or(attnFence)
	}
	if r := s.Reservation; r != nil {
		h.reserved, h.resAddr, h.resValue = true, r.Address-h.base, r.Value
	}
}

func (p *plic) save() *pb.Rv64Plic {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &pb.Rv64Plic{Level: p.level, Claimed: p.claimed, Priority: append([]uint32(nil), p.priority[:]...)}
	for _, c := range p.context {
		s.Contexts = append(s.Contexts, &pb.Rv64PlicContext{Enable: c.enable, Threshold: c.threshold})
	}
	return s
}

func (p *plic) load(s *pb.Rv64Plic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.level, p.claimed = s.Level, s.Claimed
	copy(p.priority[:], s.Priority)
	for i, c := range s.Contexts {
		p.context[i] = plicContext{enable: c.Enable, threshold: c.Threshold}
		p.output(i, false)
	}
	p.update()
}

var _ vmm.Engine = (*Engine)(nil)
