package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/load"
)

const (
	maxConnections = 64
	maxWait        = 6 * time.Minute
	pollInterval   = 50 * time.Millisecond
	statusTimeout  = 3 * time.Second
	verifyTimeout  = 2 * time.Minute
	bootTimeout    = 5 * time.Minute
)

// client is what this program does. Its methods may be called by several
// goroutines.
type client struct {
	redis, vm string
	arbiters  []*grpc.ClientConn

	mu   sync.Mutex
	load *load.Load // that runs, or nil
}

func newClient(redis string, arbiters []string, vm string) (*client, error) {
	c := &client{redis: redis, vm: vm}
	for _, addr := range arbiters {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			c.close()
			return nil, fmt.Errorf("arbiter %s: %w", addr, err)
		}
		c.arbiters = append(c.arbiters, conn)
	}
	return c, nil
}

func (c *client) close() {
	for _, conn := range c.arbiters {
		_ = conn.Close() // only reads
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load != nil {
		c.load.Stop()
	}
}

// Errors that have status codes of their own.
var (
	errBad  = errors.New("bad request")
	errNow  = errors.New("not now")
	errLate = errors.New("did not come to pass")
)

func (c *client) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(*http.Request) ([]byte, error){
		"GET /healthz": func(*http.Request) ([]byte, error) { return []byte("ok\n"), nil },
		"GET /status":  c.getStatus,
		"GET /owner":   c.owner,
		"GET /wait":    c.wait,
		"POST /load":   c.begin,
		"GET /load":    c.watch,
		"POST /stop":   c.stop,
		"POST /verify": c.verify,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := f(r)
			if err != nil {
				code := http.StatusBadGateway
				switch {
				case errors.Is(err, errBad):
					code = http.StatusBadRequest
				case errors.Is(err, errNow):
					code = http.StatusConflict
				case errors.Is(err, errLate):
					code = http.StatusGatewayTimeout
				}
				http.Error(w, err.Error(), code)
				return
			}
			_, _ = w.Write(body) // who asked may have gone
		})
	}
	return mux
}

// status asks all arbiters at once. The owner knows more than the record, so the
// others count only where it does not answer.
func (c *client) status(ctx context.Context) (*pb.VMStatus, error) {
	s, _, err := c.ask(ctx)
	return s, err
}

// ask returns what the arbiters say, and the address of the one that owns the
// VM, or nothing.
func (c *client) ask(ctx context.Context) (best *pb.VMStatus, owner string, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	type answer struct {
		from   string
		status *pb.VMStatus
		err    error
	}
	answers := make(chan answer, len(c.arbiters))
	for _, conn := range c.arbiters {
		go func() {
			s, err := pb.NewAdminClient(conn).GetVM(ctx, &pb.GetVMRequest{Vm: c.vm})
			answers <- answer{strings.TrimPrefix(conn.Target(), "passthrough:///"), s, err}
		}()
	}
	for range c.arbiters {
		a := <-answers
		switch {
		case a.err != nil:
			err = a.err
		case owned(a.status):
			return a.status, a.from, nil
		default:
			best = a.status
		}
	}
	if best == nil {
		return nil, "", fmt.Errorf("no arbiter tells: %w", err)
	}
	return best, "", nil
}

func (c *client) getStatus(r *http.Request) ([]byte, error) {
	s, err := c.status(r.Context())
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(s)
}

// owned tells whether who gave this status owns the VM: others do not know what
// its replicas are.
func owned(s *pb.VMStatus) bool {
	return slices.ContainsFunc(s.GetReplicas(), func(r *pb.ReplicaStatus) bool { return r.GetRole() != pb.Role_ROLE_UNSPECIFIED })
}

// owner answers with the address of the arbiter that owns the VM.
func (c *client) owner(r *http.Request) ([]byte, error) {
	_, owner, err := c.ask(r.Context())
	if err == nil && owner == "" {
		err = fmt.Errorf("%w: no arbiter says that it owns the VM", errNow)
	}
	return []byte(owner + "\n"), err
}

