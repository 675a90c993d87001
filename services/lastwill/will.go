// Package lastwill closes connections at the moment at which this process dies.
//
// Of a process that is killed the kernel takes the memory down first and closes
// the connections afterwards. With a guest in it the first takes from tens of
// milliseconds up to seconds, in which its peers cannot know that it is dead.
//
// A Will is a small child process that has duplicates of connections and waits for
// a futex that a thread of this process holds. Of a thread that dies with a robust
// futex (set_robust_list(2)) the kernel wakes those who wait, and that before it
// takes the memory down. The child then shuts the connections down. It ends with
// this process however that ends; where it is killed itself, peers learn of a death
// as late as without it.
package lastwill

import (
	"net"
	"os"
	"sync"
)

// childName is the name (argv[0]) of the child process.
const childName = "understudy-last-will"

// Enter is the child process where it is called in one, and does not return there.
// A program that calls New calls it first.
func Enter() {
	if len(os.Args) == 1 && os.Args[0] == childName {
		os.Exit(child())
	}
}

// Will is a child process that outlives this one by a moment. Its methods may be
// called by any goroutine.
type Will struct {
	mu   sync.Mutex
	last uint64 // number of the newest connection
	to   *net.UnixConn
}
