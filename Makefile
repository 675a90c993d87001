# Understudy. `make demo` shows the main job; `make test` proves it.

GO      ?= go
export CGO_ENABLED ?= 0
TOOLS   := build/tools
MODULES := proto services primary secondary arbiter deploy
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/understudy-ft/understudy/services/cli.release=$(VERSION)

.PHONY: all build tools proto lint guest demo test clean help

all: build

help: ## say what the targets do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## static binaries into bin/
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./primary ./secondary ./arbiter ./deploy/gateway ./deploy/demo

tools: $(TOOLS)/.done ## pinned development tools into build/tools

$(TOOLS)/.done: deploy/tools/go.mod deploy/tools/go.sum proto/go.mod
	@mkdir -p $(TOOLS)
	GOWORK=off GOBIN=$(CURDIR)/$(TOOLS) $(GO) -C deploy/tools install tool
	GOWORK=off GOBIN=$(CURDIR)/$(TOOLS) $(GO) -C proto install tool
	@touch $@

proto: tools ## generate Go code from the .proto files
	$(TOOLS)/buf lint
	$(TOOLS)/buf generate

clean: ## remove what was built (downloads stay in build/cache)
	rm -rf bin build/tools build/guest
