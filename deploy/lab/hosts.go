package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/initrd"
	"github.com/understudy-ft/understudy/deploy/lab/kvmhost"
	"github.com/understudy-ft/understudy/deploy/process"
	"github.com/understudy-ft/understudy/deploy/watch"
)

// hosts are the lab's, with the programs that they run.
type hosts struct {
	*options
	dir      string
	network  fabric
	arbiter  *kvmhost.Host
	replicas []*kvmhost.Host
	conn     *grpc.ClientConn
}

const (
	vmName   = "lab"
	etcdPort = "2379"
	feedPort = "7410"
)

// patience is what the programs are told so that the slowness of emulated hosts
// on a busy machine does not look like a loss or a disagreement.
const (
	heartbeatTimeout = "8s"
	arbiterPatience  = "--heartbeat-timeout " + heartbeatTimeout +
		" --compare-idle 1s --compare-max 10s --lease-ttl 15s --lease-margin 2s --sync-timeout 60s"
)

// runScript starts a program and, as its systemd unit does, starts it again
// whenever it ends, but after a wrong command line.
const runScript = `#!/bin/sh
hostname %s
ifconfig eth0 192.168.127.%d netmask 255.255.255.0 up
while :; do
	/host/%s %s
	[ $? = 2 ] && exit 2
	sleep 1
done
`

// check says what is missing for a lab.
func check(o *options) error {
	for _, name := range []string{"arbiter", "primary", "secondary", "gateway"} {
		if _, err := os.Stat(filepath.Join(o.bin, name)); err != nil {
			return fmt.Errorf("binaries are missing, run `make build`: %w", err)
		}
	}
	return kvmhost.Check(o.guest)
}

// startHosts starts the network and an arbiter.
func (o *options) startHosts(cpus int) (_ *hosts, err error) {
	h := &hosts{options: o, dir: filepath.Join(o.dir, fmt.Sprintf("%d-cpu", cpus))}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.network, err = o.makeNetwork(h.dir); err != nil {
		return nil, err
	}
	if h.conn, err = grpc.NewClient("passthrough:///"+h.network.arbiter(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return nil, err
	}
	// Nobody but the hosts is on this network.
	if h.arbiter, err = h.start("arbiter", 10, "arbiter", nil, fmt.Sprintf(
		"--insecure --listen %s:%s --http off --data-dir /tmp/etcd --etcd-listen %s:%s %s", arbiterIP, arbiterPort, arbiterIP, etcdPort, arbiterPatience)); err != nil {
		return nil, err
	}
	return h, nil
}

// boot starts the primary, for a guest with so many vCPUs.
func (h *hosts) boot(cpus int) error {
	line, err := os.ReadFile(filepath.Join(h.guest, "cmdline"))
	if err != nil {
		return err
	}
	return h.replica("primary", "primary", []initrd.File{
		{Name: "host/bzImage", From: filepath.Join(h.guest, "bzImage")},
		{Name: "host/initrd", From: filepath.Join(h.guest, "initrd")},
	}, fmt.Sprintf("--or-spare --engine kvm --kernel /host/bzImage --initrd /host/initrd --memory %s --cpus %d --append '%s ud.ip=%s/24 ud.gw=%s ud.service=redis'",
		h.memory, cpus, strings.TrimSpace(string(line)), cluster.GuestIP, clientIP))
}

// protect starts the secondaries.
func (h *hosts) protect() error {
	for n := range h.secondaries {
		if err := h.replica(fmt.Sprintf("secondary-%d", n+1), "secondary", nil, ""); err != nil {
			return err
		}
	}
	return nil
}

func (h *hosts) replica(name, program string, files []initrd.File, args string) error {
	n := 11 + len(h.replicas)
	r, err := h.start(name, n, program, files, fmt.Sprintf(
		"--insecure --vm %s --name %s --arbiter %s:%s --listen 192.168.127.%d:%s --uplink tap:vm0,bridge=br0,port=eth0 --console - --heartbeat-timeout %s %s",
		vmName, name, arbiterIP, arbiterPort, n, feedPort, heartbeatTimeout, args))
	if err == nil {
		h.replicas = append(h.replicas, r)
	}
	return err
}

// start starts host number n of the network with one of the programs.
func (h *hosts) start(name string, n int, program string, files []initrd.File, args string) (*kvmhost.Host, error) {
	netdev, err := h.network.link()
	if err != nil {
		return nil, err
	}
	return kvmhost.Start(kvmhost.Config{
		Name: name, Dir: h.dir, Images: h.guest, NetDev: netdev, MAC: fmt.Sprintf("52:54:00:1a:b0:%02x", n),
		Files: append(files,
			initrd.File{Name: "host/" + program, From: filepath.Join(h.bin, program)},
			initrd.File{Name: "host/run", Text: fmt.Sprintf(runScript, name, n, program, args)}),
	})
}

// watch is the VM as the arbiter knows it.
func (h *hosts) watch() watch.VM { return watch.VM{Name: vmName, Admin: pb.NewAdminClient(h.conn)} }

// alive fails once the arbiter's host has ended.
func (h *hosts) alive() error { return process.Alive(h.arbiter.Process) }

// of is the host of a replica.
func (h *hosts) of(replica string) (*kvmhost.Host, error) {
	for _, r := range h.replicas {
		if strings.HasPrefix(replica, r.Name+"-") {
			return r, nil
		}
	}
	return nil, fmt.Errorf("no host has replica %q", replica)
}

// tails are the last lines of all consoles.
func (h *hosts) tails() string {
	var b strings.Builder
	for _, r := range append([]*kvmhost.Host{h.arbiter}, h.replicas...) {
		fmt.Fprintf(&b, "--- %s\n%s\n", r.Name, r.LogTail(12))
	}
	return b.String()
}

// close ends all hosts, and what links them.
func (h *hosts) close() (err error) {
	if h.conn != nil {
		_ = h.conn.Close() // its server ends next
	}
	for _, r := range append(h.replicas, h.arbiter) {
		if r != nil {
			err = errors.Join(err, r.Kill())
		}
	}
	if h.network != nil {
		err = errors.Join(err, h.network.close())
	}
	return err
}
