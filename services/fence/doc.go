// Package fence keeps, in etcd, who may speak for a VM (DESIGN section 8).
//
// Key layout, below the prefix /understudy/v1:
//
//	vms/<vm>/record         understudy.v1.Record as JSON: the truth about the VM
//	vms/<vm>/owner          arbiter that owns the VM, under the arbiter's lease
//	vms/<vm>/replicas/<id>  replica that lives, under the replica's lease
//	arbiters/<id>           arbiter that lives, under its lease
//
// A key under a lease is put only while no other lease holds it, so that two
// living processes never act under one name.
//
// A record is changed only by one transaction that is conditioned on the
// record's revision, on the owner key being attached to the claim's lease (or,
// for a replica that helps itself, on there being no owner), and on the keys of
// replicas. A lease is therefore as good as a fencing token: a process whose
// lease has ended cannot change a record, whatever it believes.
//
// A Lease tells its holder until when it is valid by the holder's own clock:
// the time at which the last successful keep-alive was *sent*, plus the TTL
// that the server granted, minus a margin, on a clock that runs through
// suspend. The server counts from when it received that keep-alive, and a new
// etcd leader begins every lease's TTL anew, so the holder's end is never after
// the server's, as long as both clocks run at the same rate up to the margin.
//
// Every call has a deadline. A commit whose answer was lost is asked again and
// recognized as its own; where even that has no answer within the deadline, the
// caller is told that the outcome is unknown (ErrUnknown) and must Load.
//
// Limits: names of VMs, replicas and arbiters have at most 63 characters (see
// CheckName); List reads at most MaxVMs records.
package fence
