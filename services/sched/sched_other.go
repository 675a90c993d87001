//go:build !linux

package sched

func prompt() error { return nil }

func coarse() {}

// Steady does nothing here.
func Steady() error { return nil }
