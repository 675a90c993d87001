// Package vmmtest says what every vmm.Engine must do, as tests that run against
// each engine with the same small guest programs, written for each instruction
// set in testdata: testdata/assemble.sh makes the .hex files from the .S files.
//
// A program is loaded at Target.Code and entered with its arguments. It finds
// a Device in its address space, whose accesses are counted, and stops the
// machine as its platform does.
package vmmtest
