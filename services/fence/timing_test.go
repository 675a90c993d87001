package fence

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	ms  = time.Millisecond
	sec = time.Second
)

// A script of what happens to a lease with TTL 3 s and margin 500 ms, and what
// its holder may rely on and does next after each line.
func TestTiming(t *testing.T) {
	type event func(*timing)
	granted := func(id int64, ttl, sent time.Duration) event {
		return func(x *timing) { x.grantedAt(id, ttl, sent) }
	}
	put := func(x *timing) { x.putDone() }
	renewed := func(ttl, sent time.Duration) event { return func(x *timing) { x.renewedAt(ttl, sent) } }
	failed := func(now time.Duration) event { return func(x *timing) { x.failed(now) } }
	gone := func(now time.Duration) event { return func(x *timing) { x.gone(now) } }

	type line struct {
		what  string
		event event
		want  Grant
		next  step
		due   time.Duration
	}
	for name, script := range map[string][]line{
		"counts from the time of sending": {
			{"granted, but the key is not put yet", granted(7, 3*sec, 10*sec), Grant{}, stepPut, 10 * sec},
			{"put", put, Grant{7, 12500 * ms}, stepRenew, 10500 * ms},
			{"renewed", renewed(3*sec, 10600*ms), Grant{7, 13100 * ms}, stepRenew, 11100 * ms},
		},
		"the server's TTL counts": {
			{"granted more than asked", granted(7, 6*sec, 0), Grant{}, stepPut, 0},
			{"put", put, Grant{7, 5500 * ms}, stepRenew, 1 * sec},
			{"renewed for less", renewed(3*sec, 1*sec), Grant{7, 3500 * ms}, stepRenew, 1500 * ms},
		},
		"failures do not extend": {
			{"granted", granted(7, 3*sec, 0), Grant{}, stepPut, 0},
			{"put", put, Grant{7, 2500 * ms}, stepRenew, 500 * ms},
			{"no answer", failed(1250 * ms), Grant{7, 2500 * ms}, stepRenew, 1500 * ms},
			{"no answer", failed(2250 * ms), Grant{7, 2500 * ms}, stepRenew, 2500 * ms},
			{"no answer, past the end", failed(9 * sec), Grant{7, 2500 * ms}, stepRenew, 9250 * ms},
			{"the server still had it", renewed(3*sec, 9250*ms), Grant{7, 11750 * ms}, stepRenew, 9750 * ms},
		},
		"gone means a new one": {
			{"granted", granted(7, 3*sec, 0), Grant{}, stepPut, 0},
			{"put", put, Grant{7, 2500 * ms}, stepRenew, 500 * ms},
			{"unknown to the server", gone(600 * ms), Grant{}, stepGrant, 600 * ms},
			{"no answer", failed(700 * ms), Grant{}, stepGrant, 950 * ms},
			{"granted", granted(8, 3*sec, 950*ms), Grant{}, stepPut, 950 * ms},
			{"key taken or no answer", failed(1000 * ms), Grant{}, stepPut, 1250 * ms},
			{"put late", put, Grant{8, 3450 * ms}, stepRenew, 1450 * ms},
		},
		"a TTL of nothing is gone, too": {
			{"granted", granted(7, 3*sec, 0), Grant{}, stepPut, 0},
			{"put", put, Grant{7, 2500 * ms}, stepRenew, 500 * ms},
			{"TTL 0", renewed(0, 500*ms), Grant{}, stepGrant, 500 * ms},
		},
		"a margin above the TTL proves nothing": {
			{"granted", granted(7, 0, 0), Grant{}, stepPut, 0},
			{"put", put, Grant{7, -500 * ms}, stepRenew, 500 * ms},
		},
	} {
		x := timing{ttl: 3 * sec, margin: 500 * ms}
		for i, l := range script {
			l.event(&x)
			next, due := x.next()
			if g := x.grant(); g != l.want || next != l.next || due != l.due {
				t.Errorf("%s: line %d (%s): grant %v, next %v at %v; want %v, %v at %v",
					name, i, l.what, g, next, due, l.want, l.next, l.due)
			}
		}
	}
}

func TestGrantValidUpToItsEnd(t *testing.T) {
	for _, tc := range []struct {
		g    Grant
		now  time.Duration
		want bool
	}{
		{Grant{}, 0, false}, {Grant{}, -sec, false}, {Grant{0, sec}, 0, false},
		{Grant{1, sec}, 0, true}, {Grant{1, sec}, sec - 1, true}, {Grant{1, sec}, sec, false},
	} {
		if got := tc.g.Valid(tc.now); got != tc.want {
			t.Errorf("%v at %v: %v", tc.g, tc.now, got)
		}
	}
}

// Whatever gets lost or delayed on the way, a holder that believes in its lease
// is right: the server's lease ends later. The model server counts the TTL from
// when a request reaches it.
func TestHolderNeverOutlivesTheServersLease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const ttl = 3 * sec
		x := timing{ttl: ttl, margin: 500 * ms}
		delay := rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(4*sec)).Draw(t, "d"))
		})
		var now, end time.Duration // end of the server's lease id
		var id int64
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			what, due := x.next()
			now = max(now, due) + delay.Draw(t, "late")/8
			sent := now
			now += delay.Draw(t, "there")
			arrives := rapid.Bool().Draw(t, "arrives")
			known := arrives && id != 0 && x.id == id && now < end
			if what == stepGrant && arrives {
				id++
				end, known = now+ttl, true
			} else if known && what == stepRenew {
				end = now + ttl
			}
			now += delay.Draw(t, "back")
			answered := arrives && rapid.Bool().Draw(t, "answered")
			switch {
			case !answered:
				x.failed(now)
			case !known:
				x.gone(now)
			case what == stepGrant:
				x.grantedAt(id, ttl, sent)
			case what == stepPut:
				x.putDone()
			default:
				x.renewedAt(ttl, sent)
			}
			if g := x.grant(); g.ID != 0 && (g.ID != id || g.Until >= end) {
				t.Fatalf("holder trusts lease %d until %v; the server's is %d until %v", g.ID, g.Until, id, end)
			}
		}
	})
}

func TestClockRunsForward(t *testing.T) {
	a := Now()
	if b := Now(); b < a || a <= 0 {
		t.Errorf("clock went from %v to %v", a, b)
	}
}

func TestNames(t *testing.T) {
	long := string(make([]byte, 1<<20))
	for name, ok := range map[string]bool{
		"web": true, "r-1.a_b": true, "0": true,
		"": false, "a/b": false, ".": false, "../x": false, "a b": false, "é": false, "a\n": false, long: false,
		"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff123":  true,
		"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234": false,
	} {
		err := CheckName("VM", name)
		if (err == nil) != ok {
			t.Errorf("%.20q: %v", name, err)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	}
}
