# Understudy. `make demo` shows the main job; `make test` proves it.

GO      ?= go
TOOLS   := build/tools
GUEST   := build/guest/rv64
MODULES := proto services primary secondary arbiter deploy
PACKAGES := $(MODULES:%=./%/...)
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/understudy-ft/understudy/services/cli.release=$(VERSION)

.PHONY: all help build tools proto guest demo check lint test race soak e2e guest-x86 lab lab-test images up down compose-test bench clean

all: build

help: ## say what the targets do
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build: ## static binaries into bin/
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./primary ./secondary ./arbiter ./deploy/gateway ./deploy/certs ./deploy/understudyctl ./deploy/checks ./deploy/demo ./deploy/lab

guest: ## a Debian riscv64 guest with Redis into build/guest/rv64
	@$(GO) run ./deploy/guest --arch rv64 --out $(GUEST)

demo: build guest ## the whole story: boot, protect, kill, take over, kill again
	@bin/demo $(DEMO)

tools: $(TOOLS)/.done ## pinned development tools into build/tools

$(TOOLS)/.done: deploy/tools/go.mod deploy/tools/go.sum proto/go.mod
	@mkdir -p $(TOOLS)
	GOWORK=off GOBIN=$(CURDIR)/$(TOOLS) $(GO) -C deploy/tools install tool
	GOWORK=off GOBIN=$(CURDIR)/$(TOOLS) $(GO) -C proto install tool
	@touch $@

proto: tools ## generate Go code from the .proto files
	$(TOOLS)/buf lint
	$(TOOLS)/buf generate

lint: tools ## formatting, vet, staticcheck, buf lint, generated code is current
	@test -z "$$(gofmt -l $(MODULES))" || { gofmt -l $(MODULES); echo 'not gofmt-clean: run gofmt -w on these'; exit 1; }
	$(GO) vet $(PACKAGES)
	$(TOOLS)/staticcheck $(PACKAGES)
	$(TOOLS)/buf lint
	deploy/check-generated

# The race detector needs cgo. It slows the interpreter and emulated machines too
# much, and the simulation, which has one goroutine, for nothing: these run
# without it. What runs whole deployments has targets of its own.
PLAIN := services/(rv64|machine|sim|kvm|vmm)|deploy/(guest|compose)
WHOLE := deploy/(e2e|lab)

race: build guest ## unit tests, under the race detector where it helps
	CGO_ENABLED=1 $(GO) test -race -timeout 15m $$($(GO) list $(PACKAGES) | grep -vE '$(PLAIN)|$(WHOLE)')
	SEEDS=2000 $(GO) test -timeout 15m $$($(GO) list $(PACKAGES) | grep -E '$(PLAIN)')

SEEDS ?= 20000
soak: ## many seeds of the simulation: make soak SEEDS=100000
	SEEDS=$(SEEDS) $(GO) test -count=1 -timeout 0 -v ./services/sim

e2e: build guest bin/etcd ## real processes, a real guest, real kills
	$(GO) test -count=1 -timeout 20m -v ./deploy/e2e/...

guest-x86: ## a Debian amd64 guest with Redis into build/guest/x86
	@$(GO) run ./deploy/guest --arch amd64 --out build/guest/x86

lab: build guest-x86 ## the same story on KVM: emulated hosts, a network cut, a host's death (docs/lab.md)
	@bin/lab $(LAB)

lab-test: build ## a smaller lab, and the engine's own tests on an emulated host
	@command -v qemu-system-x86_64 >/dev/null || { echo 'SKIPPED, NOT TESTED: the lab needs qemu-system-x86_64 (package qemu-system-x86)'; exit 0; }; \
	$(GO) run ./deploy/guest --arch amd64 --out build/guest/x86 && $(GO) test -count=1 -timeout 60m -v ./deploy/lab/...

COMPOSE ?= docker-compose

bin/etcd bin/etcdctl &: deploy/tools/etcd/go.mod deploy/tools/etcd/go.sum
	@mkdir -p bin
	GOWORK=off CGO_ENABLED=0 $(GO) -C deploy/tools/etcd build -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/etcd go.etcd.io/etcd/server/v3
	GOWORK=off CGO_ENABLED=0 $(GO) -C deploy/tools/etcd build -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/etcdctl go.etcd.io/etcd/etcdctl/v3

images: build guest bin/etcd bin/etcdctl ## FROM scratch images of everything; nothing is pulled
	deploy/images/build bin $(GUEST)

up: images ## one machine plays several hosts, with Docker (docs/compose.md)
	$(COMPOSE) -f deploy/compose/docker-compose.yml -p understudy up -d

down: ## end what make up started; volumes stay
	$(COMPOSE) -f deploy/compose/docker-compose.yml -p understudy down

# Its images have a tag of their own and go with it.
compose-test: ## lose each part of the Docker deployment under load; skipped without an engine
	@docker info >/dev/null 2>&1 || { echo 'SKIPPED, NOT TESTED: no Docker engine answers'; exit 0; }; \
	export IMAGE_TAG=test-$$$$; \
	trap 'docker image rm $$(docker image ls --format "{{.Repository}}:{{.Tag}}" --filter reference="understudy/*:$$IMAGE_TAG") >/dev/null' EXIT; \
	$(MAKE) --no-print-directory images && COMPOSE_TEST=1 $(GO) test -count=1 -timeout 40m -v ./deploy/compose/

test: lint race e2e lab-test compose-test ## everything

bench: build guest ## measurements into docs/bench: make bench BENCH='--part loads --rounds 5'
	$(GO) run ./deploy/bench --ledger docs/bench/ledger.md --plots docs/bench $(BENCH)

clean: ## remove what was built (downloads stay in build/cache)
	rm -rf bin build/tools build/guest
