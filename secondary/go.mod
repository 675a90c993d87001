module github.com/understudy-ft/understudy/secondary

go 1.26.0

replace github.com/understudy-ft/understudy/proto => ../proto

replace github.com/understudy-ft/understudy/services => ../services

require (
	github.com/understudy-ft/understudy/proto v0.0.0
	github.com/understudy-ft/understudy/services v0.0.0
)
