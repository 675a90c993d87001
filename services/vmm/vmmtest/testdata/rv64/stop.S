# Stops as a0 says: OFF or REBOOT.
	.include "rv64.inc"
	j	stopnow
