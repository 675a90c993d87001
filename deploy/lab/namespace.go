package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/understudy-ft/understudy/deploy/network"
	"github.com/understudy-ft/understudy/services/cli"
)

// Values of --links.
const (
	linksAuto    = "auto"
	linksBridge  = "bridge"
	linksSockets = "sockets"
)

// exitNoBridge is the exit code of a lab in a new namespace that can make no
// bridge there.
const exitNoBridge = 3

// endGrace is how long a lab in a namespace has to end its hosts in order.
const endGrace = 20 * time.Second

// enter runs the lab again in a network namespace of its own, which goes with
// it, if --links is auto. inside tells whether that was it; otherwise this
// process is to tell the stories, with o.links set to how.
func (o *options) enter(ctx context.Context) (inside bool, err error) {
	switch o.links {
	case linksBridge, linksSockets:
		return false, nil
	case linksAuto:
	default:
		return false, fmt.Errorf("--links %q: must be auto, bridge or sockets (%w)", o.links, cli.ErrUsage)
	}
	self, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find this program: %w", err)
	}
	// The child ends with this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, append(os.Args[1:len(os.Args):len(os.Args)], "--links", linksBridge)...)
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	network.Isolate(cmd)
	if err := cmd.Start(); err != nil {
		fmt.Printf("no network namespace can be made (%v): the hosts are linked by sockets\n", err)
		o.links = linksSockets
		return false, nil
	}
	err = cmd.Wait()
	var ended *exec.ExitError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &ended) && ended.ExitCode() == exitNoBridge:
		o.links = linksSockets
		return false, nil
	case errors.As(err, &ended) && ended.ExitCode() > 0:
		os.Exit(ended.ExitCode()) // it said why
	}
	return true, fmt.Errorf("the lab in its network namespace: %w", err)
}

// namespaceEnv tells the lab that its namespace was made for it.
const namespaceEnv = "UNDERSTUDY_LAB_NAMESPACE"

// makeNetwork makes what links the hosts. Its sockets and logs are in dir.
func (o *options) makeNetwork(dir string) (fabric, error) {
	if o.links == linksSockets {
		return newSockets(o.bin, dir)
	}
	b, err := newBridge()
	if err != nil && os.Getenv(namespaceEnv) != "" {
		fmt.Printf("%v: the hosts are linked by sockets\n", err)
		os.Exit(exitNoBridge)
	}
	return b, err
}
