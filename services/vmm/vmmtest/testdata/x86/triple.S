# A triple fault.
	.include "x86.inc"
	sub	$16, %rsp
	mov	$RESULT, %eax
	movq	$0, (%rax)
	movq	$0, 8(%rax)
	lidt	(%rax)
	ud2
