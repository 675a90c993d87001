# a0 rounds of a generator that fills DATA, then a power-off. All that it
# leaves depends on each step before.
	.include "rv64.inc"
	li	t0, 1<<13		# floating point on
	csrs	sstatus, t0
	li	s0, 42
	li	s1, 6364136223846793005
	li	s2, DATA
	fcvt.d.l fa1, zero
1:	mul	s0, s0, s1
	addi	s0, s0, 0x555
	srli	t0, s0, 46
	andi	t0, t0, -8
	add	t0, t0, s2
	ld	t1, 0(t0)
	xor	t1, t1, s0
	sd	t1, 0(t0)
	amoadd.w t1, s0, (t0)
	xor	s0, s0, t1
	fcvt.d.l fa0, s0
	fadd.d	fa1, fa1, fa0
	fmv.x.d	t1, fa1
	xor	s0, s0, t1
	addi	a0, a0, -1
	bnez	a0, 1b
	li	t0, RESULT
	sd	s0, 0(t0)
	stop	OFF
