// Command checks is the client of a deployment: it loads the guest's Redis over
// connections that it never opens again, remembers what was acknowledged, reads
// it back, and asks the arbiters about the VM. It runs where the clients are,
// and is told what to do over HTTP on its own loopback:
//
//	GET  /status                  the VM as the first arbiter that answers knows it
//	GET  /wait?mode=protected&after=TERM&timeout=60s
//	                              the same, once it is in that mode and a later term
//	GET  /owner                   the address of the arbiter that owns the VM
//	POST /load?writers=4&readers=2   connect and begin
//	GET  /load?since=DURATION     what the clients see; the longest wait of the last DURATION
//	POST /stop                    end the load and read everything back
//	POST /verify?acked=N,N,…      read back what an earlier life of this program wrote
//
// Answers are JSON, an error is a status code and one line. --ask does one such
// request from the command line, so that the image needs no other program:
// docker exec … /checks --ask 'GET /status'.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
)

// askTimeout bounds a request of --ask; waits have bounds of their own below it.
const askTimeout = 8 * time.Minute

func main() {
	cmd := cli.New("checks", "loads a protected VM's Redis and checks that nothing acknowledged is lost")
	redis := cmd.String("redis", "127.0.0.1:6379", "`ADDR` of the guest's Redis")
	arbiters := cli.NewList("127.0.0.1:7400")
	cmd.Var(arbiters, "arbiter", "`ADDR` of the arbiter; several separated by commas")
	vm := cmd.String("vm", "demo", "`NAME` of the VM")
	listen := cmd.String("listen", "127.0.0.1:7490", "`ADDR` to take orders on (HTTP, no authentication: keep it on loopback)")
	ask := cmd.String("ask", "", "`REQUEST` to the running program, such as 'GET /status': print the answer and exit")
	cmd.AddCheck(func(ctx context.Context) error { return request(ctx, *listen, "GET /healthz", io.Discard) })
	cmd.Examples = []string{
		"checks --redis 10.98.0.10:6379 --arbiter 10.97.0.21:7400,10.97.0.22:7400 --vm web",
		"checks --ask 'POST /load?writers=4&readers=2'",
	}
	cli.Main(cmd, func(ctx context.Context, log hclog.Logger) error {
		for name, addr := range map[string]string{"redis": *redis, "listen": *listen, "arbiter": arbiters.Values[0]} {
			if err := cli.CheckAddress(name, addr); err != nil {
				return err
			}
		}
		if *ask != "" {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			return request(ctx, *listen, *ask, os.Stdout)
		}
		c, err := newClient(*redis, arbiters.Values, *vm)
		if err != nil {
			return err
		}
		defer c.close()
		return serve(ctx, *listen, c, log)
	})
}

// request does "METHOD /path" at addr and copies the answer to out.
func request(ctx context.Context, addr, what string, out io.Writer) error {
	method, path, ok := strings.Cut(what, " ")
	if !ok || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("--ask %q: must be a method and a path, such as 'GET /status' (%w)", what, cli.ErrUsage)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, nil)
	if err != nil {
		return fmt.Errorf("--ask %q: %w (%w)", what, err, cli.ErrUsage)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask the running program: %w", err)
	}
	defer func() { _ = answer.Body.Close() }() // it was read
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(body)))
	}
	_, err = out.Write(body)
	return err
}

// serve takes orders until the context ends.
func serve(ctx context.Context, addr string, c *client, log hclog.Logger) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen (--listen): %w", err)
	}
	s := &http.Server{Handler: c.handler(), ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	log.Info("waiting for orders", "listen", ln.Addr())
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	if err := s.Close(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
