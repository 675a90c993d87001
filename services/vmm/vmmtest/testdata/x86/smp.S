# The second CPU, started by INIT and SIPI, runs rsi rounds of a generator in
# real mode while the first one runs as many of another. The first one leaves
# both results at RESULT, then powers off.
	.include "x86.inc"
	.set	TRAMPOLINE, 0x1000
	.set	SHARED, 0x6000		# done, rounds, result
	mov	$SHARED, %r9d
	movl	$0, (%r9)
	mov	%esi, 4(%r9)
	mov	%rsi, %r10
	lea	ap(%rip), %rsi
	mov	$TRAMPOLINE, %edi
	mov	$apend-ap, %ecx
	cld
	rep movsb
	mov	$LAPIC, %r15d
	movl	$0x1ff, 0xf0(%r15)
	movl	$1<<24, 0x310(%r15)	# to APIC 1
	movl	$0x4500, 0x300(%r15)	# INIT
	movl	$1<<24, 0x310(%r15)
	movl	$0x4600+TRAMPOLINE/4096, 0x300(%r15)	# SIPI
	mov	$42, %ebx
	movabs	$6364136223846793005, %rcx
	mov	$DATA, %r8d
1:	imul	%rcx, %rbx
	add	$0x555, %rbx
	mov	%rbx, %rax
	shr	$46, %rax
	and	$-8, %rax
	xor	%rbx, (%r8,%rax)
	dec	%r10
	jnz	1b
2:	pause
	cmpl	$0, (%r9)
	je	2b
	mov	8(%r9), %eax
	xor	%rax, %rbx
	mov	$RESULT, %eax
	mov	%rbx, (%rax)
	stop	OFF

	.code16
ap:	xor	%ax, %ax
	mov	%ax, %ds
	mov	SHARED+4, %ecx
	mov	$42, %eax
1:	imul	$1664525, %eax, %eax
	add	$1013904223, %eax
	mov	%eax, SHARED+8
	dec	%ecx
	jnz	1b
	movl	$1, SHARED
2:	cli
	hlt
	jmp	2b
apend:
