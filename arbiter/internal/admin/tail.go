package admin

import (
	"bytes"
	"sync"
)

// Tail keeps the last lines that were written to it. It may be used from any
// goroutine; each Write is whole lines, as loggers write them.
type Tail struct {
	mu    sync.Mutex
	lines [][]byte
	size  int // bytes kept
}

// Bounds of a Tail.
const (
	tailLines = 5000
	tailBytes = 2 << 20
	lineMax   = 4096
)

// Write implements io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range bytes.Lines(p) {
		if len(line) > lineMax {
			line = append(bytes.Clone(line[:lineMax]), '\n')
		}
		t.lines = append(t.lines, bytes.Clone(line))
		t.size += len(line)
	}
	for len(t.lines) > tailLines || t.size > tailBytes {
		t.size -= len(t.lines[0])
		t.lines[0] = nil
		t.lines = t.lines[1:]
	}
	return len(p), nil
}

// Lines returns what is kept, oldest first.
func (t *Tail) Lines() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([][]byte(nil), t.lines...)
}
