//go:build !linux

package uplink

import (
	"errors"

	"github.com/hashicorp/go-hclog"
)

func openTAP(tapSpec, func([]byte), hclog.Logger) (Uplink, error) {
	return nil, errors.New("TAP devices exist on Linux only: use gateway:… instead")
}
