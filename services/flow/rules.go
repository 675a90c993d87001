package flow

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/understudy-ft/understudy/services/packet"
)

// Action is what is done with the outputs of a flow.
type Action uint8

// Actions. Compare is the default.
const (
	// Compare: they leave once both copies have made them.
	Compare Action = iota
	// PassUncompared: they leave by the arbiter's word, without comparison.
	PassUncompared
	// Bypass: they leave at once, while the active is in touch with its arbiter
	// and holds its lease; otherwise like PassUncompared.
	Bypass
)

var actionNames = [...]string{Compare: "compare", PassUncompared: "pass", Bypass: "bypass"}

func (a Action) String() string { return actionNames[a] }

// Bounds of a set of rules.
const (
	RulesMax      = 64
	ruleLengthMax = 200
)

// ErrRule is wrapped by the errors of ParseRules.
var ErrRule = errors.New("not a flow rule")

// Rules say what is done with which flows: the first rule that fits decides.
// nil compares all. Rules do not change once they are made.
type Rules struct{ rules []rule }

// rule is one line of Rules. The guest is src.
type rule struct {
	proto    uint8 // with anyProto: of any
	anyProto bool
	src, dst pattern
	vlans    []uint16 // nil: untagged or any tags
	action   Action
}

// pattern fits one end of a flow.
type pattern struct {
	prefix netip.Prefix // invalid: any
	lo, hi uint16       // ports; 0, 0: any or none
}

var protoNames = map[string]uint8{"tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "icmp": packet.ProtoICMP, "icmpv6": packet.ProtoICMPv6}

// ParseRules reads rules, one a text:
//
//	PROTO GUEST > PEER [vlan ID[.ID]]: ACTION
//
// such as
//
//	tcp 10.0.0.2:443 > any: pass
//	udp any > 10.0.0.0/8:5000-5010: bypass
//	tcp [fd00::2]:443 > any vlan 5: compare
//
// PROTO is tcp, udp, icmp, icmpv6, a protocol number, or any. GUEST and PEER
// are any, an address or a network, with a port or a range of ports where PROTO
// is tcp or udp ("any:443" for any address; IPv6 in brackets then). The guest's
// end stands first, whoever opened the connection. ACTION is compare, pass or
// bypass. Without vlan a rule fits flows of every VLAN. Rules are about IP flows;
// all else that a guest transmits is compared or chatter (see Out). Fragments
// have no ports: a rule with a port does not fit them. The error, which wraps
// ErrRule, tells which text is wrong and why.
func ParseRules(texts []string) (*Rules, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	if len(texts) > RulesMax {
		return nil, fmt.Errorf("%w: there are %d, at most %d are kept", ErrRule, len(texts), RulesMax)
	}
	rs := &Rules{rules: make([]rule, len(texts))}
	for i, text := range texts {
		if len(text) > ruleLengthMax {
			return nil, fmt.Errorf("%w: number %d is longer than %d bytes", ErrRule, i+1, ruleLengthMax)
		}
		r, err := parseRule(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrRule, text, err)
		}
		rs.rules[i] = r
	}
	return rs, nil
}

func parseRule(text string) (r rule, err error) {
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return r, errors.New(`want "PROTO GUEST > PEER: ACTION"`)
	}
	switch word := strings.TrimSpace(text[at+1:]); word {
	case "compare":
		r.action = Compare
	case "pass":
		r.action = PassUncompared
	case "bypass":
		r.action = Bypass
	default:
		return r, fmt.Errorf("action %q: want compare, pass or bypass", word)
	}
	w := strings.Fields(text[:at])
	if len(w) == 6 && w[4] == "vlan" {
		if r.vlans, err = parseVLANs(w[5]); err != nil {
			return r, err
		}
		w = w[:4]
	}
	if len(w) != 4 || w[2] != ">" {
		return r, errors.New(`want "PROTO GUEST > PEER: ACTION"`)
	}
	if proto, named := protoNames[w[0]]; named {
		r.proto = proto
	} else if w[0] == "any" {
		r.anyProto = true
	} else if n, err := strconv.ParseUint(w[0], 10, 8); err == nil {
		r.proto = uint8(n)
	} else {
		return r, fmt.Errorf("protocol %q: want tcp, udp, icmp, icmpv6, a number up to 255, or any", w[0])
	}
	ports := !r.anyProto && (r.proto == packet.ProtoTCP || r.proto == packet.ProtoUDP)
	if r.src, err = parsePattern(w[1], ports); err != nil {
		return r, fmt.Errorf("guest %q: %w", w[1], err)
	}
	if r.dst, err = parsePattern(w[3], ports); err != nil {
		return r, fmt.Errorf("peer %q: %w", w[3], err)
	}
	if a, b := r.src.prefix, r.dst.prefix; a.IsValid() && b.IsValid() && a.Addr().Is4() != b.Addr().Is4() {
		return r, errors.New("guest and peer are of two IP versions")
	}
	return r, nil
}

