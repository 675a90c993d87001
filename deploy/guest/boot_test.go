package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The image that was built boots on another machine model than ours, serves
// Redis from its disk, and powers off when the service ends.
func TestImageBootsUnderQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: boots a machine")
	}
	give := t.Skipf
	if os.Getenv("CI") == "true" {
		give = t.Fatalf
	}
	image := filepath.Join("..", "..", "build", "guest", "rv64")
	for _, name := range []string{"Image", "initrd", "cmdline"} {
		if _, err := os.Stat(filepath.Join(image, name)); err != nil {
			give("SKIPPED: run make guest first: %v", err)
		}
	}
	for _, tool := range []string{"qemu-system-riscv64", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			give("SKIPPED: %v", err)
		}
	}
	cmdline, err := os.ReadFile(filepath.Join(image, "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()

	disk := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(32 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}

	// What the first guest stored, the second has.
	for _, dialogue := range [][][2]string{
		{{"SET colour blue", "+OK"}, {"CONFIG GET appendonly", "*2"}},
		{{"GET colour", "$4"}},
	} {
		m := bootQEMU(t, ctx, image, disk, strings.TrimSpace(string(cmdline))+" ud.ip=192.168.127.2/24 ud.gw=192.168.127.1 ud.service=redis,httpd ud.disk=/dev/vda")
		m.await(t, "understudy-guest: ready")
		conn, err := net.Dial("tcp", m.redis)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answers := bufio.NewReader(conn)
		for _, line := range dialogue {
			fmt.Fprintf(conn, "%s\r\n", line[0])
			if answer, err := answers.ReadString('\n'); err != nil || strings.TrimSpace(answer) != line[1] {
				t.Fatalf("%s: %q, %v", line[0], answer, err)
			}
		}
		fmt.Fprint(conn, "SHUTDOWN\r\n")
		conn.Close()
		m.await(t, "understudy-guest: stopping")
		if err := m.cmd.Wait(); err != nil {
			t.Fatalf("the machine ended with %v:\n%s", err, m.console.String())
		}
		if strings.Contains(m.console.String(), "error:") {
			t.Fatalf("the guest complained:\n%s", m.console.String())
		}
	}
}

type machine struct {
	cmd     *exec.Cmd
	lines   *bufio.Scanner
	console strings.Builder
	redis   string // host's address of the guest's Redis
}

func bootQEMU(t *testing.T, ctx context.Context, image, disk, arguments string) *machine {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{redis: free.Addr().String()}
	free.Close()
	m.cmd = exec.CommandContext(ctx, "qemu-system-riscv64", "-M", "virt", "-m", "256", "-nodefaults", "-display", "none",
		"-serial", "stdio", "-no-reboot", "-kernel", filepath.Join(image, "Image"), "-initrd", filepath.Join(image, "initrd"),
		"-append", arguments,
		"-netdev", "user,id=n,net=192.168.127.0/24,host=192.168.127.1,hostfwd=tcp:"+m.redis+"-192.168.127.2:6379",
		"-device", "virtio-net-device,netdev=n", "-device", "virtio-rng-device",
		"-drive", "if=none,id=d,format=raw,file="+disk, "-device", "virtio-blk-device,drive=d")
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.cmd.Stderr = &m.console
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.cmd.Process.Kill() })
	m.lines = bufio.NewScanner(out)
	return m
}

// await reads the console up to a line.
func (m *machine) await(t *testing.T, line string) {
	t.Helper()
	for m.lines.Scan() {
		text := strings.TrimSpace(m.lines.Text())
		fmt.Fprintln(&m.console, text)
		if strings.HasSuffix(text, line) {
			return
		}
	}
	_ = m.cmd.Wait()
	t.Fatalf("the console ended without %q:\n%s", line, m.console.String())
}
