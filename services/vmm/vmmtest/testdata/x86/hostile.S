# Accesses of all kinds where there is nothing, ports included, then an access
# across the end of a page of the device, then a log of 1.
	.include "x86.inc"
	mov	$DEVICE+0x10000, %ebx
	mov	(%rbx), %al
	mov	1(%rbx), %ax
	mov	3(%rbx), %eax
	mov	5(%rbx), %rax
	mov	%al, (%rbx)
	mov	%ax, 1(%rbx)
	mov	%eax, 0xffe(%rbx)
	mov	%rax, 0xffd(%rbx)
	mov	0xffb(%rbx), %rax
	movabs	$0xbffffffc, %rbx	# from the last bytes below the hole into it
	mov	(%rbx), %rax
	mov	%rax, (%rbx)
	mov	$0xffff, %edx
	in	%dx, %al
	out	%eax, %dx
	mov	$0x3f0, %edx
	in	%dx, %ax
	in	%dx, %eax
	mov	$DATA, %edi
	mov	$5000, %ecx
	cld
	rep insb
	mov	$DATA, %esi
	mov	$5000, %ecx
	rep outsw
	mov	$DEVICE, %ebx
	movq	$1, LOG(%rbx)
1:	jmp	1b
