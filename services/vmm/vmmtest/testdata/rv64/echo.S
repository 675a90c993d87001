# a0 rounds of device accesses: logs the round, reads the count and mixes it
# into a sum, which it leaves at RESULT.
	.include "rv64.inc"
	li	s0, DEVICE
	li	s1, 0
	li	s2, 1
	li	s3, 31
1:	sd	s1, LOG(s0)
	mul	s2, s2, s3
	ld	t0, COUNT(s0)
	add	s2, s2, t0
	addi	s1, s1, 1
	bne	s1, a0, 1b
	li	t0, RESULT
	sd	s2, 0(t0)
	stop	OFF
