package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// made is an output in a replica's trace.
type made struct {
	at, epoch, id  uint64
	kind           pb.OutputKind
	flow, end, ack uint64
}

// flowOf names a flow in an epoch.
type flowOf struct{ epoch, flow uint64 }

// size of a file, 0 where there is none.
func size(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// releases returns, for each compared output that the active has been allowed
// to send, the time from the later of both digests to the release, in
// microseconds, from what the active's and the standby's traces hold behind from.
func releases(traces [2]string, from [2]int64) ([]float64, error) {
	type release struct{ at, epoch, id uint64 }
	var released []release
	own := map[[2]uint64]made{}
	other := map[flowOf][]made{}
	for side, name := range traces {
		err := readTrace(name, from[side], func(what string, n []uint64) {
			switch {
			case what == "output" && len(n) == 7:
				m := made{n[0], n[1], n[2], pb.OutputKind(n[3]), n[4], n[5], n[6]}
				if side == 0 {
					own[[2]uint64{m.epoch, m.id}] = m
				} else {
					f := flowOf{m.epoch, m.flow}
					other[f] = append(other[f], m)
				}
			case what == "release" && len(n) == 3 && side == 0:
				released = append(released, release{n[0], n[1], n[2]})
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read the trace of outputs: %w", err)
		}
	}
	var waits []float64
	for _, r := range released {
		m, ok := own[[2]uint64{r.epoch, r.id}]
		if !ok || m.kind == pb.OutputKind_OUTPUT_KIND_PASS {
			continue
		}
		// The standby's first output that covers it: offsets only grow.
		same := other[flowOf{m.epoch, m.flow}]
		i := sort.Search(len(same), func(i int) bool { return same[i].end >= m.end && same[i].ack >= m.ack })
		if i == len(same) {
			continue // it began before the part of the trace that is read
		}
		if later := max(m.at, same[i].at); r.at >= later {
			waits = append(waits, float64(r.at-later)/1000)
		}
	}
	if len(waits) == 0 {
		return nil, fmt.Errorf("no release among %d in the trace has both its digests there", len(released))
	}
	return waits, nil
}

// readTrace calls f with each whole line of a trace behind an offset.
func readTrace(name string, from int64, f func(what string, numbers []uint64)) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		var numbers []uint64
		for _, word := range strings.Fields(rest) {
			n, err := strconv.ParseUint(word, 10, 64)
			if err != nil {
				break // a line that is being written
			}
			numbers = append(numbers, n)
		}
		f(what, numbers)
	}
	return lines.Err()
}
