# Sleeps until LINE interrupts; each time acknowledges it at the device and
# logs how many there were.
	.include "x86.inc"
	interrupts handler
	mov	$IOAPIC, %ebx
	movl	$0x10+2*LINE+1, (%rbx)
	movl	$0, 0x10(%rbx)		# to APIC 0
	movl	$0x10+2*LINE, (%rbx)
	movl	$0x8000+VECTOR, 0x10(%rbx)	# level-triggered
	mov	$DEVICE, %ebx
	xor	%ecx, %ecx
	mov	%rcx, LOG(%rbx)		# ready
1:	sti
	hlt
	jmp	1b
handler:
	movl	$1, ACK(%rbx)
	inc	%rcx
	mov	%rcx, LOG(%rbx)
	movl	$0, 0xb0(%r15)
	iretq
