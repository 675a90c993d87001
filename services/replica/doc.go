// Package replica is a replica's process: a machine, its uplink, its streams to
// the arbiter and to the other copy, and its etcd lease, all driven by the pure
// logic of package role.
//
// One goroutine, the loop, owns the role.Core. Everything that happens comes to
// it through one mailbox, in order: frames that the guest transmits, frames
// that the uplink hears, messages of the streams, and the answers of the
// machine's worker, a second goroutine that pauses, saves, loads and resumes
// the machine. What gathers in the mailbox while the loop is busy is handled
// as one batch, so that reports and confirmations travel in few messages when
// there is much to do and at once when there is little.
package replica
