# Accesses of all kinds where there is nothing, each of which may trap and is
# skipped, then an access across the end of a page of the device, then a log of 1.
	.include "rv64.inc"
	la	t0, handler
	csrw	stvec, t0
	li	s0, DEVICE+0x10000
	.option	norvc
	lb	t1, 0(s0)
	lh	t1, 1(s0)
	lw	t1, 3(s0)
	ld	t1, 5(s0)
	sb	t1, 0(s0)
	sh	t1, 1(s0)
	li	s0, DEVICE+0x10ffb
	ld	t1, 0(s0)
	sd	t1, 2(s0)
	li	s0, 0x7ffffffc		# into memory from below
	ld	t1, 0(s0)
	sd	t1, 0(s0)
	li	s0, -4
	ld	t1, 0(s0)
	sd	t1, 0(s0)
	amoadd.d t1, t1, (s0)
	lr.d	t1, (s0)
	li	s0, DEVICE
	amoadd.d t1, t1, (s0)
	csrr	t1, 0xfff
	ecall
	li	t0, 1
	sd	t0, LOG(s0)
1:	j	1b
	.align	2
handler:
	csrr	t2, sepc
	addi	t2, t2, 4
	csrw	sepc, t2
	sret
