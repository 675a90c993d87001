package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/process"
	"github.com/understudy-ft/understudy/services/uplink"
)

// sockets is a network without privileges: the hosts' cards are plugged into a
// hub by unix sockets, and the clients reach them through the user-mode gateway.
type sockets struct {
	path     string
	listener net.Listener
	gateway  *process.Process
	uplink   uplink.Uplink
	forwards [2]string // to the guest's Redis, to the arbiter
	running  sync.WaitGroup

	mu     sync.Mutex
	cables map[*cable]bool
}

// cable is a host's end of the hub.
type cable struct {
	conn net.Conn
	// frames wait here for a host that is slow, and are dropped beyond.
	frames chan []byte
}

const cableFrames = 2048

// newSockets starts the hub, and the gateway from bin with its log in dir.
func newSockets(bin, dir string) (_ *sockets, err error) {
	s := &sockets{path: filepath.Join(dir, "hub.sock"), cables: map[*cable]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("link hosts by sockets: %w", err), s.close())
		}
	}()
	if s.listener, err = net.Listen("unix", s.path); err != nil {
		return nil, err
	}
	for i := range s.forwards {
		if s.forwards[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	socket := "unix:" + filepath.Join(dir, "gateway.sock")
	if s.gateway, err = process.Start(dir, "gateway", filepath.Join(bin, "gateway"), "--listen", socket,
		"--forward", s.forwards[0]+"="+net.JoinHostPort(cluster.GuestIP, redisPort),
		"--forward", s.forwards[1]+"="+net.JoinHostPort(arbiterIP, arbiterPort)); err != nil {
		return nil, err
	}
	if s.uplink, err = uplink.Open("gateway:"+socket, func(frame []byte) { s.flood(nil, frame) }, hclog.NewNullLogger()); err != nil {
		return nil, err
	}
	s.uplink.Mute(false)
	s.running.Go(s.accept)
	return s, nil
}

func (s *sockets) link() (string, error) {
	return "stream,server=off,addr.type=unix,addr.path=" + s.path, nil
}

func (s *sockets) redis() string   { return s.forwards[0] }
func (s *sockets) arbiter() string { return s.forwards[1] }

func (s *sockets) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		c := &cable{conn, make(chan []byte, cableFrames)}
		s.mu.Lock()
		s.cables[c] = true
		s.mu.Unlock()
		s.running.Go(func() { s.read(c) })
		s.running.Go(c.write)
	}
}

// read passes on what a host sends: a stream of frames, each after its length in
// 4 bytes, big endian (QEMU net/stream.c).
func (s *sockets) read(c *cable) {
	defer func() {
		s.mu.Lock()
		delete(s.cables, c)
		close(c.frames)
		s.mu.Unlock()
		_ = c.conn.Close() // nothing is under way
	}()
	r := bufio.NewReaderSize(c.conn, 1<<16)
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > uplink.MaxFrame {
			return
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		s.flood(c, frame)
		_ = s.uplink.Send(frame) // lost, as on any network
	}
}

// flood gives a frame to all hosts but the one that it comes from.
func (s *sockets) flood(from *cable, frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.cables {
		if c == from {
			continue
		}
		select {
		case c.frames <- frame:
		default:
		}
	}
}

// write sends what waits, until the reader has closed the cable.
func (c *cable) write() {
	var message []byte
	for frame := range c.frames {
		message = append(binary.BigEndian.AppendUint32(message[:0], uint32(len(frame))), frame...)
		_, _ = c.conn.Write(message) // the reader notices
	}
}

func (s *sockets) close() (err error) {
	if s.uplink != nil {
		err = s.uplink.Close()
	}
	if s.gateway != nil {
		err = errors.Join(err, s.gateway.Kill())
	}
	if s.listener != nil {
		err = errors.Join(err, s.listener.Close())
	}
	s.mu.Lock()
	for c := range s.cables {
		_ = c.conn.Close() // its host has ended
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = ln.Close() }() // it only reserved the port
	return ln.Addr().String(), nil
}
