package main

import (
	"crypto/tls"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/identity/identitytest"
	"github.com/understudy-ft/understudy/services/uplink"
)

func TestOnlyReplicasConnectOverTLS(t *testing.T) {
	ours, others := identitytest.New(t), identitytest.New(t)
	aGateway, web := identity.ID{Role: identity.Gateway}, identity.ID{Role: identity.Replica, Name: "web"}
	cfg := testConfig(t)
	cfg.Listen = []string{"127.0.0.1:0"}
	cfg.Identity = ours.Source(t, aGateway)
	g := startGateway(t, cfg)
	plugTLS := func(secure *tls.Config) *replica {
		r := &replica{heard: make(chan []byte, 1000)}
		up, err := uplink.OpenTLS("gateway:"+g.listeners[0].Addr().String(), func(f []byte) { r.heard <- f }, secure, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { up.Close() })
		r.Uplink = up
		r.Mute(false)
		return r
	}
	refused := []*replica{
		plugTLS(nil),
		plugTLS(others.Source(t, web).ClientTLS(aGateway)),
		plugTLS(ours.Source(t, identity.ID{Role: identity.Operator}).ClientTLS(aGateway)),
		// A gateway is no arbiter.
		plugTLS(ours.Source(t, web).ClientTLS(identity.ID{Role: identity.Arbiter})),
	}
	secure := ours.Source(t, web).ClientTLS(aGateway)
	a, b := plugTLS(secure), plugTLS(secure)
	// An uplink may send before the gateway has connected another's port, which
	// then does not hear it.
	eventually(t, "both are connected", func() bool { return g.ports() == 2 })
	a.tell(t, b, frameOf(all, guestA, "a"))
	b.tell(t, a, frameOf(all, guestB, "b"))
	b.tell(t, a, frameOf(guestA, guestB, "request"))
	if n := g.ports(); n != 2 {
		t.Errorf("%d ports", n)
	}
	for i, r := range refused {
		if len(r.heard) > 0 {
			t.Errorf("refused uplink %d heard %x", i, <-r.heard)
		}
	}
}
