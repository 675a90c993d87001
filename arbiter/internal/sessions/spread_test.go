package sessions

import "testing"

func TestHandOver(t *testing.T) {
	for _, tc := range []struct {
		loads map[string]int
		n     int
		to    string
	}{
		{map[string]int{"a": 5}, 0, ""},
		{map[string]int{"b": 5}, 0, ""}, // its own lease is gone
		{map[string]int{"a": 5, "b": 5}, 0, "b"},
		{map[string]int{"a": 5, "b": 4}, 0, "b"},
		{map[string]int{"a": 5, "b": 9}, 0, "b"},
		{map[string]int{"a": 6, "b": 4}, 1, "b"},
		{map[string]int{"a": 6, "b": 5, "c": 0}, 3, "c"},
		{map[string]int{"a": 6, "c": 0, "b": 0}, 3, "b"},
		{map[string]int{"a": 500, "b": 0}, spreadMax, "b"},
	} {
		if n, to := handOver("a", tc.loads); n != tc.n || to != tc.to {
			t.Errorf("%v: %d to %q, want %d to %q", tc.loads, n, to, tc.n, tc.to)
		}
	}
}

// However unevenly the VMs begin, rounds of all arbiters at once even them out.
func TestHandOverConverges(t *testing.T) {
	loads := map[string]int{"a": 200, "b": 0, "c": 150, "d": 3}
	for round := 0; ; round++ {
		type move struct {
			from, to string
			n        int
		}
		var moves []move
		for id := range loads {
			if n, to := handOver(id, loads); n > 0 {
				moves = append(moves, move{id, to, n})
			}
		}
		if len(moves) == 0 {
			break
		}
		if round == 200 {
			t.Fatalf("still moving after %d rounds: %v", round, loads)
		}
		for _, m := range moves {
			loads[m.from] -= m.n
			loads[m.to] += m.n
		}
	}
	least, most := 1<<30, 0
	for _, n := range loads {
		least, most = min(least, n), max(most, n)
	}
	if most-least > 1 {
		t.Errorf("ended at %v", loads)
	}
}
