// Package session is the arbiter's logic for one VM: who is active, which mode
// the VM is in, when the copies resynchronize, and which outputs leave. It is a
// pure state machine: no goroutine, clock, socket or log. Everything that
// happens is an [Input] to [Core.Step]; everything that is to be done comes
// back as a list of [Effect]. Package match compares the outputs.
//
// The caller's duties:
//
//  1. Calls on a Core come from one goroutine, with times that do not decrease.
//  2. The effects of a Step are carried out in their order, before the effects
//     of the next. None of them blocks: messages are queued.
//  3. A Send to a stream whose queue is full ends that stream; the caller tells
//     Detached. Messages of one stream keep their order.
//  4. A Commit is one etcd transaction, exactly as described there, and is
//     answered by exactly one Committed or CommitFailed within a deadline. It
//     also carries the condition that this arbiter still owns the VM; where
//     that one fails, the caller tells Disowned instead of an answer.
//  5. Owned is told only while this arbiter provably owns the VM (its key,
//     under its lease), with the record read after the ownership began.
//     Disowned is told as soon as that cannot be proved any more, by the
//     arbiter's own clock and before the lease can have run out; Sends that
//     are still queued are dropped then, and no answer to an earlier Commit is
//     told any more.
//  6. The first message of a stream is told as Attached, later ones as
//     Received, its end as Detached. No message is told after Detached.
//  7. Tick is told when it is Due: all deadlines are checked there. A caller
//     that stood still tells Tick as soon as it goes on; the silence of the
//     replicas meanwhile is not held against them.
//
// What a Core keeps:
//
//   - What operators have ordered to last (policy, suspended, drained) is in the
//     record, and a change of it alone is a Commit in the same term. No term
//     begins that does not obey it. Another policy holds from another epoch on.
//   - Every change of the active or of the mode is a Commit with the next term,
//     conditioned on the leases of those that it gives a part. Nobody is told of
//     a term before its Commit is known to have succeeded, and there is never
//     more than one Commit without an answer.
//   - A Commit whose answer was lost may have succeeded. Until another Commit
//     against the same revision has told, nothing is decided on the old record.
//   - A SOLO or SYNCING record is assigned only under the lease that its
//     transaction was conditioned on. An active with another lease (a new owner
//     does not know which it was) makes a Commit of its own.
//   - Outputs are compared only in PROTECTED, and only those of an epoch that
//     was reported here from its first output on. Whenever a stream of either
//     copy was interrupted, a resynchronization precedes.
//   - An epoch counts from the standby's word that it has staged it (its
//     EpochStarted, or a heartbeat from within the epoch).
//   - A copy counts only if the record names its replica. The term that such a
//     replica acts under may be older than the record's: the assignment may have
//     been lost on its way. Who is named has had the VM's history ever since it
//     joined, for it joined by an assignment.
//   - The active is not given up, and neither is the standby, on the other's
//     word alone: a standby that loses the feed may be the first to notice that
//     the active's host has died.
//   - No copy is made the only one that has missed heartbeats while the other may
//     come back, nor soon after this Core itself stood still: replicas leave
//     because of that silence, and what is heard first was sent before it.
//   - A guest boots on a candidate only if the keys of all replicas that may hold
//     a copy are gone, or these say themselves that they hold none.
//   - It boots from a disk only if that has all that the outside was told of: the
//     record names the active's image, and in PROTECTED, and after an end that
//     both guests made, the standby's is as good unless it says that a
//     checkpoint was being written to it.
//
// Limits: an order of several steps (a switch-over, a test of the fail-over) ends
// with this Core's ownership; after a switch the VM is unprotected until the old
// active has been copied to anew; the lag of the feed is no reason to drop a standby (Policy has no
// bound for it); a first copy during which either replica loses the arbiter
// begins anew.
package session
