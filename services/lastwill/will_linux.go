package lastwill

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/sched"
)

const (
	// childSocket is the child's end of the socket, on which it gets messages of
	// messageSize bytes: the number of a connection, with its descriptor where it is
	// a new one. childFutex is the memory with the futex.
	childSocket = 3
	childFutex  = 4
	messageSize = 8
	// writeTimeout bounds a message to the child. Its socket holds many.
	writeTimeout = 100 * time.Millisecond
	// startTimeout bounds the child's start.
	startTimeout = 5 * time.Second
)

// New starts the child process.
func New() (*Will, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "last will")
	defer func() { _ = theirs.Close() }() // the child has its own
	ours, err := unixConn(pair[0])
	if err != nil {
		return nil, err
	}
	shared, page, err := newPage()
	if err != nil {
		_ = ours.Close() // it has no other end
		return nil, err
	}
	defer func() { _ = shared.Close() }() // the child has its own
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{childName}
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.ExtraFiles = []*os.File{theirs, shared}
	started := make(chan error)
	go func() {
		// The thread holds the futex as long as this process lives.
		runtime.LockOSThread()
		err := page.hold()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // it ends before this process only where somebody ends it
		}
		select {}
	}()
	if err = <-started; err == nil {
		err = ready(ours)
	}
	if err != nil {
		_ = ours.Close() // where there is a child, it ends
		return nil, fmt.Errorf("start a child process: %w", err)
	}
	return &Will{to: ours}, nil
}

// ready waits until the child says that it waits for this process's death.
func ready(c *net.UnixConn) error {
	if err := c.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, messageSize))
	return err
}

// unixConn returns the connection of a socket, which it owns.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "last will")
	defer func() { _ = f.Close() }() // the connection has a duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("a connection of type %T, want one of a Unix socket", c)
	}
	return u, nil
}

// Keep makes the child shut c down when this process dies. release must be called
// before c is closed: until then the child's duplicate keeps it open. Where c has
// no descriptor, or w is nil, or its child has ended, nothing is kept.
func (w *Will) Keep(c net.Conn) (release func()) {
	if w == nil {
		return func() {}
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return func() {}
	}
	w.mu.Lock()
	w.last++
	n := w.last
	w.mu.Unlock()
	kept := false
	err = raw.Control(func(fd uintptr) { kept = w.tell(n, unix.UnixRights(int(fd))) == nil })
	if err != nil || !kept {
		return func() {}
	}
	return func() {
		// The peer is to see the end now, however busy the child is.
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
		_ = w.tell(n, nil) // a child that has ended keeps nothing
	}
}

// tell sends the child a message.
func (w *Will) tell(n uint64, rights []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.to.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, _, err := w.to.WriteMsgUnix(binary.LittleEndian.AppendUint64(nil, n), rights, nil)
	return err
}

// child keeps connections until its parent dies or has ended, and returns the exit
// code.
func child() int {
	// What ends the parent from a terminal ends this process by way of it.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	// It has to run at once when the parent dies, on a CPU that is taking memory down.
	sched.Messages(hclog.NewNullLogger())
	conn, err := unixConn(childSocket)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", childName, err)
		return 1
	}
	page, err := mapPage(childFutex)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", childName, err)
		return 1
	}
	if _, err := conn.Write(make([]byte, messageSize)); err != nil {
		return 1 // the parent has ended
	}
	died := make(chan struct{})
	go func() {
		page.await()
		close(died)
	}()
	kept := keeper{conns: map[uint64]int{}}
	messages := make(chan message)
	go func() {
		defer close(messages)
		for {
			m, err := receive(conn)
			if err != nil {
				return // the parent has ended
			}
			messages <- m
		}
	}()
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				kept.shutDown()
				return 0
			}
			kept.take(m)
		case <-died:
			kept.shutDown()
			return 0
		}
	}
}

// message is one of the parent's: fd is that of a new connection, or -1.
type message struct {
	n  uint64
	fd int
}

func receive(c *net.UnixConn) (message, error) {
	var b [messageSize]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(b[:], oob)
	if err != nil {
		return message{}, err
	}
	if n != messageSize {
		return message{}, errors.New("the parent has closed its end")
	}
	m := message{n: binary.LittleEndian.Uint64(b[:]), fd: -1}
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(controls) == 0 {
		return m, err
	}
	fds, err := unix.ParseUnixRights(&controls[0])
	if err == nil && len(fds) == 1 {
		m.fd = fds[0]
	}
	return m, err
}

// keeper has the descriptors of connections by their number.
type keeper struct{ conns map[uint64]int }

func (k *keeper) take(m message) {
	if m.fd >= 0 {
		k.conns[m.n] = m.fd
		return
	}
	if fd, ok := k.conns[m.n]; ok {
		_ = unix.Close(fd) // the parent has closed the connection, or is about to
		delete(k.conns, m.n)
	}
}

func (k *keeper) shutDown() {
	for _, fd := range k.conns {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // it may have ended
	}
}
