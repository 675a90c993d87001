// Command guest builds the demo guest: a stock Debian kernel and a small
// initial RAM disk with BusyBox, Redis and the kernel modules of the
// monitor's devices.
//
//	go run ./deploy/guest --arch rv64 --out build/guest/rv64
//
// It needs apt-get, dpkg-deb, xz, a network and no privileges. Everything in
// the image comes from one Debian suite of the mirror that this machine's own
// apt is configured for. apt works on a private configuration, state and
// cache below --cache, so that the machine's package state is neither read nor
// changed; it verifies the suite's signature with the Debian archive keyring
// and is denied every unauthenticated source, and each downloaded package is
// compared once more with the SHA-256 of the signed index.
//
// The output directory receives
//
//	Image or bzImage   the package's kernel, uncompressed where the boot protocol wants that
//	initrd             newc cpio, uncompressed: a guest on the interpreter unpacks it at copying speed
//	host-initrd        amd64 only: for an emulated KVM host, see below
//	cmdline            the kernel command line to add the guest's own words to
//	manifest.txt       the packages, their versions and digests
//	stamp              the digest of everything that the build depends on
//
// A build whose stamp matches does nothing and asks no server; --refresh looks
// for newer packages. Two builds from equal packages give equal bytes.
//
// # What the guest reads from its kernel command line
//
//	ud.ip=192.168.127.2/24   address of eth0; without it, or with ud.ip=dhcp, DHCP is asked
//	ud.gw=192.168.127.1      default route
//	ud.dns=192.168.127.1     name server; several are separated by commas
//	ud.host=NAME             host name (default understudy)
//	ud.service=redis         services, separated by commas:
//	                           redis   redis-server on port 6379
//	                           httpd   BusyBox httpd on port 80, serving /srv
//	                           shell   a shell on the console
//	                           NAME    the program /services/NAME, which package
//	                                   deploy/initrd adds to a copy of the initrd;
//	                                   nobody waits until it listens
//	ud.disk=/dev/vda         ext4 file system for /data (redis: appendonly, fsync always;
//	                         httpd: serves /data). Never formatted by the guest.
//	ud.redis=--maxmemory:64mb  more arguments for redis-server, a colon for each blank
//
// When every service listens, the guest prints "understudy-guest: ready" on
// its console. When the first of the services ends, it unmounts the disk and
// powers off. Without ud.service it runs a shell on the console.
//
// # Emulated KVM hosts
//
// The same amd64 kernel with host-initrd makes a KVM host out of an emulator that
// knows SVM (QEMU: -accel tcg -cpu EPYC,+svm,+npt). Its init loads KVM and a
// virtio network card over PCI, and runs /host/run, which whoever starts the
// host appends to host-initrd in a cpio archive of its own, with the binaries and
// images that it needs. When that ends, the host powers off.
//
// # Limits
//
// The suite is used as released with its point releases; the security and
// updates suites are not added, because an update between two builds would
// only make the demo less repeatable. The guest is a demonstration and is
// meant for a network that its owner trusts: redis listens without a password.
package main
