package machine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/vmm"
)

// guestKind is a guest that deploy/guest builds, and the machine for it.
type guestKind struct {
	dir, kernel string
	engine      string
	cpus        int
	patience    time.Duration // for what takes seconds on a quiet machine
	print       io.Writer     // gets what the guest says, if set
}

// guestDir names the directory of the guest's images where the repository is
// not around the test.
const guestDir = "UNDERSTUDY_GUEST_DIR"

// images are the guest's boot images, if they were built.
func (k guestKind) images(t *testing.T) (kernel, initrd []byte) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a whole guest")
	}
	dir := os.Getenv(guestDir)
	if dir == "" {
		dir = filepath.Join("../../build/guest", k.dir)
	}
	kernel, err := os.ReadFile(filepath.Join(dir, k.kernel))
	if err == nil {
		initrd, err = os.ReadFile(filepath.Join(dir, "initrd"))
	}
	if err != nil {
		t.Skipf("NOT TESTED: the guest images are not built (deploy/guest): %v", err)
	}
	return kernel, initrd
}

// shell types at a guest.
type shell struct {
	t *testing.T
	*rig
	patience time.Duration
	commands int
}

// run types a command and returns what it prints.
func (s *shell) run(command string) string {
	s.t.Helper()
	s.commands++
	// The mark is typed in another form, so that its echo is not taken for it.
	mark, typed := fmt.Sprintf("%d-done", s.commands), fmt.Sprintf("%d''-done", s.commands)
	for line := []byte(command + "; echo " + typed + "\n"); len(line) > 0; {
		line = line[s.ConsoleInput(line):]
	}
	s.screen.await(s.t, "\n"+mark+"\r\n", s.patience)
	// What is typed ahead of the prompt is echoed twice.
	out := s.screen.String()
	_, out, _ = strings.Cut(out[strings.LastIndex(out, typed):], "\n")
	out, _, _ = strings.Cut(out, mark)
	return strings.ReplaceAll(out, "\r", "")
}

var (
	guestMAC = [6]byte{0x52, 0x54, 0, 0, 0, 9}
	hostMAC  = [6]byte{0x52, 0x54, 0, 0, 0, 1}
)

// arp is a question of 10.9.0.1 for the address of 10.9.0.2, and answered tells
// whether a frame is the guest's answer.
func arp() []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), hostMAC[:]...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, hostMAC[:]...), 10, 9, 0, 1)
	return append(f, 0, 0, 0, 0, 0, 0, 10, 9, 0, 2)
}

func answered(f []byte) bool {
	return len(f) >= 42 && binary.BigEndian.Uint16(f[12:]) == 0x806 && f[21] == 2 &&
		bytes.Equal(f[:6], hostMAC[:]) && bytes.Equal(f[22:28], guestMAC[:])
}

// TestGuest boots a RISC-V guest on the interpreter.
func TestGuest(t *testing.T) {
	testGuest(t, guestKind{dir: "rv64", kernel: "Image", engine: EngineRV64, cpus: 1, patience: time.Minute})
}

// emulatedKVM allows KVM that only emulates, or is emulated itself: a guest's boot
// takes minutes there, or hours.
const emulatedKVM = "UNDERSTUDY_EMULATED_KVM"

// TestX86Guest boots an x86-64 guest with two CPUs on KVM.
func TestX86Guest(t *testing.T) {
	k := guestKind{dir: "x86", kernel: "bzImage", engine: EngineKVM, cpus: 2, patience: time.Minute}
	if os.Getenv(emulatedKVM) != "" {
		k.patience, k.print = 5*time.Minute, os.Stdout
	} else if err := hardware(); err != nil {
		t.Skipf("NOT TESTED HERE (deploy/lab runs this test in an emulated host): %v", err)
	}
	testGuest(t, k)
}

// ping is an ICMP echo request of 10.9.0.1 with a sequence number.
func ping(sequence uint16) []byte {
	be := binary.BigEndian
	echo := make([]byte, 64)
	echo[0] = 8
	be.PutUint16(echo[6:], sequence)
	be.PutUint16(echo[2:], checksum(echo))
	ip := append([]byte{0x45, 0, 0, 84, 0, 0, 0, 0, 64, 1, 0, 0}, 10, 9, 0, 1, 10, 9, 0, 2)
	be.PutUint16(ip[10:], checksum(ip))
	f := append(append(guestMAC[:], hostMAC[:]...), 8, 0)
	return append(append(f, ip...), echo...)
}

// checksum is the Internet checksum of an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// pingInstructions is about what the guest's kernel took to answer an echo
// request when this was written, idle work between two of them included.
const pingInstructions = 30_000

