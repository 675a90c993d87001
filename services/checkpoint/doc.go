// Package checkpoint brings a standby's copy of a guest to the state of the
// active's: memory, disk and an opaque encoded device state (DESIGN section 6).
//
// A Sender and a Receiver know nothing of connections, clocks of the guest or
// roles. The caller carries the Sender's messages to Receiver.Handle and the
// Receiver's answers to Sender.Answer, in order, and pauses the guests.
//
// # What may differ
//
// Each side keeps, across attempts, the set of pages and blocks that its guest
// wrote since the last common epoch. Both sets begin full: before a first
// common epoch everything may differ. Only a checkpoint that the standby
// reported as staged (Sender.Staged), or that was applied (Stage.Apply),
// empties the set; an attempt that is given up, by either side, at any
// message, loses nothing. So correctness never rests on what an earlier
// attempt did.
//
// # One attempt
//
// A resynchronization is Sender.Final with both guests paused. The standby
// answers its CheckpointBegin with the numbers and seeded 128-bit digests of
// what it wrote. The active sends those that differ from its own, and all
// that only itself wrote; then the state; then totals and a digest over
// everything. The standby stages it (in memory; above a limit in an unlinked
// file) and checks the whole.
//
// Sender.Precopy before it, any number of times, does the bulk while both
// guests run. Each round is a cut: what either guest writes after it is
// compared in the next. The standby does not report again what it has staged,
// since after Apply its page is the active's, whatever its own guest wrote.
// Sender.Ahead is the rounds that are worth it where nothing waits for the
// checkpoint, and ends soon where something does.
//
// Sender.Live is the first copy, while the active's guest runs and the
// standby's does not. The receiver writes it straight into its guest, because
// there is nothing to go back to. Rounds follow until what is left fits the
// pause. The answer to a live begin holds digests of all that is not zero at
// the standby, so that an old disk image or a broken-off copy is completed
// rather than repeated.
//
// # Digests
//
// XXH3 with 128 bits decides that pages are equal. It is no cryptographic
// hash; its seed is a random number drawn for each attempt, so that a guest
// cannot prepare pages that collide.
//
// # Limits
//
// The Sender holds the standby's answer (24 bytes for each page and block in
// it) until it is used. The receiver keeps the messages that bring a stage,
// whose buffers may be twice as large as the pages in them. Bulk messages are
// small (128 KiB) while guests run, so that inputs on the same feed wait little
// behind them, and up to 1 MiB when paused. A disk's holes are read like data.
package checkpoint
