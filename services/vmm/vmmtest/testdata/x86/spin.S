# Runs forever, counting in memory.
	.include "x86.inc"
	mov	$RESULT, %ebx
1:	incq	(%rbx)
	jmp	1b
