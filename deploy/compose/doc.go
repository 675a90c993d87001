// Package compose is the deployment with Docker: compose files for one machine
// that plays several hosts and for one host a role (docs/compose.md), and the
// test of the former.
package compose
