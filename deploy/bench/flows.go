package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/understudy-ft/understudy/services/flow"
)

// growFlows measures a flow table that knows many connections: what an output
// costs, and what saving it for a checkpoint does.
func (b *bench) growFlows(ctx context.Context) error {
	output := b.report.curve("growth-flows", "connections known", "µs an output", true)
	save := b.report.curve("growth-flows-checkpoint", "connections known", "ms", true)
	for _, n := range []int{1, 10, 100, 1000, 10_000, 50_000} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t := flow.NewTable(1)
		conns := make([]*toyConn, n)
		for i := range conns {
			conns[i] = newToyConn(i)
			t.In(conns[i].syn())
			t.Out(conns[i].synAck())
		}
		const outputs = 200_000
		payload := make([]byte, 64)
		frames := make([][]byte, outputs)
		for i := range frames {
			frames[i] = conns[(i*7919)%n].data(payload)
		}
		before, err := ownCPU()
		if err != nil {
			return err
		}
		for i, f := range frames {
			o := t.Out(f)
			t.Confirm(o.Flow, o.End)
			if o.Kind != flow.Stream || o.End == 0 {
				return fmt.Errorf("the table takes a segment of connection %d for %v", (i*7919)%n, o.Kind)
			}
		}
		after, err := ownCPU()
		if err != nil {
			return err
		}
		output.add("64 bytes, connections in turn", float64(n), float64((after-before).Microseconds())/outputs)
		began := time.Now()
		state := t.Save()
		save.add("save", float64(n), ms(time.Since(began)))
		fresh := flow.NewTable(1)
		began = time.Now()
		if err := fresh.Load(state); err != nil {
			return err
		}
		save.add("load", float64(n), ms(time.Since(began)))
	}
	return nil
}

// toyConn makes the frames of a connection that a peer opens to the guest.
type toyConn struct {
	peer         netip.Addr
	port         uint16
	seq, peerSeq uint32
}

func newToyConn(i int) *toyConn {
	return &toyConn{peer: netip.AddrFrom4([4]byte{10, 1, byte(i >> 14), 9}), port: uint16(1024 + i&0x3fff), seq: 1000, peerSeq: 5000}
}

const (
	flagSYN = 2
	flagACK = 16
)

func (c *toyConn) syn() []byte { return c.frame(false, c.peerSeq, 0, flagSYN, nil) }

func (c *toyConn) synAck() []byte {
	f := c.frame(true, c.seq, c.peerSeq+1, flagSYN|flagACK, nil)
	c.seq++
	return f
}

func (c *toyConn) data(payload []byte) []byte {
	f := c.frame(true, c.seq, c.peerSeq+1, flagACK, payload)
	c.seq += uint32(len(payload))
	return f
}

// frame is an Ethernet frame with an IPv4 datagram with a TCP segment.
func (c *toyConn) frame(out bool, seq, ack uint32, flags byte, payload []byte) []byte {
	be := binary.BigEndian
	guest := netip.AddrFrom4([4]byte{10, 0, 0, 2})
	from, to, fromPort, toPort := c.peer, guest, c.port, uint16(6379)
	macs := []byte{0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2}
	if out {
		from, to, fromPort, toPort = to, from, toPort, fromPort
		copy(macs, []byte{0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1})
	}
	f := append(macs, 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	be.PutUint16(ip[2:], uint16(40+len(payload)))
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	be.PutUint16(ip[10:], checksum(ip, 0))
	tcp := make([]byte, 20, 20+len(payload))
	be.PutUint16(tcp, fromPort)
	be.PutUint16(tcp[2:], toPort)
	be.PutUint32(tcp[4:], seq)
	be.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	be.PutUint16(tcp[14:], 65535)
	tcp = append(tcp, payload...)
	pseudo := append(append([]byte(nil), ip[12:20]...), 0, 6, byte(len(tcp)>>8), byte(len(tcp)))
	be.PutUint16(tcp[16:], checksum(append(pseudo, tcp...), 0))
	return append(append(f, ip...), tcp...)
}

// checksum is the Internet checksum.
func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
