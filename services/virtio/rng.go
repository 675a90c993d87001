package virtio

import (
	"fmt"
	"math/rand/v2"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Entropy device (section 5.4).
const (
	rngType      = 4
	rngQueueSize = 64
	// rngMaxRead bounds the bytes given to one request, which may be fewer than
	// it has room for.
	rngMaxRead = 4096
)

// RNG is the entropy device. Its bytes come from a ChaCha8 generator whose seed
// both copies of a guest share, so that both read the same bytes as long as they
// make the same requests.
type RNG struct {
	transport *Transport
	generator *rand.ChaCha8
	buffer    [rngMaxRead]byte
}

// NewRNG returns an entropy device that begins with the given seed.
func NewRNG(seed [32]byte) *RNG {
	return &RNG{generator: rand.NewChaCha8(seed)}
}

// Info implements Device.
func (r *RNG) Info() Info { return Info{Type: rngType, QueueSizes: []uint16{rngQueueSize}} }

// Attach implements Device.
func (r *RNG) Attach(t *Transport) { r.transport = t }

// Config implements Device: there is none.
func (r *RNG) Config() []byte { return nil }

// PowerOn implements Device. The generator goes on, so that a guest that
// reboots does not read the same bytes again.
func (r *RNG) PowerOn() {}

// Changed implements Device.
func (r *RNG) Changed() {}

// Reseed begins a new sequence. It may be called at any time; at a checkpoint
// both copies are paused and get the same seed.
func (r *RNG) Reseed(seed [32]byte) {
	r.transport.mu.Lock()
	defer r.transport.mu.Unlock()
	r.generator.Seed(seed)
}

// Read fills p like a request of the guest, for entropy that the guest gets in
// another way.
func (r *RNG) Read(p []byte) {
	r.transport.mu.Lock()
	defer r.transport.mu.Unlock()
	r.generator.Read(p)
}

// Process implements Device.
func (r *RNG) Process(queue int) (more bool, err error) {
	return r.transport.queues[queue].drain(&r.transport.paused, r.fill)
}

func (r *RNG) fill(c *Chain) (uint32, error) {
	if c.WriteLen == 0 {
		return 0, fmt.Errorf("entropy request for no bytes: %w", ErrOffence)
	}
	b := r.buffer[:min(c.WriteLen, rngMaxRead)]
	r.generator.Read(b)
	n, err := c.Write(b, 0)
	return uint32(n), err
}

// Save implements Device.
func (r *RNG) Save(s *understudyv1.VirtioState) error {
	g, err := r.generator.MarshalBinary()
	s.Device = &understudyv1.VirtioState_Rng{Rng: &understudyv1.VirtioRNGState{Generator: g}}
	return err
}

// Prepare implements Device.
func (r *RNG) Prepare(s *understudyv1.VirtioState) (commit func(), err error) {
	g := rand.NewChaCha8([32]byte{})
	if err := g.UnmarshalBinary(s.GetRng().GetGenerator()); err != nil {
		return nil, fmt.Errorf("generator: %w", err)
	}
	return func() { r.generator = g }, nil
}
