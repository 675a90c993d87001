package feed

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// buffers is where codec puts together what it receives. Unlike gRPC's pools it
// hands out memory as it was left, in sizes that fit, and keeps as much as a
// checkpoint needs from one to the next: fresh memory costs more than what is
// put there.
type buffers struct {
	mu   sync.Mutex
	free [largestBuffer + 1][]*[]byte // by the logarithm of the size
	kept int                          // bytes
}

var _ mem.BufferPool = (*buffers)(nil)

const (
	// smallestBuffer and largestBuffer are logarithms of sizes in bytes. Others
	// are not kept.
	smallestBuffer = 12
	largestBuffer  = 20
	// buffersKept bounds what is kept, in bytes.
	buffersKept = 64 << 20
)

// received are the buffers of this process.
var received buffers

// Get returns a buffer of n bytes, whose content is any.
func (p *buffers) Get(n int) *[]byte {
	class := max(bits.Len(uint(max(n, 1)-1)), smallestBuffer)
	if class > largestBuffer {
		b := make([]byte, n)
		return &b
	}
	if b := p.take(class); b != nil {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<class)
	return &b
}

func (p *buffers) take(class int) *[]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.free[class]) - 1
	if last < 0 {
		return nil
	}
	b := p.free[class][last]
	p.free[class] = p.free[class][:last]
	p.kept -= 1 << class
	return b
}

// Put takes back a buffer that nobody refers to any more.
func (p *buffers) Put(b *[]byte) {
	class := bits.Len(uint(cap(*b))) - 1
	if class < smallestBuffer || class > largestBuffer || cap(*b) != 1<<class {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept+1<<class > buffersKept {
		return
	}
	p.free[class] = append(p.free[class], b)
	p.kept += 1 << class
}
