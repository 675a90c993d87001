# Logs the time stamp counter; if rsi is not 0, sleeps for that many ticks in
# between.
	.include "x86.inc"
	interrupts handler
	movl	$(2<<17)+VECTOR, 0x320(%r15)	# the timer, in deadline mode
	mfence
	mov	$DEVICE, %ebx
1:	lfence
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, LOG(%rbx)
	test	%rsi, %rsi
	jz	1b
	add	%rsi, %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	mov	$0x6e0, %ecx
	xor	%ebp, %ebp
	wrmsr
2:	cli
	test	%ebp, %ebp
	jnz	1b
	sti
	hlt
	jmp	2b
handler:
	inc	%ebp
	movl	$0, 0xb0(%r15)
	iretq
