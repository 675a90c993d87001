# Runs forever, counting in memory.
	.include "rv64.inc"
	li	t0, RESULT
1:	ld	t1, 0(t0)
	addi	t1, t1, 1
	sd	t1, 0(t0)
	j	1b
