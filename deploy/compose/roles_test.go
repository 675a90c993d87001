package compose

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/identity"
)

// The files of the roles, on four addresses of this machine instead of four
// hosts, with certificates: a VM comes up and is protected, and every container
// says that it is well.
func TestRoles(t *testing.T) {
	p := newProject(t)
	guest, err := filepath.Abs("../../build/guest/rv64")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(guest, "Image")); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no guest: %v", err)
	}
	dir := t.TempDir()
	pki := filepath.Join(dir, "pki")
	n := os.Getpid()
	host := func(i int) string { return fmt.Sprintf("127.%d.%d.%d", 10+n%200, n/200%250, i) }
	// etcd's own tools look at addresses, too.
	p.run(time.Minute, "go", "run", "../certs", "--out", pki, "--vm", "web", "--hosts", host(1))
	readable(t, dir)
	env := append(p.env, "UNDERSTUDY_PKI="+pki, "UNDERSTUDY_NAME=etcd-1",
		"UNDERSTUDY_MEMBERS=etcd-1=https://"+host(1)+":2380", "UNDERSTUDY_ETCD=https://"+host(1)+":2379",
		"UNDERSTUDY_ARBITERS="+host(2)+":7400", "UNDERSTUDY_PAGE="+host(2)+":7480", "UNDERSTUDY_VM=web", "UNDERSTUDY_UPLINK=none",
		"UNDERSTUDY_GUEST="+guest, "UNDERSTUDY_MEMORY=128M", "UNDERSTUDY_APPEND=console=ttyS0 quiet ud.ip=10.0.0.9/24 ud.service=httpd")
	for i, role := range []string{"etcd", "arbiter", "primary", "secondary"} {
		one := *p // each role is a project of its own, as on a host of its own
		one.name = p.name + "-" + role
		disks := filepath.Join(dir, role)
		if err := os.Mkdir(disks, 0o700); err != nil {
			t.Fatal(err)
		}
		if role == "primary" {
			disk(t, filepath.Join(disks, "web.img"))
		}
		one.env = append(env[:len(env):len(env)], "COMPOSE_PROJECT_NAME="+one.name, "UNDERSTUDY_ADDRESS="+host(i+1), "UNDERSTUDY_DISKS="+disks)
		one.compose = append(p.compose[:len(p.compose):len(p.compose)], "-f", "hosts/"+role+".yml")
		one.start()
	}

	operator, err := identity.Load(identity.Files{CA: filepath.Join(pki, "ca.pem"), Cert: filepath.Join(pki, "operator.pem"),
		Key: filepath.Join(pki, "operator.key")}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(host(2)+":7400", grpc.WithTransportCredentials(operator.ClientCredentials(identity.ID{Role: identity.Arbiter})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // only reads
	p.eventually("protection", protectedWithin, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := pb.NewAdminClient(conn).GetVM(ctx, &pb.GetVMRequest{Vm: "web"})
		if err == nil && s.GetRecord().GetMode() != pb.Mode_MODE_PROTECTED {
			err = fmt.Errorf("%v: %s", s.GetRecord().GetMode(), s.GetSummary())
		}
		return err
	})
	p.healthy("etcd", "arbiter", "primary", "secondary")
}

// healthy waits until the containers whose names begin with the project's say
// that they are well.
func (p *project) healthy(services ...string) {
	p.t.Helper()
	p.eventually("all containers are healthy", protectedWithin, func() error {
		out, err := p.try(time.Minute, "docker", "ps", "--filter", "name="+p.name, "--filter", "health=healthy", "--format", "{{.Names}}")
		if names := strings.Fields(out); err == nil && len(names) != len(services) {
			err = fmt.Errorf("of %v only %v are", services, names)
		}
		return err
	})
}

// readable lets the containers' users read their keys, in a directory that nobody
// else comes into.
func readable(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch {
		case os.Getuid() != 0:
			return os.Chmod(path, 0o644)
		case d.Name() == "etcd.key" || d.Name() == "arbiter.key":
			return os.Chown(path, 65532, 65532)
		}
		return nil // the replicas are root's, without the right to read everything
	})
	if err == nil {
		err = os.Chmod(filepath.Join(dir, "pki"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// disk makes an empty image: this guest does not mount it.
func disk(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<20); err != nil {
		t.Fatal(err)
	}
}
