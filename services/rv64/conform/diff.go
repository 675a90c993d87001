package conform

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// digests returns one line for each group, or one for a random program.
func (p *Program) digests(results []byte) []string {
	digest := func(name string, b []byte) string {
		sum := sha256.Sum256(b)
		return name + ": " + hex.EncodeToString(sum[:8])
	}
	if p.parts[0].width == 0 {
		return []string{digest(p.Name, results)}
	}
	var lines []string
	for _, part := range p.parts {
		lines = append(lines, digest(p.Name+": "+part.name, results[part.offset:][:part.size]))
	}
	return lines
}

// diff says, for each part, where results first differ and how often.
func (p *Program) diff(got, want []byte) []string {
	var lines []string
	for _, part := range p.parts {
		g, w := got[part.offset:][:part.size], want[part.offset:][:part.size]
		if bytes.Equal(g, w) {
			continue
		}
		n, first := uint64(0), ""
		for i := uint64(0); i*part.stride < part.size; i++ {
			gs, ws := g[i*part.stride:][:part.stride], w[i*part.stride:][:part.stride]
			if bytes.Equal(gs, ws) {
				continue
			}
			if n == 0 {
				first = fmt.Sprintf("at %d: %s, want %s", i, words(gs), words(ws))
				if part.width > 0 {
					first = fmt.Sprintf("of %s %s", hexWords(part.tuples[i*uint64(part.width):][:part.width]), first)
				}
			}
			n++
		}
		lines = append(lines, fmt.Sprintf("%s: %s: %d of %d differ, first %s", p.Name, part.name, n, part.size/part.stride, first))
	}
	return lines
}

func words(b []byte) string {
	var v []uint64
	for ; len(b) >= 8; b = b[8:] {
		v = append(v, binary.LittleEndian.Uint64(b))
	}
	return hexWords(v)
}

func hexWords(v []uint64) string {
	var s []string
	for _, w := range v {
		s = append(s, fmt.Sprintf("%#x", w))
	}
	return strings.Join(s, " ")
}
