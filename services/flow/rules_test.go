package flow

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func rulesOf(t testing.TB, texts ...string) *Rules {
	t.Helper()
	rs, err := ParseRules(texts)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func TestRulesAreReadAndWritten(t *testing.T) {
	for in, out := range map[string]string{
		"tcp 10.0.0.2:443 > any: pass":                    "",
		"udp any > 10.0.0.0/8:5000-5010: bypass":          "",
		"tcp [fd00::2]:443 > fd00::/64 vlan 5.7: compare": "",
		"  any   any >  any  :  pass ":                    "any any > any: pass",
		"6 any:443-443 > 10.0.0.9/32:pass":                "tcp any:443 > 10.0.0.9: pass",
		"132 10.0.0.2 > any: bypass":                      "",
		"icmpv6 any > [2001:db8::/32]: pass":              "icmpv6 any > 2001:db8::/32: pass",
		"icmp any > any vlan 0: pass":                     "",
	} {
		if out == "" {
			out = in
		}
		rs := rulesOf(t, in)
		if got := rs.Texts(); len(got) != 1 || got[0] != out {
			t.Errorf("%q reads %q, want %q", in, got, out)
		}
		if again := rulesOf(t, out).Texts(); again[0] != out {
			t.Errorf("%q reads %q", out, again)
		}
	}
	if rs, err := ParseRules(nil); rs != nil || err != nil || rs.Texts() != nil {
		t.Errorf("no rules: %v %v", rs, err)
	}
}

func TestWrongRulesSayWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                                           "PROTO GUEST > PEER: ACTION",
		"tcp any > any":                              "PROTO GUEST > PEER: ACTION",
		"tcp any any: pass":                          "PROTO GUEST > PEER: ACTION",
		"tcp any > any vlan: pass":                   "PROTO GUEST > PEER: ACTION",
		"tcp any > any: drop":                        `action "drop"`,
		"tcq any > any: pass":                        `protocol "tcq"`,
		"256 any > any: pass":                        `protocol "256"`,
		"tcp web > any: pass":                        `guest "web": want any, an IP address`,
		"tcp any > 10.0.0.1/8: pass":                 "the network is 10.0.0.0/8",
		"tcp any > 10.0.0.0/33: pass":                `peer "10.0.0.0/33"`,
		"tcp any:0 > any: pass":                      "want a port",
		"tcp any:9-8 > any: pass":                    "want a port",
		"tcp any:65536 > any: pass":                  "want a port",
		"icmp any:1 > any: pass":                     "only tcp and udp have ports",
		"any any:1 > any: pass":                      "only tcp and udp have ports",
		"tcp [fd00::2 > any: pass":                   "bracket",
		"tcp [fd00::2]443 > any: pass":               "after the bracket",
		"tcp fd00::2 > 10.0.0.1: pass":               "two IP versions",
		"tcp ::ffff:10.0.0.1 > any: pass":            "write an IPv4 address as such",
		"tcp fe80::1%eth0 > any: pass":               "want any, an IP address",
		"tcp any > any vlan 4096: pass":              "vlan",
		"tcp any > any vlan 1.2.3.4.5: pass":         "more than 4 tags",
		"tcp any > any: " + strings.Repeat("x", 200): "longer than",
	} {
		_, err := ParseRules([]string{"tcp any > any: pass", text})
		if !errors.Is(err, ErrRule) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := ParseRules(make([]string, RulesMax+1)); !errors.Is(err, ErrRule) {
		t.Errorf("too many: %v", err)
	}
}

func FuzzParseRules(f *testing.F) {
	f.Add("tcp [fd00::2]:443 > fd00::/64 vlan 5.7: compare")
	f.Add("any any > 10.0.0.0/8: pass\nudp 10.0.0.2:5-9 > any: bypass")
	f.Fuzz(func(t *testing.T, text string) {
		rs, err := ParseRules(strings.Split(text, "\n"))
		if err != nil {
			return
		}
		once := rs.Texts()
		again, err := ParseRules(once)
		if err != nil {
			t.Fatalf("%q reads %q, which is refused: %v", text, once, err)
		}
		if twice := again.Texts(); strings.Join(once, "\n") != strings.Join(twice, "\n") {
			t.Fatalf("%q reads %q, which reads %q", text, once, twice)
		}
	})
}

