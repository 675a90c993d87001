package machine

import (
	"errors"
	"testing"

	"github.com/understudy-ft/understudy/services/kvm"
	"github.com/understudy-ft/understudy/services/vmm"
)

// x86EchoGuest is echoGuest for x86: the count is in bl.
func x86EchoGuest() []byte {
	return bzImage(1<<20, []byte{
		0x66, 0xba, 0xf8, 0x03, //       mov dx, 0x3f8
		0xb0, '!', //                    mov al, '!'
		0xee,      //                    out dx, al
		0xb3, '0', //                    mov bl, '0'
		0x66, 0xba, 0xfd, 0x03, // wait: mov dx, 0x3fd
		0xec,       //                   in al, dx
		0xa8, 0x01, //                   test al, 1
		0x74, 0xf7, //                   jz wait
		0x66, 0xba, 0xf8, 0x03, //       mov dx, 0x3f8
		0xec,      //                    in al, dx
		0x3c, 'q', //                    cmp al, 'q'
		0x74, 0x0d, //                   je off
		0x3c, 'r', //                    cmp al, 'r'
		0x74, 0x11, //                   je reset
		0xee,       //                   out dx, al
		0x88, 0xd8, //                   mov al, bl
		0xee,       //                   out dx, al
		0xfe, 0xc3, //                   inc bl
		0xeb, 0xe2, //                   jmp wait
		0x90,                   //       nop
		0x66, 0xba, 0x00, 0x06, // off:  mov dx, 0x600
		0xb0, 0x34, //                   mov al, S5 and enable
		0xee,                   //                   out dx, al
		0xf4,                   //       hlt
		0x66, 0xba, 0xf9, 0x0c, // reset: mov dx, 0xcf9
		0xb0, 0x06, //                   mov al, 6
		0xee, //                   out dx, al
		0xf4, //                         hlt
	})
}

// needKVM skips a test where there is no KVM, whatever its speed.
func needKVM(t *testing.T) {
	t.Helper()
	if err := kvm.Available(); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
}

func newX86Rig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	needKVM(t)
	return newRig(t, func(c *Config) {
		c.Engine, c.Kernel = EngineKVM, x86EchoGuest()
		if change != nil {
			change(c)
		}
	})
}

func TestX86Life(t *testing.T) {
	m := newX86Rig(t, nil)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	m.screen.await(t, "!", wait)
	m.ConsoleInput([]byte("ab"))
	m.screen.await(t, "!a0b1", wait)

	m.ConsoleInput([]byte("r"))
	if s := <-m.stops; s.Cause != vmm.Reboot {
		t.Fatalf("stopped by %v: %s", s.Cause, s.Detail)
	}
	m.Pause()
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	m.Resume()
	m.screen.await(t, "!a0b1!", wait)
	m.ConsoleInput([]byte("z"))
	m.screen.await(t, "!z0", wait)

	m.ConsoleInput([]byte("q"))
	if s := <-m.stops; s.Cause != vmm.PowerOff {
		t.Fatalf("stopped by %v: %s", s.Cause, s.Detail)
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
}

// A guest goes on elsewhere with what it knew and what was typed ahead.
func TestX86Copy(t *testing.T) {
	a := newX86Rig(t, func(c *Config) { c.Disk = image(t, 1<<20) })
	b := newX86Rig(t, func(c *Config) { c.Disk = image(t, 1<<20); c.Kernel = nil })
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	a.ConsoleInput([]byte("ab"))
	a.screen.await(t, "!a0b1", wait)
	a.Pause()
	a.copyTo(t, b)
	b.Resume()
	b.ConsoleInput([]byte("c"))
	b.screen.await(t, "c2", wait)
	if got := b.screen.String(); got != "c2" {
		t.Errorf("the copy said %q", got)
	}
}
