package vmmtest

import (
	"embed"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rv64"
	"github.com/understudy-ft/understudy/services/vmm"
)

//go:embed testdata/rv64/*.hex testdata/x86/*.hex
var programs embed.FS

func program(t testing.TB, isa, name string) []byte {
	text, err := programs.ReadFile("testdata/" + isa + "/" + name + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRV64(t *testing.T) {
	Run(t, &Target{
		New: func(t testing.TB, c Config) (vmm.Engine, *mem.Memory) {
			m, err := mem.New(rv64.RAMBase, 4<<20)
			if err != nil {
				t.Fatal(err)
			}
			e, err := rv64.New(rv64.Config{Memory: m, Bus: c.Bus, Clock: c.Clock, OnStop: c.OnStop})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { finish(t, e, m) })
			return e, m
		},
		Program: func(name string) []byte { return program(t, "rv64", name) },
		Code:    rv64.RAMBase, Result: 0x802f_f000, Data: 0x8020_0000, DataSize: 256 << 10,
		Device: 0x1000_0000, Line: 5,
		TickHz: func(vmm.Engine) uint64 { return rv64.TimebaseHz },
	})
}

func finish(t testing.TB, e vmm.Engine, m *mem.Memory) {
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
