package uplink

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/uplink/wire"
)

const tunDevice = "/dev/net/tun"

// tap is a TAP device (Linux Documentation/networking/tuntap.rst). Without
// IFF_VNET_HDR the kernel hands over whole frames with their checksums done.
type tap struct {
	file *os.File
	log  hclog.Logger
	ear  *ear
	done chan struct{}
	// stopWatching ends the watch over the bridge's port.
	stopWatching func()

	mu     sync.Mutex // held while writing
	muted  bool
	closed bool
}

func openTAP(s tapSpec, recv func([]byte), log hclog.Logger) (Uplink, error) {
	_, err := netlink.LinkByName(s.name)
	created := errors.As(err, &netlink.LinkNotFoundError{})
	file, err := attach(s.name)
	if err != nil {
		return nil, err
	}
	log = log.With("tap", s.name)
	stopWatching := func() {}
	if s.port != "" {
		if stopWatching, err = keepPort(s, log); err != nil {
			file.Close()
			return nil, err
		}
	}
	if err := setUp(s, created); err != nil {
		stopWatching()
		file.Close()
		return nil, err
	}
	log.Info("opened the TAP device", "created", created, "bridge", s.bridge)
	t := &tap{file: file, log: log, ear: newEar(recv), done: make(chan struct{}), stopWatching: stopWatching, muted: true}
	go t.read()
	return t, nil
}

// attach opens the device with that name, creating it if there is none.
func attach(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("opening TAP device %s: %s is missing: the kernel module tun is not loaded, or the container was not given the device", name, tunDevice)
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("opening TAP device %s: no permission for %s: %w", name, tunDevice, err)
	case err != nil:
		return nil, fmt.Errorf("opening TAP device %s: %s: %w", name, tunDevice, err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("opening TAP device %s: %w", name, err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EPERM):
			return nil, fmt.Errorf("opening TAP device %s: needs CAP_NET_ADMIN, or a device made for this user (ip tuntap add %s mode tap user NAME): %w", name, name, err)
		case errors.Is(err, unix.EBUSY):
			return nil, fmt.Errorf("opening TAP device %s: another process uses it: %w", name, err)
		case errors.Is(err, unix.EINVAL):
			return nil, fmt.Errorf("opening TAP device %s: the name belongs to a device of another kind: %w", name, err)
		}
		return nil, fmt.Errorf("opening TAP device %s: %w", name, err)
	}
	// Only now: the runtime's poller must not watch a descriptor that has no
	// queue yet.
	return os.NewFile(uintptr(fd), "tap "+name), nil
}

// setUp brings the device up and puts it into the bridge, as far as it is not
// so already.
func setUp(s tapSpec, created bool) error {
	link, err := netlink.LinkByName(s.name)
	if err != nil {
		return fmt.Errorf("looking TAP device %s up: %w", s.name, err)
	}
	if created {
		// The host itself shall not speak on the guest's wire. A kernel
		// without IPv6 has no such file.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+s.name+"/disable_ipv6", []byte("1"), 0o644)
	}
	if s.bridge != "" {
		bridge, err := netlink.LinkByName(s.bridge)
		if err != nil {
			return fmt.Errorf("bridge %s: %w: make it (ip link add %s type bridge), or name with port=PORT the network card that is to join it, and it is made", s.bridge, err, s.bridge)
		}
		if bridge.Type() != "bridge" {
			return fmt.Errorf("putting %s into %s: that is no bridge but a device of type %s", s.name, s.bridge, bridge.Type())
		}
		if link.Attrs().MasterIndex != bridge.Attrs().Index {
			if err := netlink.LinkSetMaster(link, bridge); err != nil {
				return fmt.Errorf("putting %s into bridge %s: %w", s.name, s.bridge, err)
			}
		}
		if s.noLearning {
			if err := netlink.LinkSetLearning(link, false); err != nil {
				return fmt.Errorf("switching learning of %s off: %w", s.name, err)
			}
		}
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bringing TAP device %s up: %w", s.name, err)
		}
	}
	return nil
}

// read delivers frames until Close.
func (t *tap) read() {
	defer close(t.done)
	buf := make([]byte, wire.MaxFrame)
	for {
		n, err := t.file.Read(buf)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			t.log.Error("reading the TAP device failed (was it removed?), hearing nothing any more", "error", err)
			return
		}
		if n >= wire.MinFrame {
			t.ear.hear(append([]byte(nil), buf[:n]...))
		}
	}
}

func (t *tap) Send(frames ...[]byte) error {
	if err := checkFrames(frames); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return ErrClosed
	case t.muted:
		return ErrMuted
	}
	err := t.file.SetWriteDeadline(time.Now().Add(sendTimeout))
	for i := 0; err == nil && i < len(frames); i++ {
		_, err = t.file.Write(frames[i])
	}
	if err != nil {
		return fmt.Errorf("writing to the TAP device: %w", err)
	}
	return nil
}

func (t *tap) Mute(muted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ear.mute(muted)
	t.muted = muted
}

func (t *tap) Recent() []Frame { return t.ear.recent() }

func (t *tap) Close() error {
	t.mu.Lock()
	wasClosed := t.closed
	t.closed = true
	t.mu.Unlock()
	if wasClosed {
		return nil
	}
	t.stopWatching()
	err := t.file.Close()
	<-t.done
	if err != nil {
		return fmt.Errorf("closing the TAP device: %w", err)
	}
	return nil
}
