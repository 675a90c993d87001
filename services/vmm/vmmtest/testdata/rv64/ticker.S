# Logs the time; if a0 is not 0, sleeps for that many ticks in between.
	.include "rv64.inc"
	la	t0, handler
	csrw	stvec, t0
	li	s0, DEVICE
	li	t0, 1<<5
	csrs	sie, t0
	li	s2, -1
	csrw	0x14d, s2		# stimecmp
1:	rdtime	t0
	sd	t0, LOG(s0)
	beqz	a0, 1b
	add	t0, t0, a0
	li	s1, 0
	csrw	0x14d, t0
2:	csrci	sstatus, 2
	bnez	s1, 1b
	wfi				# wakes with interrupts off, too
	csrsi	sstatus, 2
	j	2b
	.align	2
handler:
	addi	s1, s1, 1
	csrw	0x14d, s2
	sret
