// Package feed holds the transports of a replica: the Feed stream between the
// active and the standby, and the Attach stream to the arbiter.
//
// They carry messages in order and say when a peer is gone. What the messages
// mean is the business of the owner.
//
// # Sending
//
// Messages wait in a queue that is bounded in bytes. Active.Send, Active.Input
// and Standby.Send block while it is full, for Config.SendTimeout at most;
// Attach.Send never blocks, a full queue ends its stream. What is sent while
// nothing waits leaves at once; inputs that have to wait travel together.
//
// # Silence
//
// A broken connection ends a stream at once. A peer that keeps the connection
// and says nothing ends it after Config.SilentAfter: each end of a feed says
// something at least every Config.PingInterval, ahead of all that waits in its
// queue, and so does the arbiter to its replicas. The time that the owner spends in
// OnMessage does not count, because nothing is read meanwhile.
//
// # Ending
//
// Close never blocks, may be called by any goroutine, callbacks included, and
// gives up what is queued. OnDown follows the last OnMessage, once. An
// OnMessage that blocks delays OnDown; the context of the stream is cancelled
// at once.
//
// # Guest time
//
// A ping carries the active's guest time and echoes the standby's last pong.
// What the two took on their way, together, bounds what the ping alone took
// (see clock), so that the standby can set its guest's clock so that it is
// not behind the active's, whatever the network does.
package feed
