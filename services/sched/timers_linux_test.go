package sched

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The test's own binary is the program that begins anew.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "coarse" {
		before := os.Getpid()
		Coarse()
		report(before)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// report says the slack of the calling thread, of a new one, and of one that has
// become a hart's.
func report(pid int) {
	say := func() {
		s, err := slack()
		fmt.Println(s, err)
	}
	say()
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends here
		say()
		if err := Steady(); err != nil {
			fmt.Println(err)
		}
		say()
		close(done)
	}()
	<-done
	fmt.Println(os.Args[2], os.Getpid() == pid)
}

func TestCoarseTimersButForHarts(t *testing.T) {
	for name, c := range map[string]struct {
		given, want time.Duration // given: the slack of who starts the program
	}{
		"as the kernel gives it": {kernelSlack, coarseSlack},
		"as an operator wants":   {3 * time.Millisecond, 3 * time.Millisecond},
	} {
		out := make(chan string)
		go func() {
			runtime.LockOSThread() // and not unlocked: nobody gets the thread's slack
			if err := setSlack(c.given); err != nil {
				t.Error(err)
			}
			b, err := exec.Command("/proc/self/exe", "coarse", "two words").CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			out <- string(b)
		}()
		want := strings.Join([]string{
			c.want.String() + " <nil>", c.want.String() + " <nil>", kernelSlack.String() + " <nil>", "two words true", "",
		}, "\n")
		if got := <-out; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
