// Package sim runs whole clusters from a seed: the production cores of
// replicas (role, flow) and arbiters (session, match) with toy guests, an etcd
// of the same semantics (transactions, leases), a network with delays, stalls
// and cuts, and clocks that drift. It injects crashes, pauses, partitions and
// silent periods, and checks after each step what must always hold (DESIGN
// section 3). One seed decides everything: a failing one replays exactly.
//
// A run has two phases. In the first, faults come as the options say, but never
// one that no protocol could survive: a replica is stopped only while the other
// copy is whole. In the second, everything heals, and the cluster must reach
// PROTECTED and answer every client within a bounded time.
//
// The toy guest (guest.go) answers clients' requests from a counter, so that
// the replies say in which order requests were executed. Some requests make
// the copies diverge: a coin is thrown by each copy for itself, and what it
// showed changes later answers.
package sim
