#!/bin/sh
# Called by udhcpc at each change of the lease.
case $1 in
bound | renew)
	ip addr flush dev "$interface" scope global
	ip addr add "$ip/$mask" dev "$interface"
	for r in $router; do
		ip route add default via "$r" dev "$interface" && break
	done
	: >/etc/resolv.conf
	for d in $dns; do
		echo "nameserver $d" >>/etc/resolv.conf
	done
	;;
deconfig)
	ip link set "$interface" up
	;;
esac
