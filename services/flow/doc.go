// Package flow reduces the frames that a guest transmits to what a client can
// see of them, so that two copies of the guest that ran freely can be compared
// (DESIGN section 4), and translates between the sequence numbers of a copy and
// those that the outside world knows.
//
// # Use
//
// A replica has one Table, used by one goroutine. It is pure: no clock, no
// goroutine, no socket. The caller
//
//  1. gives every frame that the guest transmits to Out, in order, and holds
//     the frame with the Output;
//  2. after each Out, on the active, asks Opened, and sends an Opening to the
//     standby before any later input; the standby gives it to Learn, and
//     reports no outputs of a connection before (AwaitsOpening);
//  3. gives every input to In when the guest gets it, each once, in the same
//     order in both copies;
//  4. gives every frame that leaves to EmitFlow (or Emit);
//  5. calls Confirm for bytes that cannot be probed any more: those that have
//     left, at the active, and those that the active said have left, at the
//     standby;
//  6. at the pause of a resynchronization calls Save at the active, and
//     NewEpoch before its guest goes on; the standby calls Load when it applies
//     the stage. An Opening that was sent after the pause must reach Learn
//     after Load;
//  7. sets rules (SetRules) not between the Save and the NewEpoch of one
//     checkpoint: the standby has those of the Save;
//  8. turns digests off while it runs alone (SetDigests).
//
// # Streams
//
// Offsets of a TCP stream are 64 bits wide. SYN has offset 0 and takes one, as
// has FIN. A digest covers all that the guest sent since the epoch began, so
// equal digests at one offset mean equal streams up to it, however they were
// cut into segments. Not seen by digests: ISN, timestamp values, window, IP
// header, PSH, URG and the urgent pointer, ECN, TTL.
//
// Guests do not always send what is new and next. What is neither is made safe
// so:
//   - Bytes that were reported before have the zero Digest. Where the Table
//     still holds them and the peer has not acknowledged them, they are
//     compared with what was sent first; where they differ, the segment is
//     reported as a Datagram of the flow "tcp-odd", so that the other copy must
//     do the same.
//   - A segment that begins beyond what was seen leaves a gap. The gap's place
//     and length go into the digest; offsets before it cannot be probed any
//     more. Segments that later touch the gap are "tcp-odd" datagrams.
//   - A connection whose opening was not seen is picked up at its first
//     segment, with absolute sequence numbers (plus 2^32) for offsets.
//   - A RST that belongs to no known connection is a "tcp-odd" datagram.
//   - IP fragments are compared as datagrams, TCP in them as well, with
//     sequence numbers, windows and timestamps masked in the first fragment.
//
// # Two number spaces
//
// Guest space is what this copy's guest uses; outside space is what peers see.
// They differ for connections that opened in this epoch. In and Emit translate
// acknowledgement and sequence numbers, SACK edges and timestamps, and the
// sequence number quoted by an ICMP error. TCP MD5 and TCP-AO signatures do not
// survive that. ICMP errors that the guest itself sends quote peers' segments
// with the acknowledgement number that the guest was given.
//
// # Rules
//
// Rules exempt flows from comparison. Both copies change to other rules with an
// epoch: they are part of the state that Save returns. Connections that are
// exempt are followed and translated all the same. Their bytes are in no digest,
// so an exempt flow that is compared again from another epoch on begins there
// like any other.
//
// # Bounds
//
// Limits bounds connections, datagram flows and held bytes. Beyond, the least
// recently used go: closed connections first, then those whose handshake is not
// complete, then others. A connection that was forgotten and speaks again is
// picked up without its translation; a forgotten datagram flow counts from 1
// again. Both can at worst make the copies disagree, which a resynchronization
// heals. Counters tells how often it happened.
package flow
