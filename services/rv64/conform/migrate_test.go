package conform

import (
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// TestMigration: a program that hops between two engines, with its state and
// the pages that DrainDirty names and nothing else, ends as on one engine.
func TestMigration(t *testing.T) {
	p, err := groupProgram("float", floatGroups(*seed, 1000))
	if err != nil {
		t.Fatal(err)
	}
	for _, translated := range []bool{false, true} {
		want, err := runEngine(t, p, translated)
		if err != nil {
			t.Fatal(err)
		}
		here, there := machineFor(t, p, translated), newMachine(t, machineSize(p))
		if err := there.mem.WriteAt(here.mem.Bytes(), memoryBase); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*machine{here, there} {
			if err := m.engine.DrainDirty(mem.NewBitmap(m.mem.Pages())); err != nil {
				t.Fatal(err)
			}
		}
		if err := here.engine.Reset(vmm.Entry{PC: SupervisorBase}); err != nil {
			t.Fatal(err)
		}
		hops, pages := 0, 0
		for running := true; ; {
			here.engine.Resume()
			select {
			case s := <-here.stops:
				if s.Cause != vmm.PowerOff {
					t.Fatalf("stopped by itself: %v", s)
				}
				running = false
			case <-time.After(3 * time.Millisecond):
			}
			here.engine.Pause()
			if !running {
				break
			}
			dirty := mem.NewBitmap(here.mem.Pages())
			if err := here.engine.DrainDirty(dirty); err != nil {
				t.Fatal(err)
			}
			for n := range dirty.All {
				pages++
				if err := there.mem.WriteAt(here.mem.Page(n), memoryBase+n<<mem.PageShift); err != nil {
					t.Fatal(err)
				}
			}
			state, err := here.engine.Save()
			if err != nil {
				t.Fatal(err)
			}
			if err := there.engine.Load(state); err != nil {
				t.Fatal(err)
			}
			if err := there.engine.DrainDirty(dirty); err != nil {
				t.Fatal(err)
			}
			here, there = there, here
			hops++
		}
		out := make([]byte, p.ResultSize)
		if err := here.mem.ReadAt(out, p.Result); err != nil {
			t.Fatal(err)
		}
		report(t, "after hops", p, out, want)
		if hops < 3 {
			t.Errorf("only %d hops", hops)
		}
		t.Logf("translated %v: %d hops, %d pages", translated, hops, pages)
	}
}
