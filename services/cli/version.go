package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// release is set by the linker for released builds:
// -X github.com/understudy-ft/understudy/services/cli.release=v1.2.3
var release string

// Version names the build: the release, or else the source revision, and the
// Go version and platform.
func Version() string {
	v := release
	if v == "" {
		v = "devel"
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" && len(s.Value) >= 12 {
					v += "-" + s.Value[:12]
				}
			}
		}
	}
	return fmt.Sprintf("%s (%s, %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
