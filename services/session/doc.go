// Package session is the arbiter's logic for one VM: who is active, which mode
// the VM is in, when the copies resynchronize, and which outputs leave. It is a
// pure state machine: no goroutine, clock, socket or log. Everything that
// happens is an [Input] to [Core.Step]; everything that is to be done comes
// back as a list of [Effect].
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
//     are still queued are dropped then.
//  6. The first message of a stream is told as Attached, later ones as
//     Received, its end as Detached. No message is told after Detached.
//  7. Tick is told every 10 to 25 ms: all deadlines are checked there.
package session