// countPing bounds the instructions that a request costs the guest. The bound is
// wide: it is to notice that interrupts repeat or a driver spins, not how the
// kernel was compiled or how busy this host is.
func countPing(t *testing.T, s *shell, frames <-chan []byte) {
	t.Helper()
	instructions := func() uint64 {
		s.Pause()
		defer s.Resume()
		m, err := s.Save()
		if err != nil {
			t.Fatal(err)
		}
		state := &pb.Rv64State{}
		if err := proto.Unmarshal(m.GetEngineState(), state); err != nil || len(state.GetHarts()) != 1 {
			t.Fatalf("the engine's state has %d harts, %v", len(state.GetHarts()), err)
		}
		return state.GetHarts()[0].GetInstret()
	}
	answer := func(f []byte) bool { return len(f) > 41 && f[12] == 8 && f[13] == 0 && f[23] == 1 && f[34] == 0 }
	const batches, batch = 16, 32
	before := instructions()
	for b := range batches {
		for i := range batch {
			if s.Deliver(ping(uint16(b*batch+i))) == 0 {
				t.Fatal("frame refused")
			}
		}
		for left, deadline := batch, time.After(s.patience); left > 0; {
			select {
			case f := <-frames:
				if answer(f) {
					left--
				}
			case <-deadline:
				t.Fatalf("%d of %d echo requests are not answered", left, batch)
			}
		}
	}
	each := (instructions() - before) / (batches * batch)
	t.Logf("%d instructions an echo request", each)
	if each > 3*pingInstructions {
		t.Errorf("an echo request costs the guest %d instructions, about %d were right", each, pingInstructions)
	}
}

// testGuest boots the distribution's kernel to a shell, uses every device, moves
// the guest to another machine in mid-operation, reboots it and switches it off.
func testGuest(t *testing.T, kind guestKind) {
	kernel, initrd := kind.images(t)
	img := image(t, 16<<20)
	frames := make(chan []byte, 256)
	build := func() *shell {
		s := &shell{t: t, patience: kind.patience, rig: &rig{screen: newScreen(), stops: make(chan vmm.Stop, 1)}}
		s.screen.also = kind.print
		var err error
		s.Machine, err = New(Config{
			Engine: kind.engine, MemoryBytes: 256 << 20, CPUs: kind.cpus, MAC: guestMAC, Disk: img, Kernel: kernel, Initrd: initrd,
			Append: "console=ttyS0 quiet panic=-1 ud.ip=10.9.0.2/24 ud.service=shell",
		}, Host{
			Console: s.screen,
			OnStop:  func(stop vmm.Stop) { s.stops <- stop },
			Transmit: func(f []byte) {
				select {
				case frames <- bytes.Clone(f):
				default:
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	reachable := func(s *shell) {
		t.Helper()
		if s.Deliver(arp()) == 0 {
			t.Fatal("frame refused")
		}
		for deadline := time.After(kind.patience); ; {
			select {
			case f := <-frames:
				if answered(f) {
					return
				}
			case <-deadline:
				t.Fatalf("the guest does not answer; the console says:\n%s", s.screen)
			}
		}
	}

	start := time.Now()
	s := build()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	s.screen.await(t, "understudy-guest: ready", 3*kind.patience)
	s.screen.await(t, "# ", kind.patience)
	t.Logf("shell after %v", time.Since(start).Round(10*time.Millisecond))

	reachable(s)
	if kind.engine == EngineRV64 {
		countPing(t, s, frames)
	}
	var unix int64
	if fmt.Sscan(s.run("date +%s"), &unix); time.Since(time.Unix(unix, 0)).Abs() > time.Minute {
		t.Errorf("the guest's clock reads %v", time.Unix(unix, 0))
	}
	if out := s.run("nproc"); strings.TrimSpace(out) != strconv.Itoa(kind.cpus) {
		t.Errorf("the guest has %q CPUs, want %d", out, kind.cpus)
	}
	if out := s.run("cat /sys/class/net/eth0/address"); !strings.Contains(out, "52:54:00:00:00:09") {
		t.Errorf("address %q", out)
	}
	s.run("for m in $(cat /etc/modules/disk); do insmod /lib/modules/$m.ko; done")
	s.run("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done > /tmp/data; sum=$(md5sum < /tmp/data)")
	s.run("dd if=/tmp/data of=/dev/vda bs=64k conv=fsync")
	sector := make([]byte, 512)
	if err := img.ReadAt(sector, 0); err != nil || !bytes.HasPrefix(sector, []byte("line 0\nline 1\n")) {
		t.Errorf("the disk begins with %q, %v", sector[:20], err)
	}
	if img.Dirty().Count() == 0 {
		t.Error("no block is dirty")
	}

	// Move it while it reads the disk and computes, and frames come in.
	s.ConsoleInput([]byte("for i in 1 2 3 4 5; do echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=4k count=50 2>/dev/null | md5sum; done; echo moved''-on\n"))
	moved := build()
	for range 5 {
		s.Deliver(arp())
	}
	s.Pause()
	s.copyTo(t, moved.rig)
	moved.Resume()
	moved.screen.await(t, "moved-on", kind.patience)
	moved.commands = s.commands
	reachable(moved)
	out := moved.run("head -c $(wc -c < /tmp/data) /dev/vda | md5sum; echo $sum")
	if sums := strings.Fields(out); len(sums) != 4 || sums[0] != sums[2] {
		t.Errorf("the disk reads back as %q", out)
	}

	moved.ConsoleInput([]byte("reboot -f\n"))
	if stop := <-moved.stops; stop.Cause != vmm.Reboot {
		t.Fatalf("stopped by %v: %s", stop.Cause, stop.Detail)
	}
	moved.Pause()
	moved.screen.clear()
	if err := moved.Reset(); err != nil {
		t.Fatal(err)
	}
	moved.Resume()
	moved.screen.await(t, "understudy-guest: ready", 3*kind.patience)
	moved.screen.await(t, "# ", kind.patience)
	moved.ConsoleInput([]byte("poweroff -f\n"))
	if stop := <-moved.stops; stop.Cause != vmm.PowerOff {
		t.Fatalf("stopped by %v: %s", stop.Cause, stop.Detail)
	}
}
