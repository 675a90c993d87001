// Package cluster runs a whole Understudy deployment as real processes on this
// machine: arbiter, gateway and replicas, each with its own log file. The demo,
// the end-to-end tests and the benchmarks share it.
package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Process is one program of a cluster.
type Process struct {
	Name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error
}

// starter starts all processes from one locked thread: the kernel ends a
// process with the thread that started it, so none outlives this one.
var starter = make(chan func())

func init() {
	go func() {
		runtime.LockOSThread()
		for fn := range starter {
			fn()
		}
	}()
}

// start runs bin with args, its output appended to name.log in dir.
func start(dir, name, bin string, env []string, args ...string) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, log: log, done: make(chan struct{})}
	p.cmd = exec.Command(bin, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	starter <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		_ = log.Close() // nothing was written
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		_ = log.Close() // the process has written what it had to
		close(p.done)
	}()
	return p, nil
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal; a process that has ended is no error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process without warning, as the loss of its host would.
func (p *Process) Kill() error {
	err := p.Signal(syscall.SIGKILL)
	<-p.done
	return err
}

// Done is closed when the process has ended; Err then tells how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is the process's error after Done, nil for exit code 0.
func (p *Process) Err() error { return p.err }

// Stop asks the process to end, and kills it where it has not after grace.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		return p.Kill()
	}
}

// LogTail returns the last lines of the process's log.
func (p *Process) LogTail(lines int) string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
