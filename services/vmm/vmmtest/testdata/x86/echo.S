# rsi rounds of device accesses: logs the round, reads the count and mixes it
# into a sum, which it leaves at RESULT.
	.include "x86.inc"
	mov	$DEVICE, %ebx
	xor	%ecx, %ecx
	mov	$1, %r8d
1:	mov	%rcx, LOG(%rbx)
	imul	$31, %r8, %r8
	add	COUNT(%rbx), %r8
	inc	%rcx
	cmp	%rsi, %rcx
	jne	1b
	mov	$RESULT, %eax
	mov	%r8, (%rax)
	stop	OFF
