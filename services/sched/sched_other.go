//go:build !linux

package sched

// Prompt does nothing here.
func Prompt() error { return nil }

// Steady does nothing here.
func Steady() error { return nil }
