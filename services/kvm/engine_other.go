//go:build !linux || !amd64

package kvm

import (
	"context"
	"fmt"
	"runtime"

	"github.com/understudy-ft/understudy/services/vmm"
)

// Engine is a vmm.Engine that no program for this platform can make.
type Engine struct{ vmm.Engine }

func unavailable() error {
	return fmt.Errorf("%w: the kvm engine runs on linux/amd64, this is %s/%s", ErrUnavailable, runtime.GOOS, runtime.GOARCH)
}

// New returns ErrUnavailable.
func New(Config) (*Engine, error) { return nil, unavailable() }

// Stop does nothing.
func (*Engine) Stop(vmm.Stop) {}

// Features returns nothing.
func (*Engine) Features() []string { return nil }

// CPU returns nothing.
func (*Engine) CPU() ([]byte, error) { return nil, unavailable() }

// CheckHost returns ErrUnavailable.
func (*Engine) CheckHost([]byte) error { return unavailable() }

// CheckHost returns ErrUnavailable.
func CheckHost([]byte) error { return unavailable() }

// Available returns ErrUnavailable.
func Available() error { return unavailable() }

// Probe returns ErrUnavailable.
func Probe(context.Context) (Speed, error) { return Speed{}, unavailable() }
