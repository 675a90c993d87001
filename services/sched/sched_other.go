//go:build !linux

package sched

func prompt() error { return nil }

// Steady does nothing here.
func Steady() error { return nil }
