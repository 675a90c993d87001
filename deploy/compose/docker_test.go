package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// project is a deployment of docker-compose.yml that exists for one test.
type project struct {
	t       *testing.T
	name    string
	env     []string
	compose []string // the command
	// mgmt and service are the first three bytes of the networks.
	mgmt, service string
}

// newProject finds a Docker engine, a compose command and free networks.
func newProject(t *testing.T) *project {
	t.Helper()
	if os.Getenv("COMPOSE_TEST") == "" {
		t.Skip("SKIPPED, NOT TESTED: the compose test runs by `make compose-test`")
	}
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no Docker engine answers: %v\n%s", err, out)
	}
	p := &project{t: t, name: fmt.Sprintf("understudy-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()))}
	for _, c := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.Command(c[0], append(c[1:], "version")...).Run() == nil {
			p.compose = c
			break
		}
	}
	if p.compose == nil {
		t.Skip("SKIPPED, NOT TESTED: neither docker compose nor docker-compose is installed")
	}
	n := os.Getpid()
	p.mgmt = fmt.Sprintf("10.%d.%d", 64+n%32, n/32%256)
	p.service = fmt.Sprintf("10.%d.%d", 96+n%32, n/32%256)
	// All hosts share this machine with whatever else it does: a replica that
	// gets no processor for a while must not count as lost.
	p.env = append(os.Environ(), "UNDERSTUDY_HEARTBEAT_TIMEOUT=5s", "UNDERSTUDY_LEASE_TTL=8s", "COMPOSE_HTTP_TIMEOUT=300", "COMPOSE_PROJECT_NAME="+p.name, "UNDERSTUDY_MGMT="+p.mgmt, "UNDERSTUDY_SERVICE="+p.service,
		fmt.Sprintf("UNDERSTUDY_PAGE=%d", freeDecade(t)))
	return p
}

// start brings the project up, and takes it down after the test.
func (p *project) start() {
	p.t.Helper()
	p.t.Cleanup(func() {
		if p.t.Failed() {
			p.keepLogs()
		}
		p.do("down", "--volumes", "--timeout", "3")
	})
	p.up()
}

// up does not build or pull: the images are there, or the test is to fail.
func (p *project) up() {
	p.t.Helper()
	p.do("up", "--detach", "--no-build", "--quiet-pull")
}

// freeDecade returns a tenth of ports of which the first two are free.
func freeDecade(t *testing.T) int {
	t.Helper()
	free := func(port int) bool {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = ln.Close() // it only asked
		}
		return err == nil
	}
	for d := 2000 + os.Getpid()%1000; d < 6000; d++ {
		if free(10*d) && free(10*d+1) {
			return d
		}
	}
	t.Fatal("no free ports")
	return 0
}

// do runs a compose command. It may be called by a cleanup.
func (p *project) do(args ...string) {
	p.t.Helper()
	p.run(8*time.Minute, p.compose[0], append(p.compose[1:], args...)...)
}

// docker runs a docker command.
func (p *project) docker(args ...string) string {
	p.t.Helper()
	return p.run(2*time.Minute, "docker", args...)
}

func (p *project) run(timeout time.Duration, name string, args ...string) string {
	p.t.Helper()
	out, err := p.try(timeout, name, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *project) try(timeout time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = p.env
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, problems.String())
	}
	return out.String(), nil
}

// container is the full ID of a service's container.
func (p *project) container(service string) string {
	p.t.Helper()
	id := strings.TrimSpace(p.docker("ps", "--all", "--quiet", "--no-trunc",
		"--filter", "label=com.docker.compose.project="+p.name, "--filter", "label=com.docker.compose.service="+service))
	if len(strings.Fields(id)) != 1 {
		p.t.Fatalf("service %s has the containers %q", service, id)
	}
	return id
}

// ask has the client container do a request. What only reads is tried again: an
// arbiter may be too busy to answer for a moment.
func (p *project) ask(request string) (answer string) {
	p.t.Helper()
	command := []string{"exec", p.container("client"), "/checks", "--ask", request}
	if !strings.HasPrefix(request, "GET ") {
		return p.run(8*time.Minute, "docker", command...)
	}
	p.eventually(request, time.Minute, func() (err error) {
		answer, err = p.try(8*time.Minute, "docker", command...)
		return err
	})
	return answer
}

func (p *project) status(request string) *pb.VMStatus {
	p.t.Helper()
	s := &pb.VMStatus{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(p.ask(request)), s); err != nil {
		p.t.Fatalf("%s: %v", request, err)
	}
	return s
}

// report is what the client says about its load.
type report struct {
	Connections      int     `json:"connections"`
	ConnectionsLost  int     `json:"connections_lost"`
	Acked            int64   `json:"acked"`
	AckedByWriter    []int64 `json:"acked_by_writer"`
	Lost             int64   `json:"lost"`
	Wrong            int64   `json:"wrong"`
	LongestWaitMilli int64   `json:"longest_wait_ms"`
	Problem          string  `json:"problem"`
}

func (p *project) report(request string) report {
	p.t.Helper()
	return parse(p.t, p.ask(request))
}

func parse(t *testing.T, answer string) (r report) {
	t.Helper()
	if err := json.Unmarshal([]byte(answer), &r); err != nil {
		t.Fatalf("%v in the answer %s", err, answer)
	}
	return r
}

// eventually asks until ok.
func (p *project) eventually(what string, within time.Duration, ok func() error) {
	p.t.Helper()
	err := errors.New("not asked")
	for deadline := time.Now().Add(within); time.Now().Before(deadline); <-time.After(200 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	p.t.Fatalf("%s: not within %v: %v", what, within, err)
}

// keepLogs writes what the containers said into a file and its end into the
// test's log.
func (p *project) keepLogs() {
	out, err := p.try(time.Minute, p.compose[0], append(p.compose[1:], "logs", "--no-color", "--timestamps")...)
	if err != nil {
		p.t.Log(err)
		return
	}
	path := filepath.Join(os.TempDir(), p.name+".log")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		p.t.Log(err)
		return
	}
	p.t.Logf("the containers' logs are in %s", path)
}
