// Package uplink is where a replica's guest NIC meets the outside network: a
// TAP device, the user-mode gateway, or nothing.
//
// The uplink of the active is live: it delivers what it hears and sends what
// it is given. The uplink of a standby is muted: it never sends, and where the
// network lets it hear frames for the guest it keeps the last moments of them,
// for the fail-over that it may be part of (DESIGN section 5). An uplink opens
// muted.
//
// # Specs
//
//	tap:NAME[,bridge=BRIDGE[,port=PORT]][,learning=off]
//	gateway:unix:PATH
//	gateway:HOST:PORT
//	none
//
// A TAP device is created if it is absent, and then vanishes with the uplink;
// it is brought up and put into the bridge. That needs CAP_NET_ADMIN, unless
// the device was set up before for this user. With learning=off the bridge
// does not learn the guest's address on this port and floods frames for it to
// all ports, so that a muted port on the same bridge hears them.
//
// With port=PORT the bridge is made if it is absent, and stays; the device PORT
// joins it as its way to the outside, and what addresses and routes the device
// has move to the bridge. PORT is a device's name, or the prefix of an address
// by which it is found (port=10.98.0.0/24): in a container it is the network,
// not the name of the device, that is known beforehand. An uplink whose port
// vanishes and comes back, as that of a container that is taken off its network
// and put back, takes the new one into the bridge.
//
// The gateway mirrors frames for the guest to muted ports. An uplink to it
// connects again, with a growing pause of at most a second, whenever the
// connection is lost, and says so in the log.
//
// # Limits
//
// Frames are lost where a network would lose them: while the gateway is away,
// when it does not read for 100 ms, and when the guest's side does not take
// them for longer than the queues last. Whether a muted TAP hears anything
// depends on the bridge. A TAP device that is removed under a running uplink is
// not made again: the uplink says so in the log and hears nothing any more.
package uplink

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/uplink/wire"
)

// Errors that callers decide by.
var (
	// ErrMuted is returned by Send while the uplink is muted.
	ErrMuted = errors.New("uplink is muted")
	// ErrDown is returned by Send while there is no connection to the gateway.
	ErrDown = errors.New("uplink is down")
	// ErrFrameSize is returned by Send for what is no Ethernet frame.
	ErrFrameSize = errors.New("frame is too short or too long")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("uplink is closed")
	// ErrSpec is wrapped by errors about the spec itself.
	ErrSpec = errors.New("bad uplink")
)

// An Uplink sends and hears Ethernet frames, without their check sequence. Its
// methods may be called by several goroutines at a time.
type Uplink interface {
	// Send emits frames in their order, which it does not keep. It writes at once
	// and waits at most 100 ms. With an error some of them, or all, are lost, as
	// on any network.
	Send(frames ...[]byte) error
	// Mute stops (true) or allows (false) sending. When Mute(true) returns,
	// nothing is under way any more. After Mute(false) what is heard goes to
	// recv; what was heard before it stays with Recent, so that the two have
	// each frame once.
	Mute(muted bool)
	// Recent returns the frames that were heard while muted, within
	// RecentWindow and RecentBytes, oldest first. The caller must not change
	// the data. Muting again forgets them.
	Recent() []Frame
	// Close ends the uplink. recv is not called after Close has returned, so
	// Close must not be called from recv, and recv must not block for ever.
	Close() error
}

// A Frame is a frame with the time at which it was heard.
type Frame struct {
	At   time.Time
	Data []byte
}

// Bounds of what a muted uplink keeps.
const (
	RecentWindow = 2 * time.Second
	RecentBytes  = 4 << 20
)

// MaxFrame is the longest frame that an uplink takes, in bytes.
const MaxFrame = wire.MaxFrame

// Open opens the uplink that spec describes, muted. recv is called with each
// frame that is heard while the uplink is live, by one goroutine in the order
// of arrival; it owns the frame. While it blocks, no further frame is read:
// the network queues a little and then drops.
//
// It is OpenTLS without TLS.
func Open(spec string, recv func(frame []byte), log hclog.Logger) (Uplink, error) {
	return OpenTLS(spec, recv, nil, log)
}

// OpenTLS is Open with TLS towards a gateway at a HOST:PORT. A unix socket is
// protected by the rights to its file.
func OpenTLS(spec string, recv func(frame []byte), secure *tls.Config, log hclog.Logger) (Uplink, error) {
	p, err := parse(spec)
	if err != nil {
		return nil, err
	}
	log = log.Named("uplink")
	switch {
	case p.tap.name != "":
		return openTAP(p.tap, recv, log)
	case p.address != "":
		if p.network == "unix" {
			secure = nil
		}
		return openGateway(p.network, p.address, secure, recv, log), nil
	}
	return newNone(), nil
}

// Check tells whether spec is well-formed. Its errors wrap ErrSpec.
func Check(spec string) error {
	_, err := parse(spec)
	return err
}

// Address is the address, host:port, that spec leads to over the network, if
// it does.
func Address(spec string) (addr string, ok bool) {
	p, err := parse(spec)
	return p.address, err == nil && p.network == "tcp"
}

func checkFrames(frames [][]byte) error {
	for _, f := range frames {
		if len(f) < wire.MinFrame || len(f) > wire.MaxFrame {
			return fmt.Errorf("%w: %d bytes", ErrFrameSize, len(f))
		}
	}
	return nil
}
