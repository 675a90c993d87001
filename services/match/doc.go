// Package match compares what the two copies of a guest send to the outside
// and decides which outputs of the active may leave (DESIGN section 4). It is a
// pure core: no goroutine, clock or socket; reports in, effects out.
//
// Streams are compared by byte ranges. Each side reports cumulative digests at
// its segment ends. Equal digests at one offset prove that all bytes below are
// equal, so per flow only the highest such offset is kept (agreed), with the
// points of each side above it. Where a boundary of the active lies inside what
// the standby has already reported, the standby is probed for its digest there.
// A segment of the active is released once its bytes are agreed, the standby
// has acknowledged as much, and has sent an RST if this is one. A window that
// opens further than the standby's is released with a limit; a mere window
// update that the limit would leave without effect waits for the standby. A
// window that is all but shut, and that only the active opens, is something that
// only the active has sent.
//
// Datagrams and events are compared one by one in the order of their flow.
//
// An output that only one side has made is a disagreement when the other side
// has been given as many inputs and has been idle for CompareIdle since, or
// when CompareMax has passed. Acknowledgements that only the standby sends are
// none: they do no harm unless the active never sends them, and then the client
// sends again.
//
// The caller's duties:
//
//  1. Times do not decrease. A Report is told before any Progress that the same
//     side sent after it.
//  2. Each side's reports come in the order in which its guest made the
//     outputs, each once, and only those of the current epoch.
//  3. After each call, Releases, Probes and Disagreement are read, then Clear
//     is called.
//  4. After a Disagreement nothing is compared until Reset; only outputs that
//     need no comparison are released.
//  5. Tick is called when it is due, or some tens of milliseconds later.
//
// What a Reset knows: the standby's new state is the active's, and all that the
// active had sent is agreed by definition. So offsets, acknowledgements and
// window edges that the active had reported are carried over as the standby's.
// For a flow that was not seen before the Reset, a segment that acknowledges
// waits for the first acknowledgement that the standby sends; a lone
// retransmission there ends in a time-out, whose resynchronization heals it.
//
// Memory is bounded by Limits. Flows at rest are forgotten, the longest unused
// first, when room is needed; digests are cumulative, so a forgotten flow is
// learnt anew at any point that both sides report.
package match
