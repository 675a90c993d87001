// Package sim runs whole clusters from a seed: the production cores of
// replicas (role, flow, disk.Keeper) and arbiters (session, match) for one or several VMs
// with toy guests, an etcd of the same semantics (transactions, leases,
// leaderless periods), a network with delays, stalls, cuts in either direction
// and silence, and clocks that drift and jump. It injects crashes (at random
// times and at chosen steps of the protocol), pauses, partitions and orders of
// an operator, and checks after each step what must always hold (DESIGN
// section 3). One seed decides everything: a failing one replays exactly.
//
// A run has two phases. In the first, faults come as the options say, but never
// one that no protocol could survive: a copy is lost only while the other is
// whole and nobody is about to do without it, or with its disk left. In the second, everything heals,
// and every VM must reach PROTECTED and answer its clients within a bounded
// time.
//
// The toy guest (guest.go) answers clients' questions from a counter, by UDP and
// over TCP connections with real segments (tcp.go), some of which it opens
// itself. Each copy chooses its own initial sequence numbers, segment lengths
// and moments of acknowledgement; some questions make the copies diverge for
// good: a coin is thrown by each copy for itself. Clients fail the run when a
// connection breaks or brings a wrong byte, and their histories must be
// linearizable (porcupine).
//
// Mutations (mutation.go) are deliberate defects, each of which the checks must
// find.
//
// In every other seed the guest keeps its counter on a disk (disk.go), of which
// a host that loses its power keeps only what was synced, and all replicas may be
// lost at once (coldstart.go). In every third it has flows that the copies do not
// agree on, and rules for them (exempt.go).
//
// Not simulated: memory pages and their digests (a checkpoint travels in parts
// that count only together), device and processor state, guest events (power-off,
// reboot), IP fragments, exempt TCP connections, congestion control, and the
// shells themselves (gRPC, goroutines, real etcd), which other tests cover.
package sim
