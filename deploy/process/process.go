// Package process runs programs with a log file each, which end with whoever
// started them at the latest.
package process

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

	"github.com/understudy-ft/understudy/deploy/network"
)

// Process is a program that was started.
type Process struct {
	Name      string
	namespace *os.File
	cmd       *exec.Cmd
	log       *os.File
	done      chan struct{}
	err       error
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

// Start runs bin with args, its output appended to name.log in dir.
func Start(dir, name, bin string, args ...string) (*Process, error) {
	return StartIn(nil, dir, name, bin, args...)
}

// StartIn is Start in another network namespace than this process's; nil: the
// same. The file must stay open for Again.
func StartIn(namespace *os.File, dir, name, bin string, args ...string) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, namespace: namespace, log: log, done: make(chan struct{})}
	p.cmd = exec.Command(bin, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A session of its own: Ctrl-C does not reach it, and the kernel's scheduler,
	// which shares the CPUs out by sessions (sched_autogroup), treats it like a
	// host of its own.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	started := make(chan error)
	starter <- func() {
		if namespace == nil {
			started <- p.cmd.Start()
		} else {
			started <- network.Within(namespace, p.cmd.Start)
		}
	}
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

// Again starts a process that has ended again, with its old command line and
// log file.
func (p *Process) Again() (*Process, error) { return p.AgainFrom(filepath.Dir(p.cmd.Path)) }

// AgainFrom is Again with the program of this name in another directory.
func (p *Process) AgainFrom(bin string) (*Process, error) {
	return StartIn(p.namespace, filepath.Dir(p.log.Name()), p.Name, filepath.Join(bin, filepath.Base(p.cmd.Path)), p.cmd.Args[1:]...)
}

// Log returns what the process has written so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// LogTail returns the last lines of the process's log.
func (p *Process) LogTail(lines int) string {
	all := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ErrEnded is wrapped by Alive's error.
var ErrEnded = errors.New("process ended")

// Alive returns an error that says how if one of the processes has ended.
func Alive(processes ...*Process) error {
	for _, p := range processes {
		select {
		case <-p.Done():
			return fmt.Errorf("%s: %w (%v):\n%s", p.Name, ErrEnded, p.Err(), p.LogTail(5))
		default:
		}
	}
	return nil
}
