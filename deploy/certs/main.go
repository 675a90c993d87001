// Command certs makes the certificates of a deployment: a CA of its own, and a
// certificate for each party, whose role it says (package identity).
//
//	certs --out pki --vm web --vm db --hosts 10.0.0.1,10.0.0.2,10.0.0.3
//	certs renew --out pki
//
// The directory then holds, for each party, NAME.pem and NAME.key beside ca.pem:
//
//	ca.pem ca.key          the CA; ca.key stays on the operator's machine
//	arbiter.pem .key       for every arbiter
//	operator.pem .key      for calls of Admin
//	gateway.pem .key       for user-mode gateways
//	etcd.pem .key          for the members of an external etcd cluster
//	replica-VM.pem .key    for the primary and the secondaries of a VM
//
// Run again with another --vm it adds what is missing. It never overwrites;
// renew makes new keys and certificates for the parties that are there, under
// the same CA.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
)

const day = 24 * time.Hour

func main() {
	// The only word that is not a flag.
	renewing := len(os.Args) > 1 && os.Args[1] == "renew"
	name, summary := "certs", "makes a CA and the certificates of all parties of a deployment"
	if renewing {
		os.Args = append(os.Args[:1], os.Args[2:]...)
		name, summary = "certs renew", "replaces the certificates in a directory by new ones of the same CA; running parties take them without a restart"
	}
	cmd := cli.New(name, summary)
	cmd.Examples = []string{
		"certs --out pki --vm web --hosts 10.0.0.1,10.0.0.2,10.0.0.3",
		"certs --out pki --vm db        # adds a VM",
		"certs renew --out pki",
		"arbiter --listen 10.0.0.3:7400 --tls-ca pki/ca.pem --tls-cert pki/arbiter.pem --tls-key pki/arbiter.key",
	}
	out := cmd.String("out", "pki", "`DIR` of the certificates")
	life := cmd.Duration("life", 365*day, "`TIME` that parties' certificates last")
	if renewing {
		cli.Main(cmd, func(_ context.Context, log hclog.Logger) error {
			return told(renew(*out, *life, time.Now()))
		})
	}
	vms, hosts := cli.NewList(), cli.NewList("localhost", "127.0.0.1", "::1")
	cmd.Var(vms, "vm", "`NAME` of a VM to make a replica's certificate for (repeatable)")
	cmd.Var(hosts, "hosts", "`HOSTS`, names and IP addresses, separated by commas, for tools that look at them.\nThe parties themselves look at roles only")
	caLife := cmd.Duration("ca-life", 3650*day, "`TIME` that the CA lasts")
	cli.Main(cmd, func(_ context.Context, log hclog.Logger) error {
		return told(create(plan{Dir: *out, VMs: vms.Values, Hosts: hosts.Values, CALife: *caLife, Life: *life}, time.Now()))
	})
}

// told prints which files were made.
func told(files []string, err error) error {
	for _, f := range files {
		fmt.Println(f)
	}
	return err
}
