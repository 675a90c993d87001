package replica

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// consoleWait is how long a console reader may keep the guest waiting.
const consoleWait = 10 * time.Millisecond

// consoleSocket is a guest console on a unix socket: who connects last has it.
// Output while nobody is connected is lost, as on a serial line.
type consoleSocket struct {
	ln   net.Listener
	in   *io.PipeReader
	feed *io.PipeWriter

	mu   sync.Mutex
	conn net.Conn
}

func listenConsole(path string) (io.Writer, io.Reader, func(), error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close() // it only proved that somebody listens
		return nil, nil, nil, fmt.Errorf("console socket %s is in use by another process", path)
	}
	if st, err := os.Stat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(path) // left behind by a process that died
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("listen on the console socket (--console): %w", err)
	}
	c := &consoleSocket{ln: ln}
	c.in, c.feed = io.Pipe()
	go c.serve()
	return c, c.in, c.close, nil
}

func (c *consoleSocket) serve() {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		if c.conn != nil {
			_ = c.conn.Close() // the newest has the console
		}
		c.conn = conn
		c.mu.Unlock()
		go func() { _, _ = io.Copy(c.feed, conn) }() // ends with the connection
	}
}

// Write sends console output. A reader that does not keep up loses output: a
// guest must not wait for it.
func (c *consoleSocket) Write(p []byte) (int, error) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return 0, errNoConsole
	}
	if err := conn.SetWriteDeadline(time.Now().Add(consoleWait)); err != nil {
		return 0, err
	}
	return conn.Write(p)
}

func (c *consoleSocket) close() {
	_ = c.ln.Close() // removes the socket, too
	_ = c.feed.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close()
	}
}
