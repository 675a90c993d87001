# rsi rounds of a generator that fills DATA, then a power-off. All that it
# leaves depends on each step before.
	.include "x86.inc"
	mov	%cr4, %rax
	or	$0x200, %rax		# SSE on
	mov	%rax, %cr4
	mov	$42, %ebx
	movabs	$6364136223846793005, %rcx
	mov	$DATA, %r8d
	mov	$RESULT, %r9d
	movdqu	(%r9), %xmm1
1:	imul	%rcx, %rbx
	add	$0x555, %rbx
	mov	%rbx, %rax
	shr	$46, %rax
	and	$-8, %rax
	add	%r8, %rax
	mov	(%rax), %rdx
	xor	%rbx, %rdx
	mov	%rdx, (%rax)
	mov	%rbx, %rdx
	lock xadd %edx, (%rax)
	xor	%rdx, %rbx
	movdqu	%xmm1, (%r9)		# an older state, kept in xmm1
	add	(%r9), %rbx
	mov	%rbx, (%r9)
	movdqu	(%r9), %xmm1
	movq	$0, (%r9)
	dec	%rsi
	jnz	1b
	mov	%rbx, (%r9)
	stop	OFF