// wait answers when the VM is in a mode and a term above one.
func (c *client) wait(r *http.Request) ([]byte, error) {
	q := r.URL.Query()
	number, ok := pb.Mode_value["MODE_"+strings.ToUpper(q.Get("mode"))]
	if !ok {
		return nil, fmt.Errorf("%w: mode=%q is not solo, syncing, protected or ended", errBad, q.Get("mode"))
	}
	after, err := strconv.ParseUint(orElse(q.Get("after"), "0"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: after: %w", errBad, err)
	}
	timeout, err := time.ParseDuration(orElse(q.Get("timeout"), "60s"))
	if err != nil || timeout > maxWait {
		return nil, fmt.Errorf("%w: timeout=%q must be a time of at most %v", errBad, q.Get("timeout"), maxWait)
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	last := "nothing was heard"
	for {
		s, err := c.status(ctx)
		switch {
		case err == nil && s.GetRecord().GetMode() == pb.Mode(number) && s.GetRecord().GetTerm() > after:
			return protojson.Marshal(s)
		case err == nil:
			last = fmt.Sprintf("%v in term %d: %s", s.GetRecord().GetMode(), s.GetRecord().GetTerm(), s.GetSummary())
		case ctx.Err() == nil:
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w within %v; last: %s", errLate, timeout, last)
		case <-tick.C:
		}
	}
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// begin opens the connections, as soon as the guest takes them; the guest may
// still be booting.
func (c *client) begin(r *http.Request) ([]byte, error) {
	writers, err := strconv.Atoi(orElse(r.URL.Query().Get("writers"), "4"))
	readers, err2 := strconv.Atoi(orElse(r.URL.Query().Get("readers"), "2"))
	if err := errors.Join(err, err2); err != nil || writers < 1 || readers < 0 || writers+readers > maxConnections {
		return nil, fmt.Errorf("%w: at least one writer and at most %d connections", errBad, maxConnections)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load != nil {
		return nil, fmt.Errorf("%w: a load runs already", errNow)
	}
	ctx, cancel := context.WithTimeout(r.Context(), bootTimeout)
	defer cancel()
	l, err := load.Start(c.redis, writers, readers)
	for err != nil {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w within %v: %w", errLate, bootTimeout, err)
		case <-time.After(pollInterval):
		}
		l, err = load.Start(c.redis, writers, readers)
	}
	c.load = l
	return reply(report{Connections: writers + readers})
}

// report is what the clients saw.
type report struct {
	Connections      int     `json:"connections"`
	ConnectionsLost  int     `json:"connections_lost"`
	Acked            int64   `json:"acked"`
	AckedByWriter    []int64 `json:"acked_by_writer,omitempty"`
	Reads            int64   `json:"reads"`
	Lost             int64   `json:"lost"`
	Wrong            int64   `json:"wrong"`
	LongestWaitMilli int64   `json:"longest_wait_ms"`
	Problem          string  `json:"problem,omitempty"`
}

func reply(r report) ([]byte, error) {
	b, err := json.Marshal(r)
	return append(b, '\n'), err
}

func (c *client) watch(r *http.Request) ([]byte, error) {
	since, err := time.ParseDuration(orElse(r.URL.Query().Get("since"), "1h"))
	if err != nil {
		return nil, fmt.Errorf("%w: since: %w", errBad, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load == nil {
		return nil, fmt.Errorf("%w: no load runs", errNow)
	}
	return reply(report{Acked: c.load.Acked(), AckedByWriter: c.load.AckedByWriter(),
		LongestWaitMilli: c.load.LongestGap(time.Now().Add(-since)).Milliseconds()})
}

func (c *client) stop(r *http.Request) ([]byte, error) {
	c.mu.Lock()
	l := c.load
	c.load = nil
	c.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%w: no load runs", errNow)
	}
	res := l.Stop()
	ctx, cancel := context.WithTimeout(r.Context(), verifyTimeout)
	defer cancel()
	lost, err := l.Verify(ctx)
	if err != nil {
		return nil, err
	}
	return reply(report{Connections: res.Connections, ConnectionsLost: res.ConnectionsLost, Acked: res.Acked,
		AckedByWriter: l.AckedByWriter(), Reads: res.Reads, Lost: lost, Wrong: res.Wrong, Problem: res.Problem,
		LongestWaitMilli: l.LongestGap(time.Time{}).Milliseconds()})
}

func (c *client) verify(r *http.Request) ([]byte, error) {
	var acked []int64
	var sum int64
	for text := range strings.SplitSeq(r.URL.Query().Get("acked"), ",") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%w: acked=N,N,… are numbers of writes", errBad)
		}
		acked, sum = append(acked, n), sum+n
	}
	ctx, cancel := context.WithTimeout(r.Context(), verifyTimeout)
	defer cancel()
	lost, err := load.Verify(ctx, c.redis, acked)
	if err != nil {
		return nil, err
	}
	return reply(report{Acked: sum, AckedByWriter: acked, Lost: lost})
}
