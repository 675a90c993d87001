//go:build race

package sim

// A run is one goroutine: the race detector only makes it slower.
const raceDetector = true
