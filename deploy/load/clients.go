package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// redisClient repeats one command to Redis, several at once.
type redisClient struct {
	*conn
	request []byte
	depth   int
	answer  byte // first byte of each answer
}

// Redis returns clients that send one command, depth at once. answer is the
// first byte that each answer must have.
func Redis(addr string, depth int, answer byte, command func(client int) []string) func(int) (Client, error) {
	return func(client int) (Client, error) {
		c, err := dial(addr)
		if err != nil {
			return nil, err
		}
		one := appendCommand(nil, command(client)...)
		return &redisClient{conn: c, request: bytes.Repeat(one, depth), depth: depth, answer: answer}, nil
	}
}

func (c *redisClient) Do(deadline time.Time) (float64, error) {
	if err := c.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if _, err := c.Write(c.request); err != nil {
		return 0, err
	}
	for range c.depth {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if line[0] != c.answer {
			return 0, fmt.Errorf("redis answered %q", line)
		}
		if c.answer == '$' {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
			if err != nil || n < 0 {
				return 0, fmt.Errorf("redis answered %q", line)
			}
			if _, err := c.r.Discard(n + 2); err != nil {
				return 0, err
			}
		}
	}
	return float64(c.depth), nil
}

// httpClient asks for one page over one connection.
type httpClient struct {
	net.Conn
	r       *bufio.Reader
	request []byte
}

// HTTP returns clients that get a page again and again, with keep-alive.
func HTTP(addr, path string) func(int) (Client, error) {
	return func(int) (Client, error) {
		c, err := net.DialTimeout("tcp", addr, dialTimeout)
		if err != nil {
			return nil, err
		}
		return &httpClient{Conn: c, r: bufio.NewReader(c), request: []byte("GET " + path + " HTTP/1.1\r\nHost: guest\r\n\r\n")}, nil
	}
}

func (c *httpClient) Do(deadline time.Time) (float64, error) {
	if err := c.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if _, err := c.Write(c.request); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }() // read to its end
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0, err
	}
	if answer.StatusCode != http.StatusOK || answer.Close {
		return 0, fmt.Errorf("HTTP answered %s", answer.Status)
	}
	return 1, nil
}

// exchange sends a request and reads an answer of a fixed size.
type exchange struct {
	net.Conn
	request, answer []byte
	units           float64
	same            bool // the answer must be the request
}

func (c *exchange) Do(deadline time.Time) (float64, error) {
	if err := c.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if len(c.request) > 0 {
		if _, err := c.Write(c.request); err != nil {
			return 0, err
		}
	}
	if _, err := io.ReadFull(c.Conn, c.answer); err != nil {
		return 0, err
	}
	if c.same && !bytes.Equal(c.request, c.answer) {
		return 0, fmt.Errorf("the echo of %q is %q", c.request, c.answer)
	}
	return c.units, nil
}

// Exchange returns clients that send a request and read answer bytes, each of
// which counts units.
func Exchange(addr string, request []byte, answer int, units float64) func(int) (Client, error) {
	return func(int) (Client, error) {
		c, err := net.DialTimeout("tcp", addr, dialTimeout)
		if err != nil {
			return nil, err
		}
		return &exchange{Conn: c, request: request, answer: make([]byte, answer), units: units}, nil
	}
}

// Download returns clients that read what a server sends without being asked;
// units are MiB.
func Download(addr string) func(int) (Client, error) {
	return Exchange(addr, nil, 1<<18, 0.25)
}

// Upload returns clients that send a MiB and read its receipt of 8 bytes; units
// are MiB.
func Upload(addr string) func(int) (Client, error) {
	return Exchange(addr, make([]byte, 1<<20), 8, 1)
}

// Number asks a server of numbers once and returns its answer.
func Number(addr string, n uint64) (uint64, error) {
	c, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return 0, err
	}
	e := &exchange{Conn: c, request: binary.LittleEndian.AppendUint64(nil, n), answer: make([]byte, 8)}
	defer func() { _ = e.Close() }() // it has served
	if _, err := e.Do(time.Now().Add(replyTimeout)); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(e.answer), nil
}

// datagrams is a ping-pong of UDP.
type datagrams struct {
	net.Conn
	n      uint64
	buffer []byte
}

// retransmit is the wait after which a datagram is sent again.
const retransmit = 500 * time.Millisecond

// UDP returns clients that send a datagram and wait for its echo. One that is
// lost is sent again.
func UDP(addr string) func(int) (Client, error) {
	return func(int) (Client, error) {
		c, err := net.Dial("udp", addr)
		if err != nil {
			return nil, err
		}
		return &datagrams{Conn: c, buffer: make([]byte, 64)}, nil
	}
}

func (c *datagrams) Do(deadline time.Time) (float64, error) {
	c.n++
	ask := binary.LittleEndian.AppendUint64(make([]byte, 0, 64), c.n)[:64]
	for time.Now().Before(deadline) {
		if _, err := c.Write(ask); err != nil {
			return 0, err
		}
		if err := c.SetReadDeadline(time.Now().Add(retransmit)); err != nil {
			return 0, err
		}
		for {
			n, err := c.Read(c.buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return 0, err
			}
			if n == len(ask) && bytes.Equal(c.buffer, ask) {
				return 1, nil
			}
		}
	}
	return 0, errors.New("no datagram came back")
}

// short opens a connection for each request.
type short struct{ addr string }

// Short returns clients that open a connection, say a line, hear it back, and
// close the connection.
func Short(addr string) func(int) (Client, error) {
	return func(int) (Client, error) { return short{addr}, nil }
}

func (s short) Do(deadline time.Time) (float64, error) {
	d := net.Dialer{Deadline: deadline}
	c, err := d.Dial("tcp", s.addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // it has served
	line := []byte("how do you do\n")
	return (&exchange{Conn: c, request: line, answer: make([]byte, len(line)), units: 1, same: true}).Do(deadline)
}

func (s short) Close() error { return nil }
