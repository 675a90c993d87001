package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// serve answers connections on a loopback address until the test ends.
func serve(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				answer(c)
			}()
		}
	}()
	return ln.Addr().String()
}

const span = 200 * time.Millisecond

func TestLoopsCountAnswers(t *testing.T) {
	echo := serve(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	source := serve(t, func(c net.Conn) {
		for block := make([]byte, 1<<16); ; {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
	sink := serve(t, func(c net.Conn) {
		for {
			if _, err := io.CopyN(io.Discard, c, 1<<20); err != nil {
				return
			}
			if _, err := c.Write(make([]byte, 8)); err != nil {
				return
			}
		}
	})
	page := serve(t, func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
			}
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"); err != nil {
				return
			}
		}
	})
	redis := serve(t, func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			for range 5 { // *2, $3, GET, $1, k
				if _, err := r.ReadString('\n'); err != nil {
					return
				}
			}
			if _, err := io.WriteString(c, "$3\r\nabc\r\n"); err != nil {
				return
			}
		}
	})
	for name, open := range map[string]func(int) (Client, error){
		"exchange": Exchange(echo, []byte("12345678"), 8, 1),
		"short":    Short(echo),
		"download": Download(source),
		"upload":   Upload(sink),
		"HTTP":     HTTP(page, "/"),
		"Redis":    Redis(redis, 4, '$', func(int) []string { return []string{"GET", "k"} }),
	} {
		s, err := Loop{Clients: 2, Open: open}.Run(t.Context(), span)
		if err != nil || s.Answers < 2 || s.PerSecond <= 0 || s.P50 > s.P99 || s.P99 > s.Longest {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if n, err := Number(echo, 42); err != nil || n != 42 {
		t.Errorf("number: %d, %v", n, err)
	}
}

// A datagram that is lost is sent again, and one answer counts once.
func TestUDPSendsAgain(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		b := make([]byte, 100)
		for i := 0; ; i++ {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if i == 0 {
				continue // lost
			}
			for range 2 {
				_, _ = c.WriteTo(b[:n], from)
			}
		}
	}()
	open := UDP(c.LocalAddr().String())
	client, err := open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 3 {
		if n, err := client.Do(time.Now().Add(replyTimeout)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
}

// An answer that takes longer than the span counts by the part of it.
func TestSlowAnswer(t *testing.T) {
	const takes = 300 * time.Millisecond
	slow := serve(t, func(c net.Conn) {
		b := make([]byte, 1)
		if _, err := c.Read(b); err == nil {
			time.Sleep(takes)
			_, _ = c.Write(b)
		}
	})
	s, err := Loop{Clients: 1, Open: Exchange(slow, []byte("x"), 1, 30)}.Run(t.Context(), takes/3)
	if most := 30 / takes.Seconds(); err != nil || s.Answers != 1 || s.PerSecond > most || s.PerSecond <= 0 {
		t.Errorf("%+v, %v, at most %v a second are possible", s, err, most)
	}
}

// A wrong answer and a broken connection end a run with an error.
func TestWrongAnswers(t *testing.T) {
	wrong := serve(t, func(c net.Conn) {
		b := make([]byte, 100)
		if _, err := c.Read(b); err == nil {
			_, _ = fmt.Fprint(c, "-ERR no\r\nwhat else\n")
		}
	})
	for name, open := range map[string]func(int) (Client, error){
		"Redis": Redis(wrong, 1, '+', func(int) []string { return []string{"PING"} }),
		"short": Short(wrong),
		"HTTP":  HTTP(wrong, "/"),
		"ended": Exchange(wrong, []byte("x"), 1000, 1),
	} {
		if s, err := (Loop{Clients: 1, Open: open}).Run(t.Context(), span); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	refused := errors.New("refused")
	_, err := Loop{Clients: 1, Open: func(int) (Client, error) { return nil, refused }}.Run(t.Context(), span)
	if !errors.Is(err, refused) {
		t.Errorf("no connection: %v", err)
	}
}

// A wait counts while it lasts, and later for who asks about the time before its
// end.
func TestLongestGapCountsTheWaitThatLasts(t *testing.T) {
	asked, answer := make(chan time.Time, 1), make(chan struct{})
	redis := serve(t, func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			for range 7 { // *3, $3, SET, $4, w0:1, $1, 1
				if _, err := r.ReadString('\n'); err != nil {
					return
				}
			}
			select {
			case asked <- time.Now():
			default:
			}
			<-answer
			if _, err := io.WriteString(c, "+OK\r\n"); err != nil {
				return
			}
		}
	})
	l, err := Start(redis, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	since := <-asked
	time.Sleep(2 * noteworthy)
	least := time.Since(since)
	if got := l.LongestGap(time.Now()); got < least {
		t.Errorf("a wait that has lasted for %v counts as %v", least, got)
	}
	close(answer)
	l.Stop()
	if got := l.LongestGap(since); got < least {
		t.Errorf("a wait of at least %v counts as %v", least, got)
	}
	if got := l.LongestGap(time.Now()); got != 0 {
		t.Errorf("when all is over, a wait of %v is said to last", got)
	}
}
