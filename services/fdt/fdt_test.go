package fdt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// decode is a reader written from the specification alone. It checks what the
// specification demands of a blob and returns its tree.
func decode(blob []byte) (root Node, err error) {
	u32 := func(off uint32) uint32 { return binary.BigEndian.Uint32(blob[off:]) }
	if u32(0) != 0xd00dfeed {
		return root, errors.New("bad magic")
	}
	total, structOff, stringsOff, reserveOff := u32(4), u32(8), u32(12), u32(16)
	stringsSize, structSize := u32(32), u32(36)
	switch {
	case int(total) != len(blob):
		return root, fmt.Errorf("total size %d of a %d byte blob", total, len(blob))
	case reserveOff%8 != 0 || structOff%4 != 0:
		return root, errors.New("misaligned block")
	case u32(20) != 17 || u32(24) != 16:
		return root, errors.New("wrong version")
	case structOff+structSize > stringsOff || stringsOff+stringsSize != total:
		return root, errors.New("blocks overlap or leave a gap at the end")
	case binary.BigEndian.Uint64(blob[reserveOff:]) != 0 || binary.BigEndian.Uint64(blob[reserveOff+8:]) != 0:
		return root, errors.New("reservation block is not empty")
	}
	cstring := func(off uint32) string {
		s, _, ok := strings.Cut(string(blob[off:]), "\x00")
		if !ok {
			panic("unterminated string")
		}
		return s
	}
	pos := structOff
	var node func() Node
	node = func() Node {
		n := Node{Name: cstring(pos)}
		pos = (pos + uint32(len(n.Name)) + 1 + 3) &^ 3
		for {
			tok := u32(pos)
			pos += 4
			switch tok {
			case 3:
				if n.Children != nil {
					panic("property after a child node")
				}
				size, name := u32(pos), u32(pos+4)
				p := Property{Name: cstring(stringsOff + name)}
				if size > 0 {
					p.Value = bytes.Clone(blob[pos+8 : pos+8+size])
				}
				n.Properties = append(n.Properties, p)
				pos = (pos + 8 + size + 3) &^ 3
			case 1:
				n.Children = append(n.Children, node())
			case 2:
				return n
			default:
				panic(fmt.Sprintf("token %d at %d", tok, pos-4))
			}
		}
	}
	if u32(pos) != 1 {
		return root, errors.New("no root node")
	}
	pos += 4
	root = node()
	if u32(pos) != 9 || pos+4 != structOff+structSize {
		return root, errors.New("structure block does not end after the root")
	}
	return root, nil
}

func TestEncodeGolden(t *testing.T) {
	got, err := Encode(Node{
		Properties: []Property{U32("#address-cells", 2), Strings("compatible", "a,b", "c")},
		Children:   []Node{{Name: "cpu@0", Properties: []Property{Flag("on"), U64("reg", 1)}}},
	}, 3)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte("" +
		"\xd0\x0d\xfe\xed" + "\x00\x00\x00\xbc" + "\x00\x00\x00\x38" + "\x00\x00\x00\x98" + "\x00\x00\x00\x28" +
		"\x00\x00\x00\x11" + "\x00\x00\x00\x10" + "\x00\x00\x00\x03" + "\x00\x00\x00\x21" + "\x00\x00\x00\x60" +
		strings.Repeat("\x00", 16) +
		"\x00\x00\x00\x01" + "\x00\x00\x00\x00" +
		"\x00\x00\x00\x03" + "\x00\x00\x00\x04" + "\x00\x00\x00\x00" + "\x00\x00\x00\x02" +
		"\x00\x00\x00\x03" + "\x00\x00\x00\x06" + "\x00\x00\x00\x0f" + "a,b\x00c\x00\x00\x00" +
		"\x00\x00\x00\x01" + "cpu@0\x00\x00\x00" +
		"\x00\x00\x00\x03" + "\x00\x00\x00\x00" + "\x00\x00\x00\x1a" +
		"\x00\x00\x00\x03" + "\x00\x00\x00\x08" + "\x00\x00\x00\x1d" + "\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x00\x00\x00\x02" + "\x00\x00\x00\x02" + "\x00\x00\x00\x09" +
		"#address-cells\x00" + "compatible\x00" + "on\x00" + "reg\x00")
	// Sizes that the layout gives, so that the golden text stays readable.
	binary.BigEndian.PutUint32(want[4:], uint32(len(want)))
	binary.BigEndian.PutUint32(want[12:], uint32(len(want)-0x21))
	binary.BigEndian.PutUint32(want[36:], uint32(len(want)-0x21-0x38))
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%x\nwant\n%x", got, want)
	}
}

func TestEncodeRefuses(t *testing.T) {
	child := func(names ...string) Node {
		var n Node
		for _, name := range names {
			n.Children = append(n.Children, Node{Name: name})
		}
		return n
	}
	for name, tree := range map[string]Node{
		"named root":         {Name: "x"},
		"empty child name":   child(""),
		"empty unit address": child("cpu@"),
		"two unit addresses": child("cpu@0@1"),
		"slash":              child("a/b"),
		"NUL":                child("a\x00"),
		"repeated child":     child("cpu@0", "cpu@0"),
		"long name":          child(strings.Repeat("a", 32)),
		"empty property":     {Properties: []Property{Flag("")}},
		"repeated property":  {Properties: []Property{Flag("a"), Flag("a")}},
		"too large":          {Properties: []Property{Bytes("a", make([]byte, MaxSize))}},
	} {
		if _, err := Encode(tree, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
}

// Any tree reads back as it was written.
func TestRoundTrip(t *testing.T) {
	name := rapid.StringMatching(`[a-z#,][a-z0-9,._+-]{0,9}`)
	var node func(depth int) *rapid.Generator[Node]
	node = func(depth int) *rapid.Generator[Node] {
		return rapid.Custom(func(t *rapid.T) Node {
			var n Node
			for _, p := range rapid.SliceOfNDistinct(name, 0, 5, rapid.ID).Draw(t, "properties") {
				v := rapid.SliceOfN(rapid.Byte(), 0, 17).Draw(t, "value")
				if len(v) == 0 {
					v = nil
				}
				n.Properties = append(n.Properties, Bytes(p, v))
			}
			if depth > 0 {
				for _, c := range rapid.SliceOfNDistinct(name, 0, 4, rapid.ID).Draw(t, "children") {
					child := node(depth-1).Draw(t, "child")
					child.Name = c
					n.Children = append(n.Children, child)
				}
			}
			return n
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		want := node(3).Draw(t, "tree")
		blob, err := Encode(want, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(blob)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// The reference compiler reads the blob, where it is installed.
func TestReferenceCompilerAgrees(t *testing.T) {
	dtc, err := exec.LookPath("dtc")
	if err != nil {
		t.Skip("dtc is not installed")
	}
	blob, err := Encode(Node{
		Properties: []Property{U32("#address-cells", 2), U32("#size-cells", 2)},
		Children:   []Node{{Name: "memory@80000000", Properties: []Property{Strings("device_type", "memory"), U64("reg", 0x80000000, 1<<28)}}},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dtc, "-I", "dtb", "-O", "dts")
	cmd.Stdin = bytes.NewReader(blob)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "reg = <0x00 0x80000000 0x00 0x10000000>") {
		t.Errorf("dtc read:\n%s", out)
	}
}
