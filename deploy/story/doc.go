// Package story tells what happens to a protected VM while its hosts are lost,
// and checks the promise: clients load the guest's Redis over connections that
// are never opened again, and in the end every acknowledged write is read back.
// The demo and the lab tell their stories with it.
//
// Boot, Begin, Lose, Protected, Calm, Resync and End are the steps, called by one
// goroutine in the order of the story. Each prints what it saw; an error ends
// the story, and Close what it still runs.
package story
