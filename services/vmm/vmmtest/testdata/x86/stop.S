# Stops as rsi says: OFF or REBOOT.
	.include "x86.inc"
	mov	%esi, %eax
	out	%al, $STOPPORT
1:	hlt
	jmp	1b
