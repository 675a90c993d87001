package role

import (
	"fmt"
	"slices"
	"testing"
)

// At a take-over the guest gets what its network card has heard and the feed has
// not brought; not what the active had before this copy began, or long ago.
func TestMissed(t *testing.T) {
	frames := func(from, to int) (all [][]byte) {
		for n := from; n < to; n++ {
			all = append(all, []byte(fmt.Sprint(n)))
		}
		return all
	}
	swapped := slices.Concat(frames(0, 999), frames(1000, 1001), frames(999, 1000), frames(1001, 1010))
	for name, c := range map[string]struct {
		fed, heard, want [][]byte
	}{
		"nothing heard":                         {frames(0, 10), nil, nil},
		"all fed":                               {frames(0, 1000), frames(0, 1000), nil},
		"the feed ended before":                 {frames(0, 1000), frames(0, 1010), frames(1000, 1010)},
		"many after its end":                    {frames(0, 1000), frames(0, 9000), frames(1000, 9000)},
		"a copy that began late":                {frames(900, 1000), frames(0, 1010), frames(1000, 1010)},
		"a copy that began just now":            {frames(990, 1000), frames(0, 1010), slices.Concat(frames(999-outrun, 990), frames(1000, 1010))},
		"a copy that was fed nothing":           {nil, frames(0, 1010), frames(1010-outrun, 1010)},
		"more than is remembered":               {frames(0, 9000), frames(0, 9010), frames(9000, 9010)},
		"the active heard two in another order": {slices.Concat(frames(0, 999), frames(1000, 1001)), swapped, swapped[1000:]},
	} {
		var r recent
		for _, f := range c.fed {
			r.add(f)
		}
		if got := r.missed(c.heard); !slices.EqualFunc(got, c.want, slices.Equal) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
