module github.com/understudy-ft/understudy/secondary

go 1.26.0

replace github.com/understudy-ft/understudy/proto => ../proto

replace github.com/understudy-ft/understudy/services => ../services
