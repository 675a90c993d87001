// Package docs tests the documentation: what it names is there. It holds no code
// of its own.
package docs
