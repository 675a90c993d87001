// Package role is the logic of a replica: which part it plays for its VM
// (spare, standby, active), what it may emit, and how it moves from one part
// to the next. It is a pure state machine: no goroutine, no clock, no socket.
// The caller turns everything that happens into a method call on [Core], and
// Core answers by calls on [Host].
//
// The caller's duties:
//
//  1. Calls on a Core come from one goroutine. Host methods are called from
//     within them, must not block and must not call the Core back.
//  2. now is the time on one clock that never runs backwards and runs through
//     suspend, as a duration since any fixed instant.
//  3. Flush is called after each batch of calls, so that reports,
//     confirmations and progress leave in few messages.
//  4. Outputs and inputs are given in the order in which they happened. Before
//     Paused is called, every frame that the guest transmitted before it
//     stopped has been given to Output.
//  5. A machine that Host.Pause was called for stays paused until Host.Resume.
//  6. The lease that is told by Lease is the one that etcd holds for this
//     replica; while a SOLO replica emits, the caller checks it again right
//     before a frame leaves.
//  7. Messages of one stream are given in order and not after the stream's end
//     was told.
//
// What Core keeps (DESIGN section 3):
//
//   - In PROTECTED mode an output is emitted only by a release of the current
//     term and epoch, or because the standby staged a checkpoint that holds it.
//   - In SOLO and SYNCING an output is emitted only while the lease is valid,
//     and outputs made after the pause of a first copy wait for the record.
//   - A standby never emits. Its inputs are those of the feed, in order, each
//     exactly once.
//   - A standby is at its old state until a checkpoint is staged whole; a
//     take-over that falls due while a stage is being applied waits for it.
//   - A resynchronization that outputs wait for pauses the guests at once; for
//     others the active copies ahead before, until an output waits.
//   - The term never decreases; messages of another term are dropped.
package role
