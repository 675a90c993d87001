// Command service is what a guest runs to be measured: small servers, each on a
// port of its own, whose answers are the same in two copies of the guest but for
// one whose purpose it is to differ. Numbers on the wire are 64 bits,
// little-endian.
//
//	tcp 80    HTTP with keep-alive: / gives 1 KiB without a date, /dated with one
//	tcp 9000  bytes for as long as the client reads
//	tcp 9001  takes bytes; answers each MiB with the number of MiB so far
//	udp 9002  echo
//	tcp 9003  echo of lines
//	tcp 9004  for each byte the time in nanoseconds and 8 random bytes, which copies
//	          that have just been made equal may draw alike for a while
//	tcp 9005  takes a number of rounds, computes so many, answers with the result
//	tcp 9006  takes a number of pages, writes so many with contents of this copy's
//	          own, answers with the number
//	tcp 9007  takes a number of pages, writes so many with the same contents in
//	          each copy, answers with the number
//	tcp 9008  takes a number of pages per second to write from now on, contents
//	          as at 9007; answers with the number
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const pageSize = 4096

func main() {
	serve(9000, send)
	serve(9001, take)
	serve(9003, echo)
	serve(9004, differ)
	serve(9005, numbers(compute))
	scratch := &scratch{}
	serve(9006, numbers(func(n uint64) uint64 { return scratch.write(n, uint64(time.Now().UnixNano())) }))
	serve(9007, numbers(func(n uint64) uint64 { return scratch.write(n, scratch.turn.Add(1)) }))
	rates := make(chan uint64)
	serve(9008, numbers(func(n uint64) uint64 { rates <- n; return n }))
	go scratch.keepWriting(rates)
	go echoDatagrams()

	page := []byte(strings.Repeat("A page of the guest that is measured.\n", 27)) // 1 KiB
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		_, _ = w.Write(page) // the client may have gone
	})
	http.HandleFunc("/dated", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })
	log.Fatal(http.ListenAndServe(":80", nil))
}

// serve answers connections to a port until the process ends.
func serve(port int, handle func(net.Conn)) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				defer func() { _ = c.Close() }() // the client is done with it
				handle(c)
			}()
		}
	}()
}

func send(c net.Conn) {
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

func take(c net.Conn) {
	block := make([]byte, 64<<10)
	var got, told uint64
	for {
		n, err := c.Read(block)
		if err != nil {
			return
		}
		got += uint64(n)
		for ; got>>20 > told; told++ {
			if _, err := c.Write(binary.LittleEndian.AppendUint64(nil, told+1)); err != nil {
				return
			}
		}
	}
}

func echo(c net.Conn) {
	r := bufio.NewReaderSize(c, 512)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if _, err := c.Write(line); err != nil {
			return
		}
	}
}

func differ(c net.Conn) {
	var ask [1]byte
	answer := make([]byte, 16)
	for {
		if _, err := io.ReadFull(c, ask[:]); err != nil {
			return
		}
		binary.LittleEndian.PutUint64(answer, uint64(time.Now().UnixNano()))
		_, _ = rand.Read(answer[8:]) // never fails
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// numbers serves a function of one number.
func numbers(f func(uint64) uint64) func(net.Conn) {
	return func(c net.Conn) {
		var ask [8]byte
		for {
			if _, err := io.ReadFull(c, ask[:]); err != nil {
				return
			}
			if _, err := c.Write(binary.LittleEndian.AppendUint64(nil, f(binary.LittleEndian.Uint64(ask[:])))); err != nil {
				return
			}
		}
	}
}

// compute does rounds of integer arithmetic.
func compute(rounds uint64) uint64 {
	x := uint64(88172645463325252)
	for range rounds {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

func echoDatagrams() {
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 9002})
	if err != nil {
		log.Fatal(err)
	}
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDP(b)
		if err == nil {
			_, err = c.WriteToUDP(b[:n], from)
		}
		if err != nil {
			log.Print(err)
		}
	}
}

// scratch is memory to write to.
type scratch struct {
	turn atomic.Uint64

	mu    sync.Mutex
	words []uint64
	next  int // word that keepWriting goes on at
}

// write fills the first pages with numbers made from a seed.
func (s *scratch) write(pages, seed uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grow(pages)
	fill(s.words[:pages*pageSize/8], seed)
	return pages
}

// grow makes room for pages, beginning at the beginning of one.
func (s *scratch) grow(pages uint64) {
	if n := int(pages * pageSize / 8); len(s.words) < n {
		s.words = nil // the collector may have it before the next is made
		w := make([]uint64, n+pageSize/8)
		for uintptr(unsafe.Pointer(&w[0]))%pageSize != 0 {
			w = w[1:]
		}
		s.words = w[:n]
	}
}

func fill(words []uint64, seed uint64) {
	x := seed*2 + 1
	for i := range words {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		words[i] = x
	}
}

// keepWriting writes pages at the last rate that it was told, per second, round
// and round. At rate 0 it sleeps.
func (s *scratch) keepWriting(rates <-chan uint64) {
	const every = 20 * time.Millisecond
	const span = 16384 // pages: 64 MiB
	tick := time.NewTicker(every)
	for rate := uint64(0); ; {
		if rate == 0 {
			tick.Stop()
			rate = <-rates
			tick.Reset(every)
			continue
		}
		select {
		case rate = <-rates:
			continue
		case <-tick.C:
		}
		s.mu.Lock()
		s.grow(span)
		for range min(rate*uint64(every)/uint64(time.Second), span) {
			p := s.words[s.next : s.next+pageSize/8]
			fill(p[:8], s.turn.Add(1)) // a part of a page is enough to dirty it
			if s.next += pageSize / 8; s.next >= span*pageSize/8 {
				s.next = 0
			}
		}
		s.mu.Unlock()
	}
}