func TestTheFirstRuleThatFitsDecides(t *testing.T) {
	rs := rulesOf(t,
		"tcp 10.0.0.2:443 > any: pass",
		"tcp any:8000-8009 > 10.0.0.0/8 vlan 5: bypass",
		"udp any > any:53: compare",
		"udp any > any: bypass",
		"icmp any > 10.0.0.9: pass",
		"any fd00::/64 > any: pass")
	at := netip.MustParseAddrPort
	for _, c := range []struct {
		proto    uint8
		src, dst string
		vlans    []uint16
		want     Action
	}{
		{6, "10.0.0.2:443", "192.0.2.1:5", nil, PassUncompared},
		{6, "10.0.0.2:443", "192.0.2.1:5", []uint16{9}, PassUncompared},
		{6, "10.0.0.2:444", "192.0.2.1:5", nil, Compare},
		{6, "10.0.0.3:443", "192.0.2.1:5", nil, Compare},
		{6, "10.0.0.2:8009", "10.0.0.9:5", []uint16{5}, Bypass},
		{6, "10.0.0.2:8009", "10.0.0.9:5", nil, Compare},
		{6, "10.0.0.2:8009", "10.0.0.9:5", []uint16{5, 5}, Compare},
		{6, "10.0.0.2:8010", "10.0.0.9:5", []uint16{5}, Compare},
		{6, "10.0.0.2:8009", "192.0.2.1:5", []uint16{5}, Compare},
		{17, "10.0.0.2:9", "192.0.2.1:53", nil, Compare},
		{17, "10.0.0.2:9", "192.0.2.1:54", nil, Bypass},
		{6, "[fd00::2]:9", "[fe80::1]:54", nil, PassUncompared},
		{6, "[fd01::2]:9", "[fe80::1]:54", nil, Compare},
	} {
		src, dst := at(c.src), at(c.dst)
		k := key{proto: c.proto, version: 4, vlans: vlansKey(c.vlans), sport: src.Port(), dport: dst.Port(), class: classTCP}
		if src.Addr().Is6() {
			k.version = 6
			k.src, k.dst = src.Addr().As16(), dst.Addr().As16()
		} else {
			a, b := src.Addr().As4(), dst.Addr().As4()
			copy(k.src[:], a[:])
			copy(k.dst[:], b[:])
		}
		if got := rs.action(&k); got != c.want {
			t.Errorf("%d %s > %s %v: %v, want %v", c.proto, c.src, c.dst, c.vlans, got, c.want)
		}
	}
	if got := rs.action(&key{class: classRaw}); got != Compare {
		t.Errorf("a frame that is not IP: %v", got)
	}
	if got := rulesOf(t, "any any > any: bypass").action(&key{class: classRaw}); got != Compare {
		t.Errorf("a frame that is not IP: %v", got)
	}
}

// Both copies change to other rules at the same point: an epoch.
func TestRulesHoldFromTheNextEpochOn(t *testing.T) {
	active, standby := NewTable(1), NewTable(1)
	data := func(seq uint32, text string) []byte {
		return seg{flags: fACK, seq: seq, ack: 1, payload: []byte(text)}.frame()
	}
	open := active.Out(seg{flags: fSYN | fACK, seq: 0, ack: 1}.frame())
	if open.Kind != Stream {
		t.Fatalf("%+v", open)
	}
	epoch := func(texts ...string) {
		t.Helper()
		active.SetRules(rulesOf(t, texts...))
		state := active.Save()
		active.NewEpoch()
		if err := standby.Load(state); err != nil {
			t.Fatal(err)
		}
	}
	both := func(frame []byte) Output {
		t.Helper()
		a, b := active.Out(bytes.Clone(frame)), standby.Out(bytes.Clone(frame))
		if a != b {
			t.Fatalf("the copies differ: %+v and %+v", a, b)
		}
		return a
	}
	active.SetRules(rulesOf(t, "any any > any: pass"))
	if o := active.Out(data(1, "ab")); o.Kind != Stream {
		t.Errorf("before the epoch: %+v", o)
	}
	epoch("tcp any > any: pass", "udp any > any: bypass")
	for i := range 2 {
		o := both(data(3+uint32(i), "c"))
		if o.Kind != Pass || o.Bypass || !o.Digest.IsZero() || o.Flow != open.Flow || (o.Name != "") != (i == 0) {
			t.Errorf("passed: %+v", o)
		}
		if active.streams[o.Flow].tail != nil {
			t.Error("it keeps bytes that nobody will ask for")
		}
		if o := both(udp(guest4, peer4, uint16(i), "x")); o.Kind != Pass || !o.Bypass || (o.Name != "") != (i == 0) {
			t.Errorf("bypassed: %+v", o)
		}
	}
	// Compared again, it goes on at the offset that both have reached.
	epoch()
	if o := both(data(5, "z")); o.Kind != Stream || o.End != 6 || o.Digest.IsZero() {
		t.Errorf("compared again: %+v", o)
	}
	if o := both(udp(guest4, peer4, 9, "x")); o.Kind != Datagram || o.End != 1 {
		t.Errorf("compared again: %+v", o)
	}
}

// What is not compared is translated all the same.
func TestPassedConnectionIsTranslated(t *testing.T) {
	tab := NewTable(1)
	tab.SetRules(rulesOf(t, "tcp any > any vlan 5: pass"))
	tab.NewEpoch()
	o := tab.Out(seg{flags: fSYN, seq: 5, vlans: []uint16{5}}.frame())
	if o.Kind != Pass || o.Name == "" {
		t.Errorf("passed: %+v", o)
	}
	tab.Learn(Opening{Flow: o.Flow, ISN: 105})
	if p := parse(t, tab.Emit(seg{flags: fACK, seq: 6, vlans: []uint16{5}}.frame(), 0)); p.Seq != 106 {
		t.Errorf("left with %d", p.Seq)
	}
}
