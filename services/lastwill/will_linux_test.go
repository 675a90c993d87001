package lastwill

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test's own binary is the child, and in dying the process that dies.
func TestMain(m *testing.M) {
	Enter()
	if len(os.Args) == 3 && os.Args[1] == "die" {
		die(os.Args[2])
	}
	os.Exit(m.Run())
}

// size is that of the memory of a process that dies, large enough to be seen.
const size = 512 << 20

// die opens two connections, closes one, says so and waits to be killed.
func die(addr string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	fail(err)
	for i := 0; i < size; i += 4096 {
		memory[i] = 1
	}
	w, err := New()
	fail(err)
	for i := range 2 {
		c, err := net.Dial("tcp", addr)
		fail(err)
		release := w.Keep(c)
		if i == 1 {
			release()
			fail(c.Close())
		}
	}
	fmt.Println("ready")
	select {}
}

// patience is longer than any of the ways to learn of an end takes.
const patience = 20 * time.Second

// mourn starts a process that dies, and returns it with its connections.
func mourn(t *testing.T) (*exec.Cmd, [2]net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command("/proc/self/exe", "die", ln.Addr().String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var conns [2]net.Conn
	for i := range conns {
		if conns[i], err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[i].Close() })
		if err := conns[i].SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	line := make([]byte, 64)
	if n, err := out.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "ready") {
		t.Fatalf("the process says %q, %v", line[:n], err)
	}
	return cmd, conns
}

// childOf is the process ID of the child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			t.Skipf("the kernel does not list children: %v", err)
		}
		if child, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return child
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

// ended waits for a connection's end.
func ended(t *testing.T, what string, c net.Conn) time.Time {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("%s: %v, want its end", what, err)
	}
	return time.Now()
}

// A killed process's connection ends with it; how much sooner than by itself is
// said, not judged. A connection that was released ends while the process lives.
func TestConnectionsEndWithTheProcess(t *testing.T) {
	cmd, conns := mourn(t)
	ended(t, "the released connection", conns[1])
	child := childOf(t, cmd.Process.Pid)
	at := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	heard := ended(t, "the kept connection", conns[0]).Sub(at)
	_ = cmd.Wait() // it was killed
	t.Logf("the connection ended %v after the kill, the process %v", heard, time.Since(at))
	gone(t, child)
}

// gone waits for the end of a process that is no child of this one.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		// Where nobody reaps orphans it stays as a zombie.
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d still lives", pid)
		}
	}
}

// Without its child a process goes on, and its connections end with it.
func TestChildDies(t *testing.T) {
	cmd, conns := mourn(t)
	child := childOf(t, cmd.Process.Pid)
	if err := unix.Kill(child, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, child)
	if err := conns[0].SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conns[0].Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection ended with the child: %v", err)
	}
	if err := conns[0].SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended(t, "the connection", conns[0])
}

// The signals of a terminal are the parent's to handle.
func TestSignalsDoNotEndTheChild(t *testing.T) {
	cmd, conns := mourn(t)
	child := childOf(t, cmd.Process.Pid)
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if err := unix.Kill(child, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended(t, "the connection", conns[0])
	gone(t, child)
}

// A nil Will keeps nothing.
func TestNoWill(t *testing.T) {
	var w *Will
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	w.Keep(a)()
}
