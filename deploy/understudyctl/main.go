// Command understudyctl asks arbiters about VMs and gives them an operator's
// orders: the calls of the Admin service by short names, with answers for people
// or, with --json, for programs. An order is given once: where it is not known
// what became of it, the error says so, and the program does not try again.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/identity"
)

// options are the command line's.
type options struct {
	arbiters *cli.List
	json     bool
	timeout  time.Duration
	tls      *identity.Flags
}

func command() (*cli.Command, *options) {
	c := cli.New("understudyctl", "shows protected VMs and gives their arbiters orders")
	o := &options{arbiters: cli.NewList("127.0.0.1:7400")}
	c.Takes = "VERB [ARGUMENT…]"
	var b strings.Builder
	b.WriteString("Verbs:\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range verbs {
		fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(v.name+" "+v.takes), v.does)
	}
	_ = w.Flush() // to memory
	c.About = strings.TrimSuffix(b.String(), "\n")
	c.Examples = []string{
		"understudyctl list",
		"understudyctl --arbiter 10.0.0.3:7400,10.0.0.4:7400 --tls-ca ca.pem --tls-cert operator.pem --tls-key operator.key switchover web",
		"understudyctl set-policy web compare_max_ms=1500 flow_rules='tcp 10.0.0.2:443 > any: pass'",
		"understudyctl bundle web > bundle.tar.gz",
	}
	c.Var(o.arbiters, "arbiter", "`ADDR` of an arbiter; several separated by commas: the first that is well is asked, and the VM's owner")
	c.BoolVar(&o.json, "json", false, "print answers as the Admin service's JSON")
	c.DurationVar(&o.timeout, "timeout", 0, "`TIME` to wait for the answer (default: as long as the order can take); events end after it")
	o.tls = identity.AddFlags(c)
	return c, o
}

func main() {
	c, o := command()
	cli.Main(c, func(ctx context.Context, log hclog.Logger) error { return run(ctx, c.Operands, o, log, os.Stdout) })
}

// run does what the operands say and writes the answer to w.
func run(ctx context.Context, operands []string, o *options, log hclog.Logger, w io.Writer) error {
	v, in, err := parse(operands)
	if err != nil {
		return fmt.Errorf("%w (%w)", err, cli.ErrUsage)
	}
	var addresses []identity.Address
	for _, addr := range o.arbiters.Values {
		if err := cli.CheckAddress("arbiter", addr); err != nil {
			return err
		}
		addresses = append(addresses, identity.Address{Flag: "arbiter", Addr: addr})
	}
	source, err := o.tls.Load(identity.ID{}, log, addresses...)
	if err != nil {
		return err
	}
	if o.timeout > 0 {
		v.limit = o.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, v.limit)
	defer cancel()
	s := &service{creds: source.ClientCredentials(identity.ID{Role: identity.Arbiter})}
	defer s.close()
	return s.do(ctx, o.arbiters.Values, v, in, printer{w, o.json, v.print})
}
