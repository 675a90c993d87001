package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// tcpFrame builds a frame of the stack to the guest.
func tcpFrame(port uint16, ack uint32, flags header.TCPFlags, options, payload int) []byte {
	segment := header.TCPMinimumSize + options
	frame := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+segment+payload)
	header.Ethernet(frame).Encode(&header.EthernetFields{Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(routerIP.As4()), DstAddr: tcpip.AddrFrom4(guestIP.As4()),
	})
	header.TCP(ip.Payload()).Encode(&header.TCPFields{SrcPort: port, DstPort: 80, AckNum: ack, DataOffset: uint8(segment), Flags: flags})
	return frame
}

// describe is the inverse of what the test's scripts say.
func describe(frame []byte) string {
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	s := header.TCP(ip.Payload())
	return fmt.Sprintf("%d:%d/%s/%d/%d", s.SourcePort(), s.AckNumber(), strings.ReplaceAll(s.Flags().String(), " ", ""), len(s.Options()), len(s.Payload()))
}

// TestDelayedAcks runs scripts: what the stack gives, and what is sent at once;
// "+5ms" lets time pass.
func TestDelayedAcks(t *testing.T) {
	const (
		ack = header.TCPFlagAck
		psh = header.TCPFlagAck | header.TCPFlagPsh
	)
	type step struct {
		after   time.Duration
		port    uint16
		ack     uint32
		flags   header.TCPFlags
		options int
		payload int
		sent    []int // the steps whose frames leave now
	}
	for name, script := range map[string][]step{
		"the first is sent at once": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
		},
		"data takes it along": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 1, ack: 200, flags: ack, options: 12},
			{port: 1, ack: 200, flags: psh, payload: 9, sent: []int{2}},
			{after: time.Second},
		},
		"the second one takes it along": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 1, ack: 200, flags: ack},
			{port: 1, ack: 300, flags: ack, sent: []int{2}},
			{port: 1, ack: 400, flags: ack},
			{port: 1, ack: 500, flags: ack, sent: []int{4}},
		},
		"it waits so long and no longer": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 1, ack: 200, flags: ack},
			{after: ackDelay - 1},
			{after: 1, sent: []int{1}},
			{port: 1, ack: 300, flags: ack},
			{after: ackDelay, sent: []int{4}},
		},
		"each connection has its own": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 2, ack: 100, flags: ack, sent: []int{1}},
			{port: 1, ack: 200, flags: ack},
			{after: ackDelay / 2},
			{port: 2, ack: 200, flags: ack},
			{port: 1, ack: 200, flags: psh, payload: 1, sent: []int{5}},
			{after: ackDelay / 2},
			{after: ackDelay / 2, sent: []int{4}},
		},
		"a repeated one tells of a loss": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 1, ack: 100, flags: ack, sent: []int{1}},
			{port: 1, ack: 200, flags: ack},
			{port: 1, ack: 200, flags: ack, sent: []int{2, 3}},
			{port: 1, ack: 200, flags: ack, sent: []int{4}},
		},
		"selective acknowledgements are not delayed": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 1, ack: 200, flags: ack, options: 24, sent: []int{1}},
		},
		"numbers wrap": {
			{port: 1, ack: 1<<32 - 50, flags: ack, sent: []int{0}},
			{port: 1, ack: 50, flags: ack},
			{port: 1, ack: 50, flags: psh, payload: 1, sent: []int{2}},
		},
		"older ones do not overtake": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 1, ack: 200, flags: ack},
			{port: 1, ack: 150, flags: psh, payload: 1, sent: []int{1, 2}},
		},
		"an end is not delayed, and what is held leaves before it": {
			{port: 1, ack: 100, flags: ack, sent: []int{0}},
			{port: 1, ack: 200, flags: ack},
			{port: 1, ack: 200, flags: ack | header.TCPFlagFin, sent: []int{1, 2}},
			{port: 1, ack: 300, flags: ack, sent: []int{3}},
			{port: 1, ack: 400, flags: ack},
			{port: 1, flags: header.TCPFlagRst, sent: []int{4, 5}},
			{after: time.Second},
		},
		"an opening is not held": {
			{port: 1, flags: header.TCPFlagSyn, sent: []int{0}},
			{port: 1, ack: 1, flags: ack, sent: []int{1}},
			{port: 1, ack: 1, flags: psh, payload: 5, sent: []int{2}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			d := newDelayedAcks(func(frame []byte) { got = append(got, describe(frame)) })
			now := time.Unix(0, 0)
			var due time.Time
			d.after = func(in time.Duration, _ func(time.Time)) { due = now.Add(in) }
			frames := make([][]byte, len(script))
			for i, s := range script {
				got = nil
				now = now.Add(s.after)
				for d.due && !due.After(now) {
					d.expire(now)
				}
				if s.port != 0 {
					frames[i] = tcpFrame(s.port, s.ack, s.flags, s.options, s.payload)
					d.pass(now, frames[i])
				}
				var want []string
				for _, n := range s.sent {
					want = append(want, describe(frames[n]))
				}
				if !slices.Equal(got, want) {
					t.Fatalf("step %d sent %q, want %q", i, got, want)
				}
			}
		})
	}
}

// TestDelayedAcksPassOthers passes on at once what is no TCP segment, whole or not.
func TestDelayedAcksPassOthers(t *testing.T) {
	whole := tcpFrame(1, 100, header.TCPFlagAck, 0, 0)
	udp := slices.Clone(whole)
	udp[header.EthernetMinimumSize+9] = uint8(header.UDPProtocolNumber)
	arp := slices.Clone(whole)
	arp[12], arp[13] = 8, 6
	fragment := slices.Clone(whole)
	fragment[header.EthernetMinimumSize+6] = 0x20
	frames := [][]byte{udp, arp, fragment}
	for n := range whole {
		frames = append(frames, whole[:n])
	}
	sent := 0
	d := newDelayedAcks(func([]byte) { sent++ })
	for range 3 {
		for _, f := range frames {
			d.pass(time.Now(), f)
		}
	}
	if sent != 3*len(frames) || len(d.flows) > 0 {
		t.Errorf("%d of %d frames were sent, %d connections known", sent, 3*len(frames), len(d.flows))
	}
}

// TestDelayedAcksAreBounded opens more connections than are remembered: none loses
// what it held.
func TestDelayedAcksAreBounded(t *testing.T) {
	sent := map[string]bool{}
	d := newDelayedAcks(func(frame []byte) { sent[describe(frame)] = true })
	var due func(time.Time)
	d.after = func(_ time.Duration, f func(time.Time)) { due = f }
	now := time.Unix(0, 0)
	const connections = 2*maxAckFlows + 100
	for port := range uint16(connections) {
		d.pass(now, tcpFrame(port, 100, header.TCPFlagAck, 0, 0))
		d.pass(now, tcpFrame(port, 200, header.TCPFlagAck, 0, 0))
		if len(d.flows) > maxAckFlows {
			t.Fatalf("%d connections are remembered", len(d.flows))
		}
	}
	due(now.Add(ackDelay))
	if len(sent) != 2*connections {
		t.Errorf("%d frames were sent of %d", len(sent), 2*connections)
	}
}
