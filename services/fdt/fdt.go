// Package fdt writes flattened device trees (Devicetree Specification 0.4,
// chapter 5), the form in which a machine describes itself to its kernel.
//
// A tree is plain data: nodes with properties and children. Encode lays it out
// as a version 17 blob. The package has no state and no concurrency.
package fdt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// MaxSize bounds an encoded tree, in bytes: kernels map no more of it early.
const MaxSize = 2 << 20

// ErrInvalid is returned for a tree that the format cannot hold.
var ErrInvalid = errors.New("invalid device tree")

// Node is one node of a tree. Name is "name" or "name@unit-address"; the
// root's is empty.
type Node struct {
	Name       string
	Properties []Property
	Children   []Node
}

// Property is a named value, already in the big-endian form of the format.
type Property struct {
	Name  string
	Value []byte
}

// Flag is a property without a value, true by being there.
func Flag(name string) Property { return Property{Name: name} }

// U32 is a property of one or more 32-bit cells.
func U32(name string, cells ...uint32) Property {
	var b []byte
	for _, c := range cells {
		b = binary.BigEndian.AppendUint32(b, c)
	}
	return Property{Name: name, Value: b}
}

// U64 is a property of one or more 64-bit values of two cells each.
func U64(name string, values ...uint64) Property {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return Property{Name: name, Value: b}
}

// Strings is a property of one or more strings. They must not contain a NUL.
func Strings(name string, values ...string) Property {
	var b []byte
	for _, v := range values {
		b = append(append(b, v...), 0)
	}
	return Property{Name: name, Value: b}
}

// Bytes is a property of raw bytes.
func Bytes(name string, value []byte) Property { return Property{Name: name, Value: value} }

// Structure block tokens (section 5.4.1) and header constants (section 5.2).
const (
	tokenBeginNode = 1
	tokenEndNode   = 2
	tokenProp      = 3
	tokenEnd       = 9

	magic                 = 0xd00dfeed
	version               = 17
	lastCompatibleVersion = 16
	headerSize            = 40
	reserveMapSize        = 16 // one terminating entry: nothing is reserved
	maxNameLength         = 31
)

// Encode returns the blob of the tree under root. bootCPU is the physical id
// of the CPU that boots. It returns ErrInvalid for names that the format
// forbids, siblings of the same name, or a blob above MaxSize.
func Encode(root Node, bootCPU uint32) ([]byte, error) {
	if root.Name != "" {
		return nil, fmt.Errorf("root node is named %q: %w", root.Name, ErrInvalid)
	}
	e := encoder{offsets: map[string]uint32{}}
	if err := e.node(root, ""); err != nil {
		return nil, err
	}
	e.token(tokenEnd)

	structOffset := headerSize + reserveMapSize
	stringsOffset := structOffset + len(e.structure)
	total := stringsOffset + len(e.strings)
	if total > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d: %w", total, MaxSize, ErrInvalid)
	}
	blob := make([]byte, 0, total)
	for _, v := range []uint32{
		magic, uint32(total), uint32(structOffset), uint32(stringsOffset), headerSize,
		version, lastCompatibleVersion, bootCPU, uint32(len(e.strings)), uint32(len(e.structure)),
	} {
		blob = binary.BigEndian.AppendUint32(blob, v)
	}
	blob = append(blob, make([]byte, reserveMapSize)...)
	blob = append(blob, e.structure...)
	return append(blob, e.strings...), nil
}

// encoder builds the structure block and the strings block.
type encoder struct {
	structure []byte
	strings   []byte
	offsets   map[string]uint32
}

func (e *encoder) node(n Node, path string) error {
	e.token(tokenBeginNode)
	e.structure = append(append(e.structure, n.Name...), 0)
	e.align()
	seen := map[string]bool{}
	for _, p := range n.Properties {
		if err := checkName(p.Name); err != nil || seen[p.Name] {
			return fmt.Errorf("property %q of node %q: name repeated or not allowed: %w", p.Name, path, ErrInvalid)
		}
		seen[p.Name] = true
		e.token(tokenProp)
		e.structure = binary.BigEndian.AppendUint32(e.structure, uint32(len(p.Value)))
		e.structure = binary.BigEndian.AppendUint32(e.structure, e.stringOffset(p.Name))
		e.structure = append(e.structure, p.Value...)
		e.align()
	}
	clear(seen)
	for _, c := range n.Children {
		base, unit, hasUnit := strings.Cut(c.Name, "@")
		if err := checkName(base); err != nil || seen[c.Name] || hasUnit && unit == "" || strings.ContainsAny(unit, "@/\x00") {
			return fmt.Errorf("node %q in %q: name repeated or not allowed: %w", c.Name, path, ErrInvalid)
		}
		seen[c.Name] = true
		if err := e.node(c, path+"/"+c.Name); err != nil {
			return err
		}
	}
	e.token(tokenEndNode)
	return nil
}

func (e *encoder) token(t uint32) {
	e.structure = binary.BigEndian.AppendUint32(e.structure, t)
}

func (e *encoder) align() {
	for len(e.structure)%4 != 0 {
		e.structure = append(e.structure, 0)
	}
}

func (e *encoder) stringOffset(name string) uint32 {
	off, ok := e.offsets[name]
	if !ok {
		off = uint32(len(e.strings))
		e.offsets[name] = off
		e.strings = append(append(e.strings, name...), 0)
	}
	return off
}

// checkName applies the character set of node and property names (sections
// 2.2.1 and 2.2.4.1).
func checkName(name string) error {
	if name == "" || len(name) > maxNameLength {
		return ErrInvalid
	}
	for _, c := range []byte(name) {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(",._+-?#", c) >= 0 {
			continue
		}
		return ErrInvalid
	}
	return nil
}