func parseVLANs(text string) (tags []uint16, err error) {
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.ParseUint(part, 10, 12)
		if err != nil {
			return nil, fmt.Errorf("vlan %q: want identifiers of 0 to 4095, outermost first", text)
		}
		tags = append(tags, uint16(n))
	}
	if len(tags) > packet.MaxTags {
		return nil, fmt.Errorf("vlan %q: more than %d tags", text, packet.MaxTags)
	}
	return tags, nil
}

func parsePattern(text string, ports bool) (p pattern, err error) {
	host, port := text, ""
	if rest, bracketed := strings.CutPrefix(text, "["); bracketed {
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return p, errors.New("the bracket is not closed")
		}
		host, port = rest[:end], rest[end+1:]
		if port != "" && port[0] != ':' {
			return p, errors.New("want a port after the bracket")
		}
		port = strings.TrimPrefix(port, ":")
	} else if strings.Count(text, ":") == 1 {
		host, port, _ = strings.Cut(text, ":")
	}
	if host != "any" {
		if p.prefix, err = netip.ParsePrefix(host); err != nil {
			a, err := netip.ParseAddr(host)
			if err != nil || a.Zone() != "" {
				return p, errors.New("want any, an IP address or a network such as 10.0.0.0/8")
			}
			p.prefix = netip.PrefixFrom(a, a.BitLen())
		}
		if p.prefix.Addr().Is4In6() {
			return p, errors.New("write an IPv4 address as such")
		}
		if p.prefix != p.prefix.Masked() {
			return p, fmt.Errorf("the network is %v", p.prefix.Masked())
		}
	}
	if port == "" {
		return p, nil
	}
	if !ports {
		return p, errors.New("only tcp and udp have ports")
	}
	lo, hi, isRange := strings.Cut(port, "-")
	if !isRange {
		hi = lo
	}
	a, errA := strconv.ParseUint(lo, 10, 16)
	b, errB := strconv.ParseUint(hi, 10, 16)
	if errA != nil || errB != nil || a == 0 || a > b {
		return p, errors.New("want a port of 1 to 65535 or a range of them")
	}
	p.lo, p.hi = uint16(a), uint16(b)
	return p, nil
}

// Texts returns the rules as ParseRules reads them.
func (rs *Rules) Texts() (texts []string) {
	if rs == nil {
		return nil
	}
	for _, r := range rs.rules {
		texts = append(texts, r.String())
	}
	return texts
}

func (r rule) String() string {
	proto := strconv.Itoa(int(r.proto))
	for name, n := range protoNames {
		if n == r.proto {
			proto = name
		}
	}
	if r.anyProto {
		proto = "any"
	}
	vlan := ""
	for i, tag := range r.vlans {
		if i == 0 {
			vlan = " vlan "
		} else {
			vlan += "."
		}
		vlan += strconv.Itoa(int(tag))
	}
	return fmt.Sprintf("%s %v > %v%s: %v", proto, r.src, r.dst, vlan, r.action)
}

func (p pattern) String() string {
	host := "any"
	if p.prefix.IsValid() {
		if host = p.prefix.String(); p.prefix.IsSingleIP() {
			host = p.prefix.Addr().String()
		}
		if p.lo != 0 && p.prefix.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	switch {
	case p.lo == 0:
		return host
	case p.lo == p.hi:
		return fmt.Sprintf("%s:%d", host, p.lo)
	}
	return fmt.Sprintf("%s:%d-%d", host, p.lo, p.hi)
}

// action returns what is done with the flow k.
func (rs *Rules) action(k *key) Action {
	if rs == nil || k.version == 0 {
		return Compare
	}
	src, dst := packet.Addr(k.version, k.src), packet.Addr(k.version, k.dst)
	sport, dport := k.sport, k.dport
	if k.class == classEcho || k.class == classICMP {
		sport, dport = 0, 0
	}
	for i := range rs.rules {
		r := &rs.rules[i]
		if (r.anyProto || r.proto == k.proto) && r.src.fits(src, sport) && r.dst.fits(dst, dport) &&
			(r.vlans == nil || vlansKey(r.vlans) == k.vlans) {
			return r.action
		}
	}
	return Compare
}

func (p *pattern) fits(a netip.Addr, port uint16) bool {
	return (!p.prefix.IsValid() || p.prefix.Contains(a)) && (p.lo == 0 || p.lo <= port && port <= p.hi)
}

func vlansKey(tags []uint16) (v uint64) {
	for _, tag := range tags {
		v = v<<16 | uint64(tag+1)
	}
	return v
}
