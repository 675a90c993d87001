// Command gateway is a network for protected guests that needs no privileges:
// a small Ethernet switch whose ports are the replicas' uplinks, with a TCP/IP
// stack in user mode behind it that is the guests' router, DHCP and DNS
// server, translates their connections to the outside, and forwards ports of
// the host to them.
//
//	gateway --listen unix:/run/understudy/gateway.sock \
//	        --forward 127.0.0.1:6379=192.168.127.2:6379
//
// The gateway is a process of its own, so that it outlives every replica.
//
// # The switch
//
// A guest's address belongs to the port that last spoke from it, so a
// fail-over moves it with the first frame (usually a gratuitous ARP). Frames
// for a guest go to that port and, besides, to every muted port: a standby
// keeps the last moments of them, for a fail-over (DESIGN section 5). What
// comes from a muted port is dropped. A port that ends is removed at once;
// frames for its guest then go to all ports, until one speaks from the
// address. A port that takes frames too slowly loses some, as on any switch,
// and one that takes none for some seconds is removed; other ports do not
// notice.
//
// # The stack
//
// TCP connections through a forwarded port end in the gateway on both sides.
// Towards the guest the stack never gives an established connection up for
// missing acknowledgements, and its retransmission time-out stays between 60 ms
// (above the 40 ms for which Linux delays acknowledgements) and 1 s, so that a
// connection goes on quickly after a gap, however long that was. An
// acknowledgement waits up to 10 ms for data to travel with, as other hosts' do:
// a guest's next request brings it, mostly.
//
// # Limits
//
// IPv4 only. Whoever may connect to the listening address is on the guests'
// network: with a unix socket, who has the rights to its file; with HOST:PORT,
// who holds a replica's certificate of the same CA, of whichever VM. Addresses
// other than loopback need certificates (--tls-ca, --tls-cert, --tls-key) or
// --insecure. A restart of the gateway ends the connections through it.
package main
