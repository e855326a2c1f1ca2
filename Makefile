# Comet for Caddy. `make` lists the targets; Go is all they need to be there
# (testdata/setup installs, on Debian, what the tests use besides).

GO ?= go

# golangci-lint is built once and kept in .bin/, a folder for each version.
GOLANGCI_VERSION := v2.15.0
GOLANGCI := .bin/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

# For `make test`: more flags for go test, such as GOTESTFLAGS=-v.
GOTESTFLAGS ?=

# How many tests of a package run at once: most of them wait for most of their time.
PARALLEL := 4

# For `make fuzz`: how long each fuzz test runs.
FUZZTIME ?= 30s

# The race detector is written in C. Looked at when the tests begin, after setup.
RACE = $(shell [ "$$($(GO) env CGO_ENABLED)" = 1 ] && echo -race)

# For `make bench`: a folder with the source of a bare loop to measure by, and more
# flags, such as BENCHFLAGS="-n 1000 --rounds 1".
YARDSTICK ?=
BENCHFLAGS ?=

# The tests of what holding promises, which run again with held requests on their
# goroutines instead of parked.
ON_GOROUTINES := Hold|Held|Promise|HTTP|Exit|Reload|Limit|Numbered|Storm|Log|Pipelined|Leave

.PHONY: help run build test setup gofmt fmt vet lint fuzz bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

run: ## serve Caddyfile.example at http://localhost:8080/
	$(GO) run ./cmd/comet run --config Caddyfile.example

build: ## build the binary ./comet
	$(GO) build -o comet ./cmd/comet

test: setup gofmt vet lint ## check the code and run all tests with the race detector
	$(GO) test $(RACE) -parallel $(PARALLEL) -timeout 40m $(GOTESTFLAGS) ./...
	COMET_PARKING=off $(GO) test $(RACE) -parallel $(PARALLEL) -timeout 40m $(GOTESTFLAGS) -run '$(ON_GOROUTINES)' ./cmd/comet

setup: ## install what the tests use, where that can be done
	@testdata/setup

gofmt: ## check that the code is formatted
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not formatted by gofmt:"; echo "$$files"; exit 1; }

fmt: $(GOLANGCI) ## format the code, imports in order
	$(GOLANGCI) fmt

vet: ## run go vet
	$(GO) vet ./...

lint: $(GOLANGCI) ## run golangci-lint with .golangci.yml
	$(GOLANGCI) run

$(GOLANGCI):
	GOBIN="$(CURDIR)/$(@D)" $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

fuzz: ## run each fuzz test for FUZZTIME (30s)
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file func; do \
		name=$${func#func }; \
		echo "$$name in $$(dirname "$$file")"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" || exit 1; \
	done

bench: ## measure side by side with other servers, into docs/benchmarks.md (an hour or so)
	@testdata/setup bench
	$(GO) run ./cmd/comet-bench compare --out docs/benchmarks.md $(if $(YARDSTICK),--yardstick $(YARDSTICK)) $(BENCHFLAGS)

clean: ## remove what was built here
	rm -rf .bin comet
