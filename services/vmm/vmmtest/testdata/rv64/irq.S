# Sleeps until LINE interrupts; each time acknowledges it at the device and
# logs how many there were.
	.include "rv64.inc"
	la	t0, handler
	csrw	stvec, t0
	li	s2, PLIC
	li	t0, 1
	sw	t0, 4*LINE(s2)		# priority
	li	s3, PLIC+0x2000		# enables of context 0
	li	t0, 1<<LINE
	sw	t0, 0(s3)
	li	s3, PLIC+0x200000
	sw	zero, 0(s3)		# threshold
	li	t0, 1<<9
	csrs	sie, t0
	li	s0, DEVICE
	li	s1, 0
	sd	s1, LOG(s0)		# ready
	csrsi	sstatus, 2
1:	wfi
	j	1b
	.align	2
handler:
	lw	t1, 4(s3)		# claim
	beqz	t1, 1f
	li	t0, 1
	sw	t0, ACK(s0)
	addi	s1, s1, 1
	sd	s1, LOG(s0)
	sw	t1, 4(s3)
1:	sret
